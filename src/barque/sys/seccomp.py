"""Installing seccomp filters (seccomp(2), linux/seccomp.h)."""

from __future__ import annotations

import ctypes
import os
from functools import cache

from barque.sys.bpf import INSTRUCTION
from barque.sys.libc import check, libc, number, syscall

SET_MODE_FILTER = 1
GET_ACTION_AVAIL = 2

FLAG_TSYNC = 1 << 0
FLAG_LOG = 1 << 1
FLAG_SPEC_ALLOW = 1 << 2
FLAG_NEW_LISTENER = 1 << 3
FLAG_TSYNC_ESRCH = 1 << 4
FLAG_WAIT_KILLABLE_RECV = 1 << 5

RET_KILL_PROCESS = 0x80000000
RET_KILL_THREAD = 0x00000000
RET_TRAP = 0x00030000
RET_ERRNO = 0x00050000
RET_USER_NOTIF = 0x7FC00000
RET_TRACE = 0x7FF00000
RET_LOG = 0x7FFC0000
RET_ALLOW = 0x7FFF0000

#: Offsets in struct seccomp_data; an argument is 64 bits wide.
DATA_NR = 0
DATA_ARCH = 4
DATA_ARGS = 16

_PR_SET_NO_NEW_PRIVS = 38


class _Program(ctypes.Structure):
    """struct sock_fprog"""

    _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_char_p)]


def load(program: bytes, flags: int = 0) -> int | None:
    """Put ``program`` (array of struct sock_filter) on the calling thread, for good.

    Needs CAP_SYS_ADMIN in the own user namespace or :func:`no_new_privileges` before. Returns the listener's fd
    (O_CLOEXEC) with FLAG_NEW_LISTENER, else ``None``. Raises OSError: EINVAL for a program or flag that the kernel
    does not take, EBUSY for a second listener, ESRCH when FLAG_TSYNC met a thread with other filters.
    """
    if flags & FLAG_TSYNC and flags & FLAG_NEW_LISTENER:
        # Alone, TSYNC answers the id of the thread in the way, which a listener's fd could be mistaken for.
        flags |= FLAG_TSYNC_ESRCH
    fprog = _Program(len(program) // INSTRUCTION.size, program)
    result = syscall(number("seccomp"), SET_MODE_FILTER, flags, ctypes.byref(fprog), what="seccomp")
    if flags & FLAG_NEW_LISTENER:
        return result
    if result:
        raise OSError(3, f"thread {result} has seccomp filters of its own")
    return None


def supports(action: int) -> bool:
    """Whether this kernel knows the return value ``action`` (one of RET_*, without data)."""
    value = ctypes.c_uint32(action)
    try:
        syscall(number("seccomp"), GET_ACTION_AVAIL, 0, ctypes.byref(value))
    except OSError:
        return False
    return True


@cache
def supports_flag(flag: int) -> bool:
    """Whether this kernel takes the filter flag; nothing is installed.

    A null program is the documented probe: EFAULT tells that the flags were accepted, EINVAL that they were not.
    """
    extra = FLAG_NEW_LISTENER if flag == FLAG_WAIT_KILLABLE_RECV else 0
    libc.syscall(ctypes.c_long(number("seccomp")), ctypes.c_long(SET_MODE_FILTER), ctypes.c_long(flag | extra), None)
    return os.strerror(ctypes.get_errno()) == os.strerror(14)


def no_new_privileges() -> None:
    """Set no_new_privs on the calling thread: exec never grants what the caller has not (PR_SET_NO_NEW_PRIVS)."""
    check(libc.prctl(_PR_SET_NO_NEW_PRIVS, ctypes.c_ulong(1), ctypes.c_ulong(0), ctypes.c_ulong(0), ctypes.c_ulong(0)),
          "prctl(PR_SET_NO_NEW_PRIVS)")
