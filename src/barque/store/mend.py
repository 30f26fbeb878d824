"""What a layer needs from the layers below it, done once they are all there.

Layers are unpacked side by side, each knowing only itself. A directory that a layer merely passes through
(``usr/bin/x`` without an entry ``usr/bin``) would show with made-up owner and mode through overlayfs, so it takes those
of the layers below. A hard link into a lower layer becomes a copy, as overlayfs itself would do at link(2).
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from barque.errors import InvalidArgument
from barque.store.tar.messages import UnpackResult
from barque.sys.beneath import RESOLVE_BENEATH, RESOLVE_NO_SYMLINKS, open_in_root
from barque.sys.xattr import get_all

OPAQUE = "trusted.overlay.opaque"
_BENEATH = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS
_COPY_BLOCK = 1 << 24
#: A layer that hides the path from those below it, and one that does not know it.
_HIDDEN, _ABSENT = -1, -2


class NoLinkTarget(InvalidArgument):
    text = "failed to register layer: link {target} {path}: no such file or directory"


def mend(fs: str, lower: Sequence[str], result: UnpackResult) -> int:
    """Mend the layer unpacked at ``fs`` over the directories ``lower``, topmost first; returns the bytes added.

    Raises :class:`NoLinkTarget` or OSError.
    """
    with opened(fs) as top, Layers(lower) as layers:
        added = sum(_copy_link(top, layers, link.path, link.target) for link in result.foreign_links)
        for path in sorted(result.implicit_dirs, reverse=True):
            inherit(top, layers, path)
    return added


def inherit_root(fs: str, lower: Sequence[str]) -> None:
    """Give the root of a new writable layer owner, times and attributes of the layer below it.

    Its mode is 0755, as with dockerd and containerd: archives made in a temporary directory of 0700 would keep all
    users but root out.
    """
    with opened(fs) as top, Layers(lower[:1]) as layers:
        inherit(top, layers, b"")
        os.fchmod(top, 0o755)


@contextmanager
def opened(path: str) -> Iterator[int]:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)


class Layers:
    """Looks paths up through a stack of layers as overlayfs does, with whiteouts and opaque directories."""

    def __init__(self, lower: Sequence[str]) -> None:
        self._paths = lower
        self._fds: list[int] = []
        # By layer: paths that lead nowhere in it, and what that means. Layers do not change.
        self._ends: dict[int, dict[bytes, int]] = {}

    def __enter__(self) -> Layers:
        try:
            for path in self._paths:
                self._fds.append(os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC))
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        while self._fds:
            os.close(self._fds.pop())

    def find(self, path: bytes) -> int | None:
        """An O_PATH descriptor of what ``path`` shows, or None; owned by the caller. Links are not followed."""
        for layer in self._fds:
            found = self._look(layer, path)
            if found != _ABSENT:
                return found if found != _HIDDEN else None
        return None

    def _look(self, layer: int, path: bytes) -> int:
        """A descriptor, or one of the two answers that are none."""
        names = [name for name in path.split(b"/") if name]
        ends = self._ends.setdefault(layer, {})
        prefixes = [b"/".join(names[:depth]) for depth in range(1, len(names) + 1)]
        for prefix in prefixes if ends else ():
            if prefix in ends:
                return ends[prefix]
        fd = os.dup(layer)
        for name, prefix in zip(names, prefixes, strict=True):
            opaque = _is_opaque(fd)
            try:
                child = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=fd)
            except FileNotFoundError:
                ends[prefix] = _HIDDEN if opaque else _ABSENT
                return ends[prefix]
            except NotADirectoryError:
                return _HIDDEN
            finally:
                os.close(fd)
            fd = child
            info = os.fstat(fd)
            if stat.S_ISCHR(info.st_mode) and info.st_rdev == 0:
                os.close(fd)
                return _HIDDEN
        return fd


def _is_opaque(fd: int) -> bool:
    try:
        return os.getxattr(f"/proc/self/fd/{fd}", OPAQUE) == b"y"
    except OSError as error:
        if error.errno in (errno.ENODATA, errno.ENOTSUP, errno.ENOTDIR, errno.EPERM):
            return False
        raise


def inherit(top: int, layers: Layers, path: bytes) -> None:
    """Give the directory ``path`` below ``top`` owner, mode, times and attributes of the one that ``layers`` show."""
    below = layers.find(path)
    if below is None:
        return
    try:
        if stat.S_ISDIR(os.fstat(below).st_mode):
            fd = open_in_root(top, path or b".", os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, resolve=_BENEATH)
            try:
                _copy_attributes(below, fd)
            finally:
                os.close(fd)
    finally:
        os.close(below)


def _copy_attributes(source: int, target: int) -> None:
    """Owner, mode, attributes and times, in the order in which none undoes another (chown drops set-uid bits)."""
    info = os.fstat(source)
    os.fchown(target, info.st_uid, info.st_gid)
    os.fchmod(target, stat.S_IMODE(info.st_mode))
    for key, value in get_all(source, b".").items() if stat.S_ISDIR(info.st_mode) else _own(source).items():
        if not key.startswith("trusted.overlay."):
            os.setxattr(target, key, value)
    os.utime(target, ns=(info.st_atime_ns, info.st_mtime_ns))


def _own(fd: int) -> dict[str, bytes]:
    path = f"/proc/self/fd/{fd}"
    return {key: os.getxattr(path, key) for key in os.listxattr(path)}


def _copy_link(top: int, layers: Layers, path: bytes, target: bytes) -> int:
    below = layers.find(target)
    if below is None:
        raise NoLinkTarget(target=os.fsdecode(target), path=os.fsdecode(path))
    parent, _, name = path.rpartition(b"/")
    try:
        directory = open_in_root(top, parent or b".", os.O_PATH | os.O_DIRECTORY, resolve=_BENEATH)
        try:
            return _copy_entry(below, directory, name, target)
        finally:
            os.close(directory)
    finally:
        os.close(below)


def _copy_entry(source: int, directory: int, name: bytes, target: bytes) -> int:
    info = os.fstat(source)
    if stat.S_ISREG(info.st_mode):
        fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600,
                     dir_fd=directory)
        try:
            _copy_bytes(source, fd)
            _copy_attributes(source, fd)
        finally:
            os.close(fd)
        return info.st_size
    if stat.S_ISDIR(info.st_mode):
        raise NoLinkTarget(target=os.fsdecode(target), path=os.fsdecode(name))
    if stat.S_ISLNK(info.st_mode):
        os.symlink(os.readlink(b"", dir_fd=source), name, dir_fd=directory)
    else:
        os.mknod(name, info.st_mode, info.st_rdev, dir_fd=directory)
        os.chmod(name, stat.S_IMODE(info.st_mode), dir_fd=directory)  # mknod(2) applies the umask
    os.chown(name, info.st_uid, info.st_gid, dir_fd=directory, follow_symlinks=False)
    os.utime(name, ns=(info.st_atime_ns, info.st_mtime_ns), dir_fd=directory, follow_symlinks=False)
    return 0


def _copy_bytes(source: int, target: int) -> None:
    # An O_PATH descriptor cannot be read; opening it again through /proc follows no name.
    reader = os.open(f"/proc/self/fd/{source}", os.O_RDONLY | os.O_CLOEXEC)
    try:
        while os.sendfile(target, reader, None, _COPY_BLOCK):
            pass
    finally:
        os.close(reader)
