"""What ``tmpcopyup`` asks for: a file system that begins with a copy of the directory that it is about to cover.

Names, links and devices come from the image: everything is opened by descriptor, without following links.
"""

from __future__ import annotations

import errno
import os
import stat

_CHUNK = 1 << 24
#: The attribute is not for this kind of file, or for file systems of this kind.
_NOT_KEPT = (errno.EOPNOTSUPP, errno.EPERM)


def copy_tree(source: int, target: int) -> None:
    """Copy the entries of directory ``source`` (O_PATH will do) into ``target`` (likewise), and its owner."""
    status = os.fstat(source)
    directory = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=target)
    try:
        os.chown(directory, status.st_uid, status.st_gid)
        _copy_entries(source, directory)
    finally:
        os.close(directory)


def _copy_entries(source: int, target: int) -> None:
    listed = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=source)
    try:
        for name in os.listdir(listed):
            _copy(listed, target, name)
    finally:
        os.close(listed)


def _copy(source: int, target: int, name: str) -> None:
    status = os.stat(name, dir_fd=source, follow_symlinks=False)
    kind = stat.S_IFMT(status.st_mode)
    if kind == stat.S_IFDIR:
        os.mkdir(name, 0o700, dir_fd=target)
    elif kind == stat.S_IFLNK:
        os.symlink(os.readlink(name, dir_fd=source), name, dir_fd=target)
    elif kind != stat.S_IFREG:
        os.mknod(name, status.st_mode, status.st_rdev, dir_fd=target)
    if kind in (stat.S_IFDIR, stat.S_IFREG):
        _copy_content(source, target, name, kind)
    os.chown(name, status.st_uid, status.st_gid, dir_fd=target, follow_symlinks=False)
    if kind != stat.S_IFLNK:
        # After the owner, whose change takes set-id bits away.
        os.chmod(name, stat.S_IMODE(status.st_mode), dir_fd=target)
    os.utime(name, ns=(status.st_atime_ns, status.st_mtime_ns), dir_fd=target, follow_symlinks=False)


def _copy_content(source: int, target: int, name: str, kind: int) -> None:
    flags = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | (os.O_DIRECTORY if kind == stat.S_IFDIR else 0)
    fd = os.open(name, os.O_RDONLY | flags, dir_fd=source)
    try:
        making = 0 if kind == stat.S_IFDIR else os.O_CREAT | os.O_EXCL
        copy = os.open(name, (os.O_WRONLY if making else os.O_RDONLY) | making | flags, 0o600, dir_fd=target)
        try:
            if making:
                while os.sendfile(copy, fd, None, _CHUNK):
                    pass
            else:
                _copy_entries(fd, copy)
            _copy_attributes(fd, copy)
        finally:
            os.close(copy)
    finally:
        os.close(fd)


def _copy_attributes(source: int, target: int) -> None:
    try:
        names = os.listxattr(source)
    except OSError as error:
        if error.errno != errno.EOPNOTSUPP:
            raise
        return
    for name in names:
        try:
            os.setxattr(target, name, os.getxattr(source, name))
        except OSError as error:
            if error.errno not in _NOT_KEPT:
                raise
