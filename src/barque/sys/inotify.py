"""Changes of files as events on a descriptor (inotify(7))."""

from __future__ import annotations

import os
from struct import Struct
from typing import NamedTuple

from barque.sys.libc import check, libc

MODIFY = 0x2
ATTRIB = 0x4
CLOSE_WRITE = 0x8
MOVED_FROM = 0x40
MOVED_TO = 0x80
CREATE = 0x100
DELETE = 0x200
DELETE_SELF = 0x400
MOVE_SELF = 0x800
#: Reported whatever was asked for: events were lost; the watch is gone.
QUEUE_OVERFLOW = 0x4000
IGNORED = 0x8000

_CLOEXEC = 0o2000000
_NONBLOCK = 0o4000
_HEADER = Struct("iIII")
_BUFFER = 64 << 10


class Event(NamedTuple):
    """``watch`` is what :meth:`Inotify.add` returned (-1 with QUEUE_OVERFLOW), ``name`` an entry of the directory."""

    watch: int
    mask: int
    cookie: int
    name: bytes


class Inotify:
    """One non-blocking, close-on-exec inotify descriptor, for a poll or an event loop. Methods raise OSError."""

    def __init__(self) -> None:
        self._fd = check(libc.inotify_init1(_CLOEXEC | _NONBLOCK), "inotify_init1")

    def fileno(self) -> int:
        return self._fd

    def add(self, path: str | bytes, mask: int) -> int:
        """Watch ``path`` for ``mask``; a second call for the same file replaces its mask."""
        return check(libc.inotify_add_watch(self._fd, os.fsencode(path), mask), "inotify_add_watch", path)

    def remove(self, watch: int) -> None:
        check(libc.inotify_rm_watch(self._fd, watch), "inotify_rm_watch")

    def read(self) -> list[Event]:
        """What has happened since the last call; empty if nothing has."""
        try:
            data = os.read(self._fd, _BUFFER)
        except BlockingIOError:
            return []
        events = []
        offset = 0
        while offset < len(data):
            watch, mask, cookie, length = _HEADER.unpack_from(data, offset)
            offset += _HEADER.size
            events.append(Event(watch, mask, cookie, data[offset:offset + length].rstrip(b"\0")))
            offset += length
        return events

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
