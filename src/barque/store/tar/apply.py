"""Unpacking the members of an archive into a directory, confined to it.

A layer is unpacked into a directory of its own in overlayfs's form: ``.wh.name`` becomes a character device 0:0,
``.wh..wh..opq`` an attribute of its directory. The caller's umask must be 0.
"""

from __future__ import annotations

import errno
import os
import stat

from barque.store.tar.directories import Directories, Directory, clean, is_whiteout, set_opaque
from barque.store.tar.errors import Refused
from barque.store.tar.messages import ForeignLink, Limits
from barque.store.tar.reader import (
    BLOCK_DEVICE,
    CHAR,
    DIRECTORY,
    FIFO,
    HARDLINK,
    REGULAR,
    SYMLINK,
    Entry,
    Stream,
    entries,
)
from barque.sys.fsync import start_writeback
from barque.sys.xattr import set_at

_WHITEOUT = b".wh."
_WHITEOUT_META = b".wh..wh."
_OPAQUE_MARKER = b".wh..wh..opq"
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_MAX_TIME = (1 << 63) - 1  # nanoseconds; what Go can hold, and docker sets the epoch outside of it
_MAX_ID = (1 << 32) - 2    # the last id means "unchanged" to chown(2)
_MAX_MAJOR, _MAX_MINOR = (1 << 12) - 1, (1 << 20) - 1
_WRITEBACK = 8 << 20  # bytes of a big file after which the disk is told to begin
_SMALL = 64 << 10     # bytes of a file that are rather copied once more than handed on as a view
_DEFAULT_ACL = "system.posix_acl_default"
_DEVICES = {CHAR: stat.S_IFCHR, BLOCK_DEVICE: stat.S_IFBLK, FIFO: stat.S_IFIFO}


class Extractor:
    """Unpacks one stream into ``root_fd``. The result fields are good after :meth:`run`."""

    def __init__(self, root_fd: int, limits: Limits, whiteouts: bool = True) -> None:
        self.size = 0
        self.count = 0
        self.cut = False
        self._directories = Directories(root_fd)
        self._foreign: dict[bytes, bytes] = {}
        self._limits = limits
        self._whiteouts = whiteouts
        self._owner = os.geteuid(), os.getegid()
        # Set once a directory passes its group or ACL on to what is made in it: modes and owners are set always then.
        self._inheriting = False

    @property
    def implicit_dirs(self) -> list[bytes]:
        return sorted(self._directories.implicit)

    @property
    def foreign_links(self) -> list[ForeignLink]:
        return [ForeignLink(path, target) for path, target in self._foreign.items()]

    def run(self, stream: Stream) -> None:
        """Raises TarError, BadStream, OSError; what was unpacked by then stays for the caller to remove."""
        try:
            for entry in entries(stream, self._limits):
                self.count += 1
                if self.count > self._limits.entries:
                    raise Refused(f"archive has more than {self._limits.entries} entries")
                self._apply(stream, entry)
            self._directories.finish()
        finally:
            self._directories.close()

    def _apply(self, stream: Stream, entry: Entry) -> None:
        path = clean(entry.name)
        parent_path, _, name = path.rpartition(b"/")
        if self._whiteouts and path.startswith(_WHITEOUT_META) and path != _OPAQUE_MARKER:
            stream.skip(entry.data)  # aufs's own book-keeping, in very old images
            return
        if self._whiteouts and name.startswith(_WHITEOUT):
            stream.skip(entry.data)
            self._whiteout(parent_path, name)
            return
        if not 0 <= entry.uid <= _MAX_ID or not 0 <= entry.gid <= _MAX_ID:
            raise Refused(f"archive/tar: invalid owner {entry.uid}:{entry.gid} of {os.fsdecode(path)!r}")
        if not 0 <= entry.mtime <= _MAX_TIME:
            entry.mtime = 0
        if not path:
            self._root(entry)
        elif entry.type == REGULAR:
            self._regular(stream, entry, self._directories.get(parent_path), name)
        elif entry.type == DIRECTORY:
            self._directory(entry, self._directories.get(parent_path), name)
        elif entry.type == HARDLINK:
            self._hardlink(entry, parent_path, name)
        elif entry.type == SYMLINK or entry.type in _DEVICES:
            self._special(entry, self._directories.get(parent_path), name)
        else:
            raise Refused(f"unhandled tar header type {entry.type[0]}")

    def _root(self, entry: Entry) -> None:
        if entry.type != DIRECTORY:
            raise Refused(f"archive/tar: the root is not a directory but of type {entry.type!r}")
        self._describe(entry, self._directories.root.fd, b".", b"")

    def _claim(self, parent: Directory, name: bytes) -> None:
        """Make way for an entry at a name that is taken."""
        self._directories.remove(parent, name, _join(parent, name))

    def _regular(self, stream: Stream, entry: Entry, parent: Directory, name: bytes) -> None:
        if self._foreign:
            self._foreign.pop(_join(parent, name), None)
        mode = entry.mode & 0o7777
        try:
            fd = os.open(name, _CREATE, mode, dir_fd=parent.fd)
        except FileExistsError:
            self._claim(parent, name)
            fd = os.open(name, _CREATE, mode, dir_fd=parent.fd)
        try:
            if entry.segments is not None:
                self._sparse(stream, entry, fd)
            elif entry.data >= _WRITEBACK:
                _copy_big(stream, fd, entry.data)
            elif entry.data:
                _copy_small(stream, fd, entry.data)
            self.size += entry.size
            if self.size > self._limits.size:
                raise Refused(f"archive has more than {self._limits.size} bytes")
            if self._inheriting or (entry.uid, entry.gid) != self._owner:
                os.fchown(fd, entry.uid, entry.gid)
                if self._inheriting or mode & 0o6000:
                    os.fchmod(fd, mode)
            for key, value in entry.xattrs.items():
                _attribute(fd, key, value)
            os.utime(fd, ns=(entry.mtime, entry.mtime))
        finally:
            os.close(fd)

    @staticmethod
    def _sparse(stream: Stream, entry: Entry, fd: int) -> None:
        for offset, length in entry.segments or ():
            os.lseek(fd, offset, os.SEEK_SET)
            stream.copy(length, lambda view: os.write(fd, view))
        os.ftruncate(fd, entry.size)

    def _directory(self, entry: Entry, parent: Directory, name: bytes) -> None:
        path = _join(parent, name)
        if self._foreign:
            self._foreign.pop(path, None)
        try:
            os.mkdir(name, 0o700, dir_fd=parent.fd)
        except FileExistsError:
            info = os.lstat(name, dir_fd=parent.fd)
            if not stat.S_ISDIR(info.st_mode):
                self._claim(parent, name)
                os.mkdir(name, 0o700, dir_fd=parent.fd)
                if self._whiteouts and is_whiteout(info):
                    set_opaque(parent.fd, name)
        self._describe(entry, parent.fd, name, path)

    def _describe(self, entry: Entry, dir_fd: int, name: bytes, path: bytes) -> None:
        """Give a directory what its entry says; the rest is done when nothing is put into it any more."""
        os.chown(name, entry.uid, entry.gid, dir_fd=dir_fd, follow_symlinks=False)
        os.chmod(name, entry.mode & 0o7777, dir_fd=dir_fd)
        self._inheriting = self._inheriting or bool(entry.mode & stat.S_ISGID) or _DEFAULT_ACL in entry.xattrs
        late = {}
        if entry.xattrs:
            fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=dir_fd)
            try:
                for key, value in entry.xattrs.items():
                    if key == _DEFAULT_ACL:
                        late[key] = value
                    else:
                        _attribute(fd, key, value)
            finally:
                os.close(fd)
        self._directories.implicit.discard(path)
        self._directories.described[path] = entry.mtime, late

    def _hardlink(self, entry: Entry, parent_path: bytes, name: bytes) -> None:
        try:
            target = clean(entry.link)
        except Refused:
            raise Refused(f'invalid hardlink "{os.fsdecode(entry.link)}" -> "{os.fsdecode(entry.name)}"') from None
        target_parent, _, target_name = target.rpartition(b"/")
        if not target_name:
            raise Refused(f'invalid hardlink "{os.fsdecode(entry.link)}" -> "{os.fsdecode(entry.name)}"')
        source = self._find(target_parent, target_name)
        parent = self._directories.get(parent_path)
        path = _join(parent, name)
        if source is None:
            real = self._foreign.get(target, target)
            if _exists(parent.fd, name):
                self._claim(parent, name)
            self._foreign[path] = real
            return
        try:
            self._foreign.pop(path, None)
            try:
                os.link(target_name, name, src_dir_fd=source, dst_dir_fd=parent.fd, follow_symlinks=False)
            except FileExistsError:
                if _same(source, target_name, parent.fd, name):
                    return  # a link to itself
                self._claim(parent, name)
                os.link(target_name, name, src_dir_fd=source, dst_dir_fd=parent.fd, follow_symlinks=False)
        finally:
            os.close(source)

    def _find(self, parent: bytes, name: bytes) -> int | None:
        """A descriptor of the directory that has ``name``; None where this layer does not have it."""
        directory = self._directories.existing(parent)
        if directory is None or not _exists(directory.fd, name):
            return None
        return os.dup(directory.fd)

    def _special(self, entry: Entry, parent: Directory, name: bytes) -> None:
        if self._foreign:
            self._foreign.pop(_join(parent, name), None)
        try:
            self._make_special(entry, parent.fd, name)
        except FileExistsError:
            self._claim(parent, name)
            self._make_special(entry, parent.fd, name)
        os.chown(name, entry.uid, entry.gid, dir_fd=parent.fd, follow_symlinks=False)
        if entry.type != SYMLINK:
            os.chmod(name, entry.mode & 0o7777, dir_fd=parent.fd)
        for key, value in entry.xattrs.items():
            if not key.startswith("trusted."):
                try:
                    set_at(parent.fd, name, key, value)
                except OSError as error:
                    if error.errno not in (errno.ENOTSUP, errno.EPERM):
                        raise
        os.utime(name, ns=(entry.mtime, entry.mtime), dir_fd=parent.fd, follow_symlinks=False)

    @staticmethod
    def _make_special(entry: Entry, dir_fd: int, name: bytes) -> None:
        if entry.type == SYMLINK:
            os.symlink(entry.link, name, dir_fd=dir_fd)
            return
        if not 0 <= entry.major <= _MAX_MAJOR or not 0 <= entry.minor <= _MAX_MINOR:
            raise Refused(f"archive/tar: invalid device {entry.major}:{entry.minor}")
        device = os.makedev(entry.major, entry.minor) if entry.type != FIFO else 0
        os.mknod(name, _DEVICES[entry.type] | (entry.mode & 0o7777), device, dir_fd=dir_fd)

    def _whiteout(self, parent_path: bytes, name: bytes) -> None:
        """Hide ``.wh.<name>`` of the lower layers. What this layer has itself under that name stays."""
        if name == _OPAQUE_MARKER:
            parent = self._directories.get(parent_path)
            set_opaque(parent.fd, b".")
            self.cut = self.cut or not parent.path
            return
        if name.startswith(_WHITEOUT_META):
            return
        hidden = name[len(_WHITEOUT):]
        if hidden in (b"", b".", b".."):
            raise Refused(f'invalid whiteout "{os.fsdecode(name)}"')
        parent = self._directories.get(parent_path)
        try:
            os.mknod(hidden, stat.S_IFCHR, 0, dir_fd=parent.fd)
        except FileExistsError:
            if stat.S_ISDIR(os.lstat(hidden, dir_fd=parent.fd).st_mode):
                set_opaque(parent.fd, hidden)


def _join(parent: Directory, name: bytes) -> bytes:
    return parent.path + b"/" + name if parent.path else name


def _exists(dir_fd: int, name: bytes) -> bool:
    try:
        return not is_whiteout(os.lstat(name, dir_fd=dir_fd))
    except FileNotFoundError:
        return False


def _same(source_fd: int, source: bytes, dir_fd: int, name: bytes) -> bool:
    return os.path.samestat(os.lstat(source, dir_fd=source_fd), os.lstat(name, dir_fd=dir_fd))


def _copy_small(stream: Stream, fd: int, size: int) -> None:
    data = stream.whole(size) if size <= _SMALL else None
    if data is None:
        stream.copy(size, lambda view: os.write(fd, view))
        return
    written = os.write(fd, data)
    while written < size:
        written += os.write(fd, data[written:])


def _copy_big(stream: Stream, fd: int, size: int) -> None:
    """Copy, and have the disk busy meanwhile, so that the one sync at commit finds little left to do."""
    for offset in range(0, size, _WRITEBACK):
        length = min(_WRITEBACK, size - offset)
        stream.copy(length, lambda view: os.write(fd, view))
        start_writeback(fd, offset, length)


def _attribute(fd: int, key: str, value: bytes) -> None:
    """Set an attribute, or go without where the file system has none, as dockerd does.

    ``trusted.*`` is left out: overlayfs takes orders from it.
    """
    if key.startswith("trusted."):
        return
    try:
        os.setxattr(fd, key, value)
    except OSError as error:
        if error.errno not in (errno.ENOTSUP, errno.EPERM):
            raise
