"""The id maps of a user namespace, whoever makes it: root writes them; an ordinary user may map its own ids alone, and
has newuidmap(1) and newgidmap(1) for the ranges that /etc/subuid and /etc/subgid give it.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from barque.oci.runtime_spec import IDMapping, Linux
from barque.runtime.failure import RuntimeFailure
from barque.sys import fds, idmap, process

_DIRECTORIES = ("/usr/bin", "/bin", "/usr/local/bin", "/usr/sbin", "/sbin")
_EXEC_FAILED = 127
_MAX_OUTPUT = 4096


def rootless() -> bool:
    """Whether the caller is an ordinary user, whose only rights are those in user namespaces of its own."""
    return os.geteuid() != 0


def write_maps(pid: int, linux: Linux) -> None:
    """Set the maps of ``pid``'s new user namespace. Raises RuntimeFailure or OSError."""
    uids, gids = (_ranges(side) for side in (linux.uid_mappings, linux.gid_mappings))
    if not rootless():
        idmap.write_maps(pid, uids, gids)
        return
    alone = [_is_own(uids, os.geteuid()), _is_own(gids, os.getegid())]
    if all(alone):
        idmap.write_own_maps(pid, uids, gids)
        return
    _run_helper("newuidmap", pid, uids)
    _run_helper("newgidmap", pid, gids)


def _ranges(side: Sequence[IDMapping]) -> list[idmap.Range]:
    return [(item.container_id, item.host_id, item.size) for item in side]


def _is_own(ranges: Sequence[idmap.Range], own: int) -> bool:
    return len(ranges) == 1 and ranges[0][1:] == (own, 1)


def _run_helper(name: str, pid: int, ranges: Sequence[idmap.Range]) -> None:
    path = next((f"{folder}/{name}" for folder in _DIRECTORIES if os.access(f"{folder}/{name}", os.X_OK)), None)
    if path is None:
        raise RuntimeFailure("user namespace", path=name, detail=f"{name} is not installed: without it an ordinary "
                                                                 "user can map its own user and group id alone")
    reader, writer = os.pipe2(os.O_CLOEXEC)
    child = process.clone(0)
    if child is None:
        try:
            fds.place((writer,), 2)
            process.reset_signals()
            process.Program([name, str(pid), *(str(number) for item in ranges for number in item)], []).execve(path)
        finally:
            os._exit(_EXEC_FAILED)
    os.close(writer)
    try:
        code = process.wait(child.pidfd)
        if code:
            said = os.read(reader, _MAX_OUTPUT).decode(errors="replace").strip()
            raise RuntimeFailure("user namespace", path=path, detail=f"{name} failed with exit status {code}: {said}")
    finally:
        os.close(reader)
        os.close(child.pidfd)
