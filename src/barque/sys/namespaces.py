"""Namespaces (namespaces(7)): making, joining, and a short stay in one for a child that is to be born there."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from barque.sys.libc import check, libc

CLONE_NEWTIME = 0x00000080
CLONE_NEWNS = 0x00020000
CLONE_NEWCGROUP = 0x02000000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000

#: The OCI's type names; and the links in /proc/PID/ns.
FLAGS = {"mount": CLONE_NEWNS, "uts": CLONE_NEWUTS, "ipc": CLONE_NEWIPC, "user": CLONE_NEWUSER, "pid": CLONE_NEWPID,
         "network": CLONE_NEWNET, "cgroup": CLONE_NEWCGROUP, "time": CLONE_NEWTIME}
LINKS = {"mount": "mnt", "uts": "uts", "ipc": "ipc", "user": "user", "pid": "pid", "network": "net",
         "cgroup": "cgroup", "time": "time"}


def unshare(flags: int) -> None:
    check(libc.unshare(flags), "unshare")


def setns(fd: int, flags: int) -> None:
    """Enter the namespace ``fd``; or, with a pidfd, those of that process that ``flags`` name, all or none."""
    check(libc.setns(fd, flags), "setns")


def open_namespace(path: str, kind: str) -> int:
    """Open the namespace at ``path`` for joining; :func:`setns` refuses it if it is of another kind."""
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise OSError(error.errno, f"{os.strerror(error.errno or 0)} in open", f"{path} ({kind} namespace)") from None


@contextmanager
def visiting(joins: Sequence[tuple[str, int]]) -> Iterator[None]:
    """Have the namespaces ``joins`` (kind, namespace fd or pidfd) for the length of the block, then one's own again.

    For kinds that a process can leave again: not mount or user. With "pid" and "time" it is the children that are born
    there. Whoever is born within the block must call nothing of this generator: it never leaves the block.
    """
    entered: list[tuple[int, int]] = []
    try:
        for kind, fd in joins:
            home = os.open(f"/proc/self/ns/{LINKS[kind]}", os.O_RDONLY | os.O_CLOEXEC)
            entered.append((home, FLAGS[kind]))
            setns(fd, FLAGS[kind])
        yield
    finally:
        for home, flag in reversed(entered):
            setns(home, flag)
            os.close(home)


@contextmanager
def new_time(offsets: Mapping[str, tuple[int, int]]) -> Iterator[None]:
    """Have children born into a new time namespace for the length of the block.

    ``offsets``: clock ("monotonic", "boottime") -> (seconds, nanoseconds). The namespace takes them only while nobody
    is in it, so the maker, who does not enter it itself, writes them.
    """
    home = os.open("/proc/self/ns/time", os.O_RDONLY | os.O_CLOEXEC)
    try:
        prepare_time(offsets)
        yield
    finally:
        setns(home, CLONE_NEWTIME)
        os.close(home)


def prepare_time(offsets: Mapping[str, tuple[int, int]]) -> None:
    """Have the caller's children born into a new time namespace from now on; ``offsets`` as for :func:`new_time`."""
    unshare(CLONE_NEWTIME)
    fd = os.open("/proc/self/timens_offsets", os.O_WRONLY | os.O_CLOEXEC)
    try:
        for clock, (seconds, nanoseconds) in offsets.items():
            os.write(fd, f"{clock} {seconds} {nanoseconds}".encode())
    finally:
        os.close(fd)
