"""User and group maps of user namespaces (user_namespaces(7)), and namespaces that exist only to map a mount."""

from __future__ import annotations

import os
from collections.abc import Sequence

from barque.sys import namespaces, process

#: (first id inside, first id outside, how many)
Range = tuple[int, int, int]


def write_maps(pid: int, uids: Sequence[Range], gids: Sequence[Range]) -> None:
    """Set the maps of the user namespace of ``pid``, once and for all. Needs CAP_SETUID/CAP_SETGID above it."""
    for name, ranges in (("uid_map", uids), ("gid_map", gids)):
        text = "".join(f"{inside} {outside} {size}\n" for inside, outside, size in ranges)
        fd = os.open(f"/proc/{pid}/{name}", os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, text.encode())
        finally:
            os.close(fd)


def write_own_maps(pid: int, uids: Sequence[Range], gids: Sequence[Range]) -> None:
    """As :func:`write_maps` without those capabilities: one id each, the caller's own, and no setgroups(2) there."""
    fd = os.open(f"/proc/{pid}/setgroups", os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, b"deny")
    finally:
        os.close(fd)
    write_maps(pid, uids, gids)


def user_namespace(uids: Sequence[Range], gids: Sequence[Range]) -> int:
    """A descriptor of a new user namespace with these maps and no process, for mount_setattr(2) with ATTR_IDMAP."""
    wait, release = os.pipe2(os.O_CLOEXEC)
    child = process.clone(namespaces.CLONE_NEWUSER)
    if child is None:
        os.close(release)
        os.read(wait, 1)
        os._exit(0)
    try:
        pid = _pid_in_proc(child.pidfd)
        write_maps(pid, uids, gids)
        return os.open(f"/proc/{pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.close(wait)
        os.close(release)
        process.kill_and_reap(child)


def _pid_in_proc(pidfd: int) -> int:
    """The process's number in /proc, which may be of another PID namespace than the one that clone told it for."""
    with open(f"/proc/self/fdinfo/{pidfd}") as info:
        return next(int(line.split()[1]) for line in info if line.startswith("Pid:"))
