"""Changes of files through one pollable descriptor (inotify(7)); what happened is not told, only that something did."""

from __future__ import annotations

import os

from barque.sys.libc import check, libc

_IN_MODIFY = 0x2
_IN_ATTRIB = 0x4
_IN_DELETE_SELF = 0x400
_IN_MOVE_SELF = 0x800
_FLAGS = os.O_CLOEXEC | os.O_NONBLOCK


class Watch:
    """Readable (``fileno``) when one of the files was written to, renamed, unlinked. The owner closes it."""

    def __init__(self) -> None:
        self._fd = check(libc.inotify_init1(_FLAGS), "inotify_init1")

    def fileno(self) -> int:
        return self._fd

    def add(self, path: str) -> None:
        """Watch what is at ``path`` now; raises OSError."""
        check(libc.inotify_add_watch(self._fd, os.fsencode(path), _IN_MODIFY | _IN_ATTRIB | _IN_DELETE_SELF | _IN_MOVE_SELF),
              "inotify_add_watch", path)

    def drain(self) -> None:
        """Forget what has happened so far."""
        try:
            while os.read(self._fd, 65536):
                pass
        except BlockingIOError:
            return

    def close(self) -> None:
        os.close(self._fd)
