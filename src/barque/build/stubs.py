"""What mounting leaves in a layer: empty files and directories that were made only to be mounted over."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Sequence

from barque.store.mend import Layers
from barque.sys.beneath import RESOLVE_BENEATH, RESOLVE_NO_SYMLINKS, open_in_root

_INSIDE = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS


def remove_stubs(upper: str, lower: Sequence[str], paths: Iterable[str]) -> None:
    """Take the mount points ``paths`` out of the writable layer ``upper`` where the layers below have none of them.

    A directory that is there only because of one goes too. Nothing may be mounted from the layer. Raises OSError.
    """
    top = os.open(upper, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with Layers(lower) as layers:
            for path in paths:
                _remove(top, layers, os.fsencode(path).strip(b"/"))
    finally:
        os.close(top)


def _remove(top: int, layers: Layers, path: bytes) -> None:
    while path:
        parent, _, name = path.rpartition(b"/")
        try:
            fd = open_in_root(top, parent or b".", os.O_RDONLY | os.O_DIRECTORY, resolve=_INSIDE)
        except OSError:
            return  # not there, or reached by a link: not made for the mount
        try:
            if not _removed(fd, name, layers, path):
                return
        except OSError:
            return
        finally:
            os.close(fd)
        path = parent


def _removed(fd: int, name: bytes, layers: Layers, path: bytes) -> bool:
    info = os.lstat(name, dir_fd=fd)
    below = layers.find(path)
    try:
        if stat.S_ISDIR(info.st_mode):
            if below is not None and not _same(info, os.fstat(below)):
                return False
            os.rmdir(name, dir_fd=fd)  # fails where something is in it
            return True
        if below is None and stat.S_ISREG(info.st_mode) and info.st_size == 0:
            os.unlink(name, dir_fd=fd)
            return True
        return False
    finally:
        if below is not None:
            os.close(below)


def _same(upper: os.stat_result, lower: os.stat_result) -> bool:
    """Copied up for what was made in it, and otherwise as it was."""
    return (upper.st_mode, upper.st_uid, upper.st_gid) == (lower.st_mode, lower.st_uid, lower.st_gid)
