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


def frugal() -> None:
    """Give what is freed back to the kernel soon, and blocks from 128 KiB at once: glibc would raise its thresholds as
    such blocks come and go."""
    one_arena()
    _set(_M_MMAP_THRESHOLD, 128 << 10)
    _set(_M_TRIM_THRESHOLD, 256 << 10)


def trim() -> None:
    """Give free pages back to the kernel."""
    if hasattr(libc, "malloc_trim"):
        libc.malloc_trim(0)
