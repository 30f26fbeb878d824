"""The trees of a build as descriptors, inside a process that sees nothing else any more."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from barque.store.confine import confine_in
from barque.store.copyup import view_of
from barque.store.place.messages import Source
from barque.sys import mounts

CAPABILITIES = ("CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_FSETID", "CAP_MKNOD", "CAP_SETFCAP")
DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_LINKS = 255


def enter(make_root: Callable[[], int], sources: Sequence[Source], fds: Sequence[int]) -> tuple[int, list[int]]:
    """Shut this process into the mount that ``make_root`` makes; descriptors of the new root and of the sources."""
    opened: list[int] = []

    def prepare() -> int:
        opened.extend(fds[source.fd] if source.fd >= 0 else _image(source.lower) for source in sources)
        return make_root()

    return confine_in(prepare, CAPABILITIES), opened


def empty_root() -> int:
    """A file system with nothing in it, for a process that only reads its sources."""
    return mounts.make("tmpfs", [("size", "4k"), ("mode", "0500")], mounts.ATTR_RDONLY)


def _image(lower: Sequence[str]) -> int:
    view = view_of(lower)
    try:
        return os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=view)
    finally:
        os.close(view)


def writable(lower: Sequence[str], upper: str, work: str) -> int:
    """An overlay of the layers, topmost first, whose changes go to ``upper``; a detached mount."""
    common = [("upperdir", upper), ("workdir", work), ("index", "off"), ("metacopy", "off"),
              ("redirect_dir", "nofollow")]
    try:
        return mounts.make("overlay", [*(("lowerdir+", path) for path in lower), *common])
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
    # Before Linux 6.5: one string of at most a page, with names relative to the directory of all snapshots.
    base = os.path.commonpath([*lower, upper, work])
    os.chdir(base)
    options = {"lowerdir": ":".join(os.path.relpath(path, base) for path in lower),
               "upperdir": os.path.relpath(upper, base), "workdir": os.path.relpath(work, base), "index": "off",
               "metacopy": "off", "redirect_dir": "nofollow"}
    mounts.mount_legacy("overlay", upper, "overlay", ",".join(f"{key}={value}" for key, value in options.items()))
    return mounts.clone_tree(upper)


@dataclass
class Location:
    """Where a path really leads: ``base`` in the directory ``parent`` (owned), ``path`` from the root without links.

    The root itself has the base ``.`` and the path b"". ``info`` is None where nothing is there.
    """

    parent: int
    base: bytes
    path: bytes
    info: os.stat_result | None

    @property
    def is_directory(self) -> bool:
        return self.info is not None and stat.S_ISDIR(self.info.st_mode)

    def __enter__(self) -> Location:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.parent)


class Resolver:
    """Follows paths below a root as if that were ``/``, link by link; ``make`` makes a directory that is missing."""

    def __init__(self, root: int, make: Callable[[int, bytes], None] | None = None) -> None:
        self._root = root
        self._make = make

    def locate(self, path: bytes) -> Location:
        """Links are followed, the last one too; what is missing at the end of the path is no error.

        Raises OSError: ENOENT for a missing directory, ENOTDIR, ELOOP for links without end.
        """
        fds, names = [os.dup(self._root)], [b""]
        pending = _parts(path)
        links = 0
        try:
            while pending:
                name = pending.pop()
                if name == b"..":
                    if len(fds) > 1:
                        os.close(fds.pop())
                        names.pop()
                    continue
                info = _lstat(name, fds[-1])
                if info is not None and stat.S_ISLNK(info.st_mode):
                    links += 1
                    if links > _LINKS:
                        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), os.fsdecode(path))
                    target = os.readlink(name, dir_fd=fds[-1])
                    while target.startswith(b"/") and len(fds) > 1:
                        os.close(fds.pop())
                        names.pop()
                    pending += _parts(target)
                    continue
                if not pending:
                    return Location(os.dup(fds[-1]), name, b"/".join([*names[1:], name]), info)
                self._down(fds, name, info, path)
                names.append(name)
            return _top(fds, names)
        finally:
            for fd in fds:
                os.close(fd)

    def _down(self, fds: list[int], name: bytes, info: os.stat_result | None, path: bytes) -> None:
        if info is None:
            if self._make is None:
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), os.fsdecode(path))
            self._make(fds[-1], name)
        elif not stat.S_ISDIR(info.st_mode):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), os.fsdecode(path))
        fds.append(os.open(name, DIRECTORY, dir_fd=fds[-1]))

    def directory(self, path: bytes) -> int:
        """A descriptor of the directory at ``path``, made if need be."""
        with self.locate(path) as found:
            if found.info is None and self._make is not None:
                self._make(found.parent, found.base)
            return os.open(found.base, DIRECTORY, dir_fd=found.parent)


def _parts(path: bytes) -> list[bytes]:
    """The components, last one first."""
    return [part for part in path.split(b"/") if part not in (b"", b".")][::-1]


def _lstat(name: bytes, dir_fd: int) -> os.stat_result | None:
    try:
        return os.lstat(name, dir_fd=dir_fd)
    except FileNotFoundError:
        return None


def _top(fds: list[int], names: list[bytes]) -> Location:
    """A path that ended in a directory on the way: the root, or where ``..`` led."""
    if len(fds) == 1:
        return Location(os.dup(fds[0]), b".", b"", os.fstat(fds[0]))
    return Location(os.dup(fds[-2]), names[-1], b"/".join(names[1:]), os.fstat(fds[-1]))
