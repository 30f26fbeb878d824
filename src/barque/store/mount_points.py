"""The layer between an image and a container's writable layer: empty places for what every container has mounted.

Were they made when they are mounted over, they would be part of what the container changed: of ``diff``, of ``commit``,
of a build's steps. ``/.dockerenv`` is how programs find out that they run in a container.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence

from barque.store.mend import Layers, inherit, opened

_DIRECTORIES = (b"dev/pts", b"dev/shm", b"proc", b"sys")
_FILES = (b".dockerenv", b"dev/console", b"etc/hostname", b"etc/hosts", b"etc/resolv.conf")
_LINKS = {b"etc/mtab": b"/proc/mounts"}
_MODE = 0o755


def make_mount_points(fs: str, lower: Sequence[str]) -> None:
    """Make in the empty directory ``fs`` what the layers ``lower``, topmost first, do not have. Raises OSError."""
    with opened(fs) as top, Layers(lower) as layers:
        below: set[bytes] = {b""}
        for path in (*_DIRECTORIES, *_FILES, *_LINKS):
            if _kind(layers, path) is None and _make_parents(top, layers, path, below):
                _make(top, path)
        # Last and from the inside out: making something in a directory changes its times.
        for path in sorted(below, reverse=True):
            inherit(top, layers, path)


def _kind(layers: Layers, path: bytes) -> int | None:
    """The type of what is there (inode(7)), or None."""
    found = layers.find(path)
    if found is None:
        return None
    try:
        return stat.S_IFMT(os.fstat(found).st_mode)
    finally:
        os.close(found)


def _make_parents(top: int, layers: Layers, path: bytes, below: set[bytes]) -> bool:
    """Whether there is a directory to make ``path`` in; those that the layers have too are added to ``below``."""
    names = path.split(b"/")[:-1]
    for end in range(1, len(names) + 1):
        parent = b"/".join(names[:end])
        kind = _kind(layers, parent)
        if kind not in (None, stat.S_IFDIR):
            return False
        try:
            _make_directory(top, parent)
        except FileExistsError:
            continue
        if kind is not None:
            below.add(parent)
    return True


def _make(top: int, path: bytes) -> None:
    if path in _LINKS:
        os.symlink(_LINKS[path], path, dir_fd=top)
    elif path in _DIRECTORIES:
        _make_directory(top, path)
    else:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _MODE, dir_fd=top)
        try:
            os.fchmod(fd, _MODE)    # whatever the umask
        finally:
            os.close(fd)


def _make_directory(top: int, path: bytes) -> None:
    os.mkdir(path, _MODE, dir_fd=top)
    os.chmod(path, _MODE, dir_fd=top)
