"""glibc's allocator (mallopt(3), malloc_trim(3)): where another C library has no such calls, nothing happens."""

from __future__ import annotations

from barque.sys.libc import libc

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8


def _set(parameter: int, value: int) -> None:
    if hasattr(libc, "mallopt"):
        libc.mallopt(parameter, value)


def one_arena() -> None:
    """Let threads that are started from now on share the first one's heap.

    An arena for each costs megabytes, and while one thread at a time runs Python they hardly wait for each other.
    """
    _set(_M_ARENA_MAX, 1)


def keep_large_buffers(size: int) -> None:
    """Reuse freed buffers of up to ``size`` bytes instead of giving each back to the kernel and faulting it in again.

    For processes that move much data through buffers of 64 KiB and more.
    """
    _set(_M_MMAP_THRESHOLD, size)
    _set(_M_TRIM_THRESHOLD, 4 * size)
    _set(_M_ARENA_MAX, 2)


def trim() -> None:
    """Give free pages back to the kernel."""
    if hasattr(libc, "malloc_trim"):
        libc.malloc_trim(0)
