"""Walking and deleting directory trees that strangers made: by descriptors, of any depth, never through links.

Names come from containers: a tree may be deeper than PATH_MAX, have more levels than there are descriptors, or change
while it is walked.
"""

from __future__ import annotations

import errno
import os
import secrets
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
#: Levels whose descriptor is kept while walking; above them ".." is opened again.
_KEPT_LEVELS = 128
#: Directories deeper than this are moved up before they are emptied.
_DEEP = 64


@dataclass
class _Level:
    fd: int
    identity: tuple[int, int]
    subdirectories: list[bytes]


def walk(root_fd: int, keep: Callable[[bytes], bool] | None = None
         ) -> Iterator[tuple[int, tuple[bytes, ...], list[bytes], list[bytes]]]:
    """Yield ``(fd, path, directories, others)`` for ``root_fd`` and each directory below, parents first.

    ``fd`` is good until the next step and ``path`` are the components below the root; names are sorted. What vanishes
    meanwhile is passed over; a tree that is moved about meanwhile raises OSError(ESTALE) rather than leave the root.
    ``keep`` is asked for each path below the root; what it does not want is as if it were not there.
    """
    levels = [_level(os.open(".", _DIRECTORY, dir_fd=root_fd))]
    path: list[bytes] = []
    try:
        yield levels[0].fd, (), *_list(levels[0], path, keep)
        while levels:
            level = levels[-1]
            if not level.subdirectories:
                _leave(levels)
                if path:
                    path.pop()
                continue
            name = level.subdirectories.pop()
            try:
                child = _level(os.open(name, _DIRECTORY, dir_fd=level.fd))
            except OSError as error:
                if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                    continue
                raise
            levels.append(child)
            path.append(name)
            if len(levels) > _KEPT_LEVELS:
                _close(levels[-_KEPT_LEVELS - 1])
            yield child.fd, tuple(path), *_list(child, path, keep)
    finally:
        for level in levels:
            _close(level)


def _level(fd: int) -> _Level:
    info = os.fstat(fd)
    return _Level(fd, (info.st_dev, info.st_ino), [])


def _close(level: _Level) -> None:
    if level.fd >= 0:
        os.close(level.fd)
        level.fd = -1


def _list(level: _Level, path: list[bytes],
          keep: Callable[[bytes], bool] | None) -> tuple[list[bytes], list[bytes]]:
    directories: list[bytes] = []
    others: list[bytes] = []
    with os.scandir(level.fd) as entries:
        for entry in entries:
            (directories if entry.is_dir(follow_symlinks=False) else others).append(os.fsencode(entry.name))
    if keep is not None:
        prefix = b"".join(part + b"/" for part in path)
        directories = [name for name in directories if keep(prefix + name)]
        others = [name for name in others if keep(prefix + name)]
    directories.sort()
    others.sort()
    level.subdirectories = directories[::-1]
    return directories, others


def _leave(levels: list[_Level]) -> None:
    child = levels.pop()
    if levels and levels[-1].fd < 0:
        parent = _level(os.open("..", _DIRECTORY, dir_fd=child.fd))
        if parent.identity != levels[-1].identity:
            _close(parent)
            _close(child)
            raise OSError(errno.ESTALE, "directory was moved while it was walked")
        levels[-1].fd = parent.fd
    _close(child)


def disk_usage(root_fd: int) -> int:
    """Bytes of the contents of all files below ``root_fd``, each inode counted once."""
    total = 0
    seen: set[tuple[int, int]] = set()
    for fd, _, _, others in walk(root_fd):
        for name in others:
            try:
                info = os.stat(name, dir_fd=fd, follow_symlinks=False)
            except FileNotFoundError:
                continue
            if info.st_nlink > 1:
                if (info.st_dev, info.st_ino) in seen:
                    continue
                seen.add((info.st_dev, info.st_ino))
            if stat.S_ISREG(info.st_mode) or stat.S_ISLNK(info.st_mode):
                total += info.st_size
    return total


def remove_tree(parent_fd: int, name: bytes | str) -> None:
    """Delete ``name`` below ``parent_fd`` with all that it contains; fine when there is none. Raises OSError.

    A level deeper than a limit is first moved up into the top directory, so that descriptors do not run out.
    """
    try:
        top = os.open(name, _DIRECTORY, dir_fd=parent_fd)
    except FileNotFoundError:
        return
    except OSError as error:
        if error.errno not in (errno.ENOTDIR, errno.ELOOP):
            raise
        os.unlink(name, dir_fd=parent_fd)
        return
    try:
        while _empty(top, top, 0):
            pass
    finally:
        os.close(top)
    os.rmdir(name, dir_fd=parent_fd)


def _empty(fd: int, top: int, depth: int) -> bool:
    """Empty one directory; True when something was moved up to ``top`` and is still to be deleted there."""
    with os.scandir(fd) as entries:
        listed = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries]
    moved = False
    for name, is_directory in listed:
        if not is_directory:
            os.unlink(name, dir_fd=fd)
        elif depth >= _DEEP:
            os.rename(name, f".deep-{secrets.token_hex(8)}", src_dir_fd=fd, dst_dir_fd=top)
            moved = True
        else:
            child = os.open(name, _DIRECTORY, dir_fd=fd)
            try:
                moved = _empty(child, top, depth + 1) or moved
            finally:
                os.close(child)
            os.rmdir(name, dir_fd=fd)
    return moved
