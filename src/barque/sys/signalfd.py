"""Signals as events on a descriptor (signalfd(2)): no handler runs, so no system call is ever interrupted by one."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable

from barque.sys.libc import check, libc

_SFD_CLOEXEC = 0o2000000
_SFD_NONBLOCK = 0o4000
_INFO_SIZE = 128


def open_for(signals: Iterable[int]) -> int:
    """Block ``signals`` for this thread and return a non-blocking, close-on-exec descriptor that reports them.

    The mask is inherited by fork and exec: a child has to reset it.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    bits = 0
    for number in signals:
        bits |= 1 << (number - 1)
    mask = bits.to_bytes(128, "little")    # sigset_t of glibc: 1024 bits
    return check(libc.signalfd(-1, mask, _SFD_CLOEXEC | _SFD_NONBLOCK), "signalfd")


def drain(fd: int) -> None:
    """Take what has been reported; several signals of one number are one report."""
    try:
        while os.read(fd, 16 * _INFO_SIZE):
            pass
    except BlockingIOError:
        pass
