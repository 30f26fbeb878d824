"""Settings of glibc's allocator (mallopt(3))."""

from __future__ import annotations

from barque.sys.libc import libc

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8


def keep_large_buffers(size: int) -> None:
    """Reuse freed buffers of up to ``size`` bytes instead of giving each back to the kernel and faulting it in again.

    For processes that move much data through buffers of 64 KiB and more. Other C libraries have no such settings.
    """
    mallopt = getattr(libc, "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, size)
        mallopt(_M_TRIM_THRESHOLD, 4 * size)
        mallopt(_M_ARENA_MAX, 2)
