"""Filling a build layer: copies of files and directories, unpacked archives, directories that have to be there.

Done by a confined process whose root is the layer over those below it; sources are descriptors. Directories that are
missing on the way are made; links in the layer are followed as if its root were ``/``.
"""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Callable

from barque.oci.patterns import Patterns
from barque.store.data import copy_data
from barque.store.place import modes
from barque.store.place.messages import PlaceRequest, PlaceResult, Put
from barque.store.place.survey import join
from barque.store.place.trees import DIRECTORY, Location, Resolver, enter, writable
from barque.store.place.view import View
from barque.store.tar.apply import Extractor
from barque.store.tar.compress import BadStream, open_stream
from barque.store.tar.errors import TarError
from barque.store.tar.messages import Limits, WorkerError, decode, encode
from barque.store.tar.reader import Entry, Stream, entries
from barque.store.tree import remove_tree
from barque.sys import xattr

_READ = 1 << 20
_SECOND = 1_000_000_000
_SPACE = (errno.ENOSPC, errno.EDQUOT)
_KEPT_ATTRIBUTES = ("user.", "security.capability", "system.posix_acl_")


class PlaceError(Exception):
    """The order cannot be done; the text is for people."""


def run_place(request: bytes, fds: list[int]) -> bytes:
    """The worker: ``fds`` are the directories that the sources name. Answers an encoded PlaceResult."""
    order = decode(request, PlaceRequest)
    try:
        root, sources = enter(lambda: writable(order.lower, order.upper, order.work), order.sources, fds)
        os.umask(0)
        placer = _Placer(root, order)
        for directory in order.directories:
            os.close(placer.resolver(order.uid, order.gid).directory(directory))
        views = [View(source, said) for source, said in zip(sources, order.sources, strict=True)]
        for put in order.puts:
            placer.put(sources[put.source], views[put.source], put)
    except (PlaceError, TarError, BadStream, modes.BadMode) as error:
        return encode(PlaceResult(error=WorkerError("invalid", str(error), "copy")))
    except OSError as error:
        path = os.fsdecode(error.filename) if isinstance(error.filename, str | bytes) else ""
        reason = os.strerror(error.errno or errno.EIO).lower()
        kind = "space" if error.errno in _SPACE else "system"
        return encode(PlaceResult(error=WorkerError(kind, f"{path}: {reason}" if path else reason, "copy",
                                                    error.errno or 0)))
    return encode(PlaceResult(placer.copied))


class _Placer:
    def __init__(self, root: int, order: PlaceRequest) -> None:
        self._root = root
        self._epoch = order.epoch * _SECOND if order.epoch >= 0 else None
        self._view: View
        self._stamp = 0
        self.copied = 0

    def resolver(self, uid: int, gid: int) -> Resolver:
        def make(parent: int, name: bytes) -> None:
            os.mkdir(name, 0o755, dir_fd=parent)
            os.chown(name, max(uid, 0), max(gid, 0), dir_fd=parent, follow_symlinks=False)

        return Resolver(self._root, make)

    def put(self, source: int, view: View, put: Put) -> None:
        self._view = view
        self._stamp = 0
        self._put(source, put)
        if self._stamp != put.stamp and view.direct:
            raise PlaceError(f"{os.fsdecode(put.name) or 'the context'} was changed while it was copied")

    def note(self, info: os.stat_result) -> None:
        """A file as it is after it was copied."""
        self._stamp += self._view.stamp(info)

    def _put(self, source: int, put: Put) -> None:
        resolver = self.resolver(put.uid, put.gid)
        with Resolver(source).locate(put.path) as origin:
            if origin.info is None:
                raise FileNotFoundError(errno.ENOENT, "", os.fsdecode(put.path))
            if origin.is_directory:
                self._directory(origin, resolver, put)
            elif put.unpack and self._unpack(origin, resolver, put):
                return
            elif put.must_unpack:
                raise PlaceError(f"{os.fsdecode(put.name)} is not an archive that can be unpacked")
            else:
                self._single(origin, resolver, put)

    def _directory(self, origin: Location, resolver: Resolver, put: Put) -> None:
        """What is in a directory goes into the target, which docker makes with mode 0755 and the new owner; the
        directories above it are root's.
        """
        target = join(put.target.rstrip(b"/"), put.under) or b"/"
        with self.resolver(0, 0).locate(target) as place:
            if place.info is None:
                os.mkdir(place.base, 0o755, dir_fd=place.parent)
                os.chown(place.base, max(put.uid, 0), max(put.gid, 0), dir_fd=place.parent, follow_symlinks=False)
                if put.chmod:
                    os.chmod(place.base, modes.apply(put.chmod, 0o755, True), dir_fd=place.parent)
            elif not place.is_directory:
                raise PlaceError(f"cannot copy to non-directory: {os.fsdecode(target)}")
        fd = os.open(origin.base, DIRECTORY, dir_fd=origin.parent)
        top = resolver.directory(target)
        try:
            _TreeCopy(self, self._view, put).run(fd, top, origin.path)
        finally:
            os.close(top)
            os.close(fd)

    def _single(self, origin: Location, resolver: Resolver, put: Put) -> None:
        target = join(put.target, put.under) if put.under else put.target
        with resolver.locate(target) as place:
            if not place.is_directory and (put.under or not put.target.endswith(b"/")):
                self.entry(origin.parent, origin.base, place.parent, place.base, put)
                return
        directory = resolver.directory(target)
        try:
            self.entry(origin.parent, origin.base, directory, os.path.basename(put.name), put)
        finally:
            os.close(directory)

    def _unpack(self, origin: Location, resolver: Resolver, put: Put) -> bool:
        fd = os.open(origin.base, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=origin.parent)
        try:
            if not _is_archive(fd):
                return False
            os.lseek(fd, 0, os.SEEK_SET)
            target = resolver.directory(put.target)
            extractor = _OwnedExtractor(target, put)
            try:
                extractor.run(Stream(open_stream("", lambda: os.read(fd, _READ))))
                self.touch(target, b".", time.time_ns())  # whatever the archive says of its root, as docker does
            finally:
                os.close(target)
            self.copied += extractor.count
            self.note(os.fstat(fd))
            return True
        finally:
            os.close(fd)

    def entry(self, source: int, name: bytes, target: int, new_name: bytes, put: Put) -> None:
        """Copy one thing that is no directory, over what is there."""
        info = os.lstat(name, dir_fd=source)
        try:
            there = os.lstat(new_name, dir_fd=target)
        except FileNotFoundError:
            pass
        else:
            if stat.S_ISDIR(there.st_mode):
                remove_tree(target, new_name)
            else:
                os.unlink(new_name, dir_fd=target)
        self.copied += 1
        if stat.S_ISREG(info.st_mode):
            self._file(source, name, target, new_name, put)
        elif stat.S_ISLNK(info.st_mode):
            os.symlink(os.readlink(name, dir_fd=source), new_name, dir_fd=target)
        elif stat.S_ISSOCK(info.st_mode):
            return
        else:
            os.mknod(new_name, info.st_mode, info.st_rdev, dir_fd=target)
        self.describe(info, source, name, target, new_name, put)
        self.note(os.lstat(name, dir_fd=source))

    def _file(self, source: int, name: bytes, target: int, new_name: bytes, put: Put) -> None:
        reader = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=source)
        try:
            writer = os.open(new_name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600,
                             dir_fd=target)
            try:
                copy_data(reader, writer)
            finally:
                os.close(writer)
        finally:
            os.close(reader)

    def describe(self, info: os.stat_result, source: int, name: bytes, target: int, new_name: bytes, put: Put) -> None:
        """Owner, mode, attributes, time: in the order in which none undoes another."""
        direct = self._view.direct
        uid = (0 if direct else info.st_uid) if put.uid < 0 else put.uid
        gid = (0 if direct else info.st_gid) if put.gid < 0 else put.gid
        os.chown(new_name, uid, gid, dir_fd=target, follow_symlinks=False)
        if not stat.S_ISLNK(info.st_mode):
            directory = stat.S_ISDIR(info.st_mode)
            mode = stat.S_IMODE(info.st_mode)
            os.chmod(new_name, modes.apply(put.chmod, mode, directory) if put.chmod else mode, dir_fd=target)
        attributes = {} if direct else xattr.get_all(source, name)
        for key, value in attributes.items():
            if key.startswith(_KEPT_ATTRIBUTES):
                xattr.set_at(target, new_name, key, value)
        self.touch(target, new_name, info.st_mtime_ns)

    def touch(self, target: int, name: bytes, mtime: int) -> None:
        """Whole seconds, which is all that a layer's archive has."""
        moment = mtime // _SECOND * _SECOND
        moment = min(moment, self._epoch) if self._epoch is not None else moment
        os.utime(name, ns=(moment, moment), dir_fd=target, follow_symlinks=False)


class _TreeCopy:
    """The content of one directory into another; hard links within it stay what they are."""

    def __init__(self, placer: _Placer, view: View, put: Put) -> None:
        self._placer = placer
        self._view = view
        self._put = put
        self._exclude = Patterns(put.exclude)
        self._links: dict[tuple[int, int], bytes] = {}
        self._times: list[tuple[bytes, int]] = []

    def run(self, source: int, top: int, name: bytes) -> None:
        """``name`` is the path of the source in its tree."""
        self._name = name
        stack: list[int] = [os.dup(top)]
        try:
            for level, path, _, others in self._view.walk(source, name):
                if path and not self._enter(stack, level, path, top):
                    continue
                for name in others:
                    self._member(level, path, name, stack[-1], top)
            for made, mtime in reversed(self._times):
                self._placer.touch(top, made, mtime)
        finally:
            for fd in stack:
                os.close(fd)

    def _excluded(self, path: bytes) -> bool:
        return bool(self._exclude) and self._exclude.matches(os.fsdecode(join(self._put.under, path)))

    def _enter(self, stack: list[int], source: int, path: tuple[bytes, ...], top: int) -> bool:
        whole = b"/".join(path)
        # Something below may be taken back by a later pattern: then it is copied under parents made for it.
        if self._excluded(whole) and not self._exclude.takes_back:
            return False
        self._placer.copied += 1
        while len(stack) > 1:
            os.close(stack.pop())
        current = top
        for name in path[:-1]:
            current = self._open(stack, current, name)
        try:
            os.mkdir(path[-1], 0o755, dir_fd=current)
        except FileExistsError:
            if not stat.S_ISDIR(os.lstat(path[-1], dir_fd=current).st_mode):
                os.unlink(path[-1], dir_fd=current)
                os.mkdir(path[-1], 0o755, dir_fd=current)
        if join(self._name, whole) in self._view.implicit and self._view.direct:
            os.chown(path[-1], max(self._put.uid, 0), max(self._put.gid, 0), dir_fd=current)
        else:
            info = os.fstat(source)
            self._placer.describe(info, source, b".", current, path[-1], self._put)
            self._times.append((whole, info.st_mtime_ns))
        self._open(stack, current, path[-1])
        return True

    @staticmethod
    def _open(stack: list[int], parent: int, name: bytes) -> int:
        fd = os.open(name, DIRECTORY, dir_fd=parent)
        stack.append(fd)
        return fd

    def _member(self, source: int, path: tuple[bytes, ...], name: bytes, target: int, top: int) -> None:
        whole = b"/".join((*path, name))
        if self._excluded(whole):
            return
        info = os.lstat(name, dir_fd=source)
        if info.st_nlink > 1 and stat.S_ISREG(info.st_mode):
            first = self._links.setdefault((info.st_dev, info.st_ino), whole)
            if first != whole:
                _replace_by_link(top, first, target, name)
                self._placer.note(info)
                return
        self._placer.entry(source, name, target, name, self._put)


def _replace_by_link(top: int, first: bytes, target: int, name: bytes) -> None:
    try:
        os.unlink(name, dir_fd=target)
    except FileNotFoundError:
        pass
    os.link(first, name, src_dir_fd=top, dst_dir_fd=target, follow_symlinks=False)


class _OwnedExtractor(Extractor):
    """Unpacks an archive as the new layer's own files: ``--chown`` wins over what the archive says."""

    def __init__(self, root: int, put: Put) -> None:
        super().__init__(root, Limits(), whiteouts=False)
        self._put = put

    def _apply(self, stream: Stream, entry: Entry) -> None:
        if self._put.archive_uid >= 0:
            entry.uid, entry.gid = self._put.archive_uid, self._put.archive_gid
        super()._apply(stream, entry)


def _is_archive(fd: int) -> bool:
    """As docker finds out: what unpacks and begins with a header of tar."""
    reader: Callable[[], bytes] = lambda: os.read(fd, _READ)  # noqa: E731
    try:
        for _ in entries(Stream(open_stream("", reader)), Limits()):
            return True
    except (TarError, BadStream):
        return False
    return False
