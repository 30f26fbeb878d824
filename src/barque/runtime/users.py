"""Who a container's process is: docker's ``user[:group]`` against the passwd and group files of its own root.

The files belong to the image, so they are read as hostile: beneath the root, no links at the end, no FIFO or device,
a size cap, and a number is never looked up as a name (CVE-2024-9676, CVE-2026-46680).
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator, Sequence

import msgspec

from barque.runtime.failure import RuntimeFailure
from barque.sys.beneath import open_in_root

#: (uid_t)-1 means "leave as is" to the kernel, so it is nobody's.
MAX_ID = 2**32 - 2
MAX_FILE_BYTES = 10 * 1024 * 1024


class Identity(msgspec.Struct, frozen=True):
    """Numbers to become, and the home directory (empty when the passwd file does not know the user)."""

    uid: int
    gid: int
    groups: tuple[int, ...]
    home: str


class _Passwd(msgspec.Struct, frozen=True):
    name: str
    uid: int
    gid: int
    home: str


class _Group(msgspec.Struct, frozen=True):
    name: str
    gid: int
    members: tuple[str, ...]


def resolve(root_fd: int, user: str, groups: Sequence[str] = ()) -> Identity:
    """The identity for ``user[:group]`` (names or numbers; empty: uid 0) plus additional ``groups``.

    Without a group it is the user's own from passwd, and the groups that list the user are added; with one, none of
    those are, as docker does. A uid that passwd does not know has gid 0. The gid is one of the groups too, or a file
    that is closed to the group would open to a process that changes its gid (CVE-2022-36109). Raises
    RuntimeFailure(stage "user") with dockerd's texts.
    """
    name, _, group = user.partition(":")
    entry = _find_user(root_fd, name)
    uid = _number(name) if entry is None and name else (entry.uid if entry else 0)
    gid = entry.gid if entry else 0
    listed = list(_groups(root_fd)) if group or groups or entry else []
    additional: list[int] = []
    if group:
        gid = _find_group(listed, group)
    elif entry:
        additional = [item.gid for item in listed if entry.name in item.members]
    additional += [_find_group(listed, item) for item in groups]
    return Identity(uid, gid, tuple(dict.fromkeys([gid, *additional])), entry.home if entry else "")


def home_of(root_fd: int, uid: int) -> str:
    """The home directory of ``uid`` in the container's passwd file; empty when there is none. Raises as resolve()."""
    return next((entry.home for entry in _users(root_fd) if entry.uid == uid), "")


def _find_user(root_fd: int, name: str) -> _Passwd | None:
    """The entry of ``name``; ``None`` for a number that has none; raises for a name that has none."""
    if not name:
        return next((entry for entry in _users(root_fd) if entry.uid == 0), None)
    if _is_number(name):
        uid = _number(name)
        return next((entry for entry in _users(root_fd) if entry.uid == uid), None)
    for entry in _users(root_fd):
        if entry.name == name:
            return entry
    raise RuntimeFailure("user", errno=errno.EINVAL, path=name,
                         detail=f"unable to find user {name}: no matching entries in passwd file")


def _find_group(listed: Sequence[_Group], name: str) -> int:
    if _is_number(name):
        return _number(name)
    for entry in listed:
        if entry.name == name:
            return entry.gid
    raise RuntimeFailure("user", errno=errno.EINVAL, path=name,
                         detail=f"unable to find group {name}: no matching entries in group file")


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit()


def _number(text: str) -> int:
    # A length check first: int() of a million digits takes quadratic time.
    if len(text) > 10 or int(text) > MAX_ID:
        raise RuntimeFailure("user", errno=errno.EINVAL, path=text[:32],
                             detail=f"uids and gids must be in range 0-{MAX_ID}")
    return int(text)


def _users(root_fd: int) -> Iterator[_Passwd]:
    for fields in _lines(root_fd, "etc/passwd"):
        if len(fields) >= 4 and _valid(fields[2]) and _valid(fields[3]):
            yield _Passwd(fields[0], int(fields[2]), int(fields[3]), fields[5] if len(fields) > 5 else "")


def _groups(root_fd: int) -> Iterator[_Group]:
    for fields in _lines(root_fd, "etc/group"):
        if len(fields) >= 3 and _valid(fields[2]):
            members = tuple(filter(None, fields[3].split(","))) if len(fields) > 3 else ()
            yield _Group(fields[0], int(fields[2]), members)


def _valid(text: str) -> bool:
    return _is_number(text) and len(text) <= 10 and int(text) <= MAX_ID


def _lines(root_fd: int, path: str) -> Iterator[list[str]]:
    for line in _read(root_fd, path).split(b"\n"):
        text = line.strip().decode("utf-8", "surrogateescape")
        if text and not text.startswith("#"):
            yield text.split(":")


def _read(root_fd: int, path: str) -> bytes:
    """The content of a regular file in the container; empty when there is none. Raises RuntimeFailure for all else."""
    try:
        fd = open_in_root(root_fd, path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY)
    except FileNotFoundError:
        return b""
    except OSError as error:
        raise RuntimeFailure("user", syscall="openat2", errno=error.errno or 0, path="/" + path,
                             detail=f"cannot read /{path} of the container: {os.strerror(error.errno or 0)}") from None
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise RuntimeFailure("user", path="/" + path, detail=f"/{path} of the container is not a regular file")
        if status.st_size > MAX_FILE_BYTES:
            raise RuntimeFailure("user", path="/" + path, detail=f"/{path} of the container is too large")
        with os.fdopen(os.dup(fd), "rb") as file:
            return file.read(MAX_FILE_BYTES)
    finally:
        os.close(fd)
