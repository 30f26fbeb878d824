"""glibc's allocator (mallopt(3), malloc_trim(3)): where another C library has no such calls, nothing happens."""

from __future__ import annotations

from barque.sys.libc import libc

_M_ARENA_MAX = -8


def one_arena() -> None:
    """Let threads that are started from now on share the first one's heap.

    An arena for each costs megabytes, and while one thread at a time runs Python they hardly wait for each other.
    """
    if hasattr(libc, "mallopt"):
        libc.mallopt(_M_ARENA_MAX, 1)


def trim() -> None:
    """Give free pages back to the kernel."""
    if hasattr(libc, "malloc_trim"):
        libc.malloc_trim(0)
