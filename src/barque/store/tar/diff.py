"""From the upper directory of an overlay to a layer: the opposite of ``apply``, and the list of changes in it."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator

from barque.store.data import segments
from barque.store.mend import Layers
from barque.store.tar.directories import OPAQUE, is_whiteout
from barque.store.tar.reader import (
    BLOCK_DEVICE,
    CHAR,
    DIRECTORY,
    FIFO,
    HARDLINK,
    REGULAR,
    SYMLINK,
    Entry,
)
from barque.store.tar.writer import Writer
from barque.store.tree import walk
from barque.sys.xattr import get_all

_TYPES = {stat.S_IFREG: REGULAR, stat.S_IFLNK: SYMLINK, stat.S_IFCHR: CHAR, stat.S_IFBLK: BLOCK_DEVICE,
          stat.S_IFDIR: DIRECTORY, stat.S_IFIFO: FIFO}
#: What belongs to the host or to overlayfs rather than to the file.
_HOST_ATTRIBUTES = ("trusted.", "security.selinux", "security.ima", "security.evm", "system.nfs4_acl")
#: What st_blocks counts in (stat(2)).
_STAT_BLOCK = 512
#: The map of a file with more pieces would be longer than readers of archives, ours included, take.
_MOST_SEGMENTS = 20_000
#: Kinds of change in docker's API.
MODIFIED, ADDED, DELETED = 0, 1, 2


def write_diff(upper: int, write: Callable[[bytes], object]) -> int:
    """Write the layer that makes of the lower layers what the directory ``upper`` shows over them.

    Returns the bytes of file contents. The same tree gives the same bytes; sockets are left out. Raises OSError.
    """
    writer = Writer(write)
    links: dict[tuple[int, int], bytes] = {}
    size = 0
    for fd, path, _, others in walk(upper):
        prefix = b"".join(part + b"/" for part in path)
        if path:
            write_directory(writer, fd, prefix)
        if is_opaque(fd):
            writer.add(Entry(prefix + b".wh..wh..opq", REGULAR))
        for name in others:
            size += write_member(writer, fd, prefix, name, links)
    writer.close()
    return size


def write_tree(writer: Writer, directory: int, name: bytes) -> None:
    """Write a directory and all in it under ``name``; the directory itself is left out where that is empty."""
    links: dict[tuple[int, int], bytes] = {}
    for fd, path, _, others in walk(directory):
        prefix = b"".join(part + b"/" for part in ((name, *path) if name else path))
        if prefix:
            write_directory(writer, fd, prefix)
        for member in others:
            write_member(writer, fd, prefix, member, links)


def write_directory(writer: Writer, fd: int, name: bytes) -> None:
    """Write the directory behind ``fd`` itself, as ``name``, which ends with a slash."""
    writer.add(_entry(os.fstat(fd), name, fd, b"."))


def write_member(writer: Writer, fd: int, prefix: bytes, name: bytes, links: dict[tuple[int, int], bytes]) -> int:
    """Write what is not a directory as ``prefix + name``; returns the bytes of its content."""
    info = os.lstat(name, dir_fd=fd)
    if is_whiteout(info):
        writer.add(Entry(prefix + b".wh." + name, REGULAR))
        return 0
    if stat.S_ISSOCK(info.st_mode):
        return 0
    if info.st_nlink > 1:
        first = links.setdefault((info.st_dev, info.st_ino), prefix + name)
        if first != prefix + name:
            entry = _entry(info, prefix + name, fd, name)
            entry.type, entry.link, entry.size, entry.xattrs = HARDLINK, first, 0, {}
            writer.add(entry)
            return 0
    if not stat.S_ISREG(info.st_mode):
        writer.add(_entry(info, prefix + name, fd, name))
        return 0
    content = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=fd)
    try:
        info = os.fstat(content)
        entry = _entry(info, prefix + name, fd, name)
        holes = writer.sparse and info.st_blocks * _STAT_BLOCK < info.st_size
        parts = list(segments(content, info.st_size)) if holes else []
        if holes and len(parts) <= _MOST_SEGMENTS:
            writer.add_sparse(entry, content, parts)
        else:
            os.lseek(content, 0, os.SEEK_SET)
            writer.add(entry, content)
    finally:
        os.close(content)
    return info.st_size


def _entry(info: os.stat_result, name: bytes, dir_fd: int, own_name: bytes) -> Entry:
    kind = stat.S_IFMT(info.st_mode)
    entry = Entry(name, _TYPES[kind], mode=stat.S_IMODE(info.st_mode), uid=info.st_uid, gid=info.st_gid,
                  mtime=info.st_mtime_ns)
    if kind == stat.S_IFREG:
        entry.size = info.st_size
    elif kind == stat.S_IFLNK:
        entry.link = os.readlink(own_name, dir_fd=dir_fd)
    elif kind in (stat.S_IFCHR, stat.S_IFBLK):
        entry.major, entry.minor = os.major(info.st_rdev), os.minor(info.st_rdev)
    entry.xattrs = {key: value for key, value in get_all(dir_fd, own_name).items()
                    if not key.startswith(_HOST_ATTRIBUTES)}
    return entry


def is_opaque(fd: int) -> bool:
    """Whether a directory hides what the layers below have in it."""
    # "x" is what newer kernels write where a directory holds only whiteouts by attribute: not opaque.
    return get_all(fd, b".").get(OPAQUE) == b"y"


def changes(upper: int, layers: Layers) -> Iterator[tuple[int, bytes]]:
    """``(kind, path)`` of what ``upper`` changes over ``layers``, sorted by directory; paths are absolute."""
    for fd, path, _, others in walk(upper):
        prefix = b"/" + b"".join(part + b"/" for part in path)
        if path:
            yield _exists(layers, prefix), prefix[:-1]
        for name in others:
            if is_whiteout(os.lstat(name, dir_fd=fd)):
                yield DELETED, prefix + name
            else:
                yield _exists(layers, prefix + name), prefix + name


def _exists(layers: Layers, path: bytes) -> int:
    found = layers.find(path)
    if found is None:
        return ADDED
    os.close(found)
    return MODIFIED
