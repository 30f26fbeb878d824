"""The C library through ctypes: calls that raise OSError, and raw system calls where glibc has no wrapper."""

from __future__ import annotations

import ctypes
import os

#: ``use_errno`` gives each thread its own copy of errno, so a signal handler or another thread cannot spoil it.
libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long

MACHINE = os.uname().machine

#: Numbers from 424 on are the same on every architecture (Linux 5.x, asm-generic/unistd.h).
OPEN_TREE = 428
MOVE_MOUNT = 429
FSOPEN = 430
FSCONFIG = 431
FSMOUNT = 432
FSPICK = 433
PIDFD_OPEN = 434
CLONE3 = 435
CLOSE_RANGE = 436
OPENAT2 = 437
PIDFD_GETFD = 438
MOUNT_SETATTR = 442

_PER_ARCH = {
    "x86_64": {"pivot_root": 155, "setns": 308, "seccomp": 317, "keyctl": 250, "bpf": 321, "mknodat": 259,
               "execveat": 322, "capget": 125, "capset": 126, "ioprio_set": 251, "sched_setattr": 314,
               "set_mempolicy": 238, "pidfd_send_signal": 424, "fchmodat2": 452},
    "aarch64": {"pivot_root": 41, "setns": 268, "seccomp": 277, "keyctl": 219, "bpf": 280, "mknodat": 33,
                "execveat": 281, "capget": 90, "capset": 91, "ioprio_set": 30, "sched_setattr": 274,
                "set_mempolicy": 237, "pidfd_send_signal": 424, "fchmodat2": 452},
}


def number(name: str) -> int:
    """The number of the system call ``name`` on this machine; raises OSError(ENOSYS) where it is not known."""
    try:
        return _PER_ARCH[MACHINE][name]
    except KeyError:
        raise OSError(38, f"no system call number for {name} on {MACHINE}") from None


def check(result: int, what: str = "", path: str | bytes | None = None) -> int:
    """Pass a C return value through, or raise the OSError that errno says."""
    if result < 0:
        errno = ctypes.get_errno()
        text = os.strerror(errno) + (f" in {what}" if what else "")
        raise OSError(errno, text, os.fsdecode(path)) if path is not None else OSError(errno, text)
    return result


def syscall(nr: int, *args: object, what: str = "", path: str | bytes | None = None) -> int:
    """Make system call ``nr`` with ints and bytes; ints go as longs, so that pointers and flags keep all their bits."""
    return check(libc.syscall(ctypes.c_long(nr), *(ctypes.c_long(a) if isinstance(a, int) else a for a in args)),
                 what, path)
