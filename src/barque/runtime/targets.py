"""Finding, and where it is missing making, the place in a container's root that something is to be mounted on.

All of it by descriptors: the tree belongs to an image or to a container that shares it and changes it meanwhile, so
no path is ever looked at twice.
"""

from __future__ import annotations

import errno
import os
import stat

from barque.sys.beneath import RESOLVE_IN_ROOT, RESOLVE_NO_MAGICLINKS, RESOLVE_NO_SYMLINKS, open_in_root

_MAX_LINKS = 40
_FIND = os.O_PATH | os.O_CLOEXEC


def find(root: int, path: str, *, links: bool = True) -> int:
    """An O_PATH descriptor of ``path`` in ``root``; raises FileNotFoundError. Without ``links`` any link is ELOOP."""
    resolve = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS | (0 if links else RESOLVE_NO_SYMLINKS)
    return open_in_root(root, path, os.O_PATH, resolve=resolve)


def ensure_directory(root: int, path: str, *, links: bool = True, mode: int = 0o755) -> int:
    """As :func:`find`, making missing directories."""
    try:
        return find(root, path, links=links)
    except FileNotFoundError:
        return _make(root, path, directory=True, mode=mode)


def ensure_file(root: int, path: str) -> int:
    """As :func:`find`, making an empty file and missing directories above it."""
    try:
        return find(root, path)
    except FileNotFoundError:
        return _make(root, path, directory=False, mode=0o755)


def ensure_parent(root: int, path: str) -> tuple[int, str]:
    """(descriptor of the directory that holds ``path``, made if it is missing; the last name, not followed)."""
    parent, _, name = path.rstrip("/").rpartition("/")
    if not name or name in (".", ".."):
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL), path)
    return ensure_directory(root, parent or "/"), name


def is_directory(fd: int) -> bool:
    return stat.S_ISDIR(os.fstat(fd).st_mode)


def _make(root: int, path: str, *, directory: bool, mode: int) -> int:
    """Walk ``path`` name by name, making what is missing; links, dangling ones too, are followed within the root."""
    names = _names(path)
    trail = [os.open(".", _FIND | os.O_DIRECTORY, dir_fd=root)]
    links = 0
    try:
        while names:
            name = names.pop(0)
            if name == "..":
                if len(trail) > 1:
                    os.close(trail.pop())
                continue
            fd = _step(trail[-1], name, directory or bool(names), mode)
            status = os.fstat(fd)
            if not stat.S_ISLNK(status.st_mode):
                trail.append(fd)
                continue
            target = os.readlink(b"", dir_fd=fd)
            os.close(fd)
            links += 1
            if links > _MAX_LINKS:
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
            if target.startswith(b"/"):
                while len(trail) > 1:
                    os.close(trail.pop())
            names[:0] = _names(os.fsdecode(target))
        return trail.pop()
    finally:
        for fd in trail:
            os.close(fd)


def _names(path: str) -> list[str]:
    return [name for name in path.split("/") if name not in ("", ".")]


def _step(parent: int, name: str, directory: bool, mode: int) -> int:
    """Open ``name`` in ``parent`` without following it, after making it if it was missing."""
    try:
        return os.open(name, _FIND | os.O_NOFOLLOW, dir_fd=parent)
    except FileNotFoundError:
        pass
    try:
        if directory:
            os.mkdir(name, mode, dir_fd=parent)
        else:
            os.close(os.open(name, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, mode, dir_fd=parent))
    except FileExistsError:
        # Made by another meanwhile: whatever it is, it is looked at below.
        pass
    return os.open(name, _FIND | os.O_NOFOLLOW, dir_fd=parent)
