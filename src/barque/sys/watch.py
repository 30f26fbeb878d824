"""One inotify(7) watch as one pollable descriptor."""

from __future__ import annotations

import os

from barque.sys.libc import check, libc

_IN_MODIFY = 0x2


def watch_changes(path: str) -> int:
    """An fd (O_CLOEXEC, non-blocking) that becomes readable when the file changes, and once when it goes away."""
    fd = check(libc.inotify_init1(os.O_CLOEXEC | os.O_NONBLOCK), "inotify_init1")
    try:
        check(libc.inotify_add_watch(fd, os.fsencode(path), _IN_MODIFY), "inotify_add_watch", path)
    except OSError:
        os.close(fd)
        raise
    return fd
