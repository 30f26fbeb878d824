"""What the sources of a COPY or ADD stand for, and digests of it that make cache keys.

The digests are those of docker's classic builder (tarsum version 1: header fields in a fixed order, then the content;
modification times do not count), so that the history of an image says the same.
"""

from __future__ import annotations

import errno
import hashlib
import os
import posixpath
import stat
import time
from collections.abc import Iterator

from barque.oci.patterns import Patterns, go_match, unescaped
from barque.store.place.messages import Found, Pick, Source, SurveyRequest, SurveyResult
from barque.store.place.trees import DIRECTORY, Location, Resolver, empty_root, enter
from barque.store.place.view import View
from barque.store.tar.messages import WorkerError, decode, encode
from barque.sys import xattr

_BLOCK = 1 << 20
#: Files of so many bytes are worth a note, when they have not been changed for so many nanoseconds.
_LARGE, _SETTLED = 1 << 16, 2_000_000_000
_FLAGS = {stat.S_IFDIR: "5", stat.S_IFCHR: "3", stat.S_IFBLK: "4", stat.S_IFIFO: "6"}
_NOT_HASHED = ("trusted.", "security.selinux", "system.")


def run_survey(request: bytes, fds: list[int]) -> bytes:
    """The worker: ``fds`` are the directories that the sources name. Answers an encoded SurveyResult."""
    order = decode(request, SurveyRequest)
    try:
        _, roots = enter(empty_root, order.sources, fds)
        digests = _Digests(order.known)
        trees = [_Tree(root, source, digests) for root, source in zip(roots, order.sources, strict=True)]
        found = [trees[pick.source].find(pick) for pick in order.picks]
    except OSError as error:
        path = os.fsdecode(error.filename) if isinstance(error.filename, str | bytes) else ""
        message = f"{path}: {os.strerror(error.errno or errno.EIO).lower()}" if path else str(error)
        return encode(SurveyResult(error=WorkerError("system", message, "survey", error.errno or 0)))
    return encode(SurveyResult(found, digests.fresh))


def relative(path: str) -> str:
    """A source argument relative to its tree: absolute ones and ``..`` stay inside."""
    return posixpath.normpath("/" + path).lstrip("/")


class _Digests:
    """What large files had for digests when they were read last: git's index does the same with its files.

    A file that was changed in the last seconds is not noted: a further change might leave its times as they are.
    """

    def __init__(self, known: dict[str, str]) -> None:
        self._known = known
        self._limit = time.time_ns() - _SETTLED
        self.fresh: dict[str, str] = {}

    def of(self, state: hashlib._Hash, info: os.stat_result, parent: int, name: bytes) -> str:
        """The digest of ``state`` and the content of the file."""
        key = f"{info.st_dev}:{info.st_ino}:{info.st_size}:{info.st_mtime_ns}:{info.st_ctime_ns}:{state.hexdigest()}"
        if (found := self._known.get(key)) is not None:
            return found
        _update(state, parent, name)
        digest = state.hexdigest()
        if max(info.st_mtime_ns, info.st_ctime_ns) < self._limit:
            self.fresh[key] = digest
        return digest


class _Tree:
    def __init__(self, root: int, source: Source, digests: _Digests) -> None:
        self._root = root
        self._digests = digests
        self._named = source.named
        self._view = View(root, source)
        self._implicit = self._view.implicit
        self._stamp = 0
        self._resolver = Resolver(root)
        self._first_names: dict[tuple[int, int], bytes] | None = None

    def find(self, pick: Pick) -> list[Found]:
        exclude = Patterns(pick.exclude)
        if not pick.wildcard:
            found = self._one(os.fsencode(relative(unescaped(pick.pattern))), exclude, pick.parents)
            if found is None and not pick.optional:
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), pick.pattern)
            return [found] if found is not None else []
        fits = go_match(relative(pick.pattern), deep=pick.parents)
        results = []
        for name in sorted(name for name in self._names() if fits.match(os.fsdecode(name))):
            found = self._one(name, exclude, pick.parents)
            if found is None and not exclude:  # a link that leads nowhere
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), name)
            results += [found] if found is not None else []
        return results

    def _names(self) -> Iterator[bytes]:
        for _, path, directories, others in self._view.walk(self._root):
            prefix = b"".join(part + b"/" for part in path)
            for name in (*directories, *others):
                yield prefix + name

    def _one(self, name: bytes, exclude: Patterns, parents: bool) -> Found | None:
        location = self._locate(name)
        if location is None:
            return None
        self._stamp = 0
        with location:
            if location.is_directory:
                digest = self._directory(location, exclude, name if parents else b"")
                return Found(location.path, name, True, digest, self._stamp)
            if exclude and exclude.matches(os.fsdecode(name if parents else os.path.basename(name))):
                return None
            self._note(os.lstat(location.base, dir_fd=location.parent))
            digest = "file:" + self._sum(location.parent, location.base, location.path)
            return Found(location.path, name, False, digest, self._stamp)

    def _note(self, info: os.stat_result) -> None:
        """Before a file is read, so that a change while it is read is seen later."""
        self._stamp += self._view.stamp(info)

    def _locate(self, name: bytes) -> Location | None:
        """None where nothing is there, or nothing to be seen."""
        if self._view.hides(name):
            return None
        try:
            location = self._resolver.locate(name)
        except (FileNotFoundError, NotADirectoryError):
            return None
        if location.info is None or self._view.hides(location.path):
            os.close(location.parent)
            return None
        return location

    def _directory(self, location: Location, exclude: Patterns, prefix: bytes) -> str:
        top = os.open(location.base, DIRECTORY, dir_fd=location.parent)
        sums = []
        try:
            for level, parts, _, others in self._view.walk(top, location.path):
                inner = b"/".join(parts)
                here = join(location.path, inner)
                if here and not (exclude and inner and exclude.matches(os.fsdecode(join(prefix, inner)))):
                    sums.append(self._sum(level, b".", here))
                for name in others:
                    if not exclude or not exclude.matches(os.fsdecode(join(prefix, join(inner, name)))):
                        info = os.lstat(name, dir_fd=level)
                        if not (self._view.direct and stat.S_ISSOCK(info.st_mode)):
                            self._note(info)
                            sums.append(self._member(level, name, join(here, name), info))
        finally:
            os.close(top)
        return "dir:" + hashlib.sha256(b",".join(sorted(map(os.fsencode, sums)))).hexdigest()

    def _member(self, parent: int, name: bytes, path: bytes, info: os.stat_result) -> str:
        """docker hashes what a link leads to, and where that is nothing, its name."""
        if not stat.S_ISLNK(info.st_mode):
            return self._sum(parent, name, path)
        location = self._locate(path)
        if location is None:
            return os.fsdecode(path)
        with location:
            if location.path in self._implicit:
                return os.fsdecode(path)
            return self._sum(location.parent, location.base, location.path)

    def _link(self, info: os.stat_result, path: bytes) -> bytes:
        """The name that an archive of the whole tree would have for this file before; b"" for the first one."""
        if self._named or info.st_nlink < 2 or not stat.S_ISREG(info.st_mode):
            return b""
        if self._first_names is None:
            self._first_names = self._hard_links()
        first = self._first_names.get((info.st_dev, info.st_ino), path)
        return first if first != path else b""

    def _hard_links(self) -> dict[tuple[int, int], bytes]:
        firsts: dict[tuple[int, int], bytes] = {}
        for level, parts, _, others in self._view.walk(self._root):
            for name in others:
                info = os.lstat(name, dir_fd=level)
                if info.st_nlink > 1:
                    path = b"/".join((*parts, name))
                    known = firsts.setdefault((info.st_dev, info.st_ino), path)
                    if path.split(b"/") < known.split(b"/"):
                        firsts[info.st_dev, info.st_ino] = path
        return firsts

    def _sum(self, parent: int, name: bytes, path: bytes) -> str:
        if path in self._implicit:
            return os.fsdecode(path)
        info = os.lstat(name, dir_fd=parent)
        kind = stat.S_IFMT(info.st_mode)
        link = self._link(info, path)
        has_content = kind == stat.S_IFREG and not link
        device = kind in (stat.S_IFCHR, stat.S_IFBLK)
        uid, gid = (0, 0) if self._view.direct else (info.st_uid, info.st_gid)
        owner, group = ("root" if self._named and not number else "" for number in (uid, gid))
        fields = (("name", os.fsdecode(path) + "/" * (kind == stat.S_IFDIR)),
                  ("mode", info.st_mode if self._named else stat.S_IMODE(info.st_mode)), ("uid", uid),
                  ("gid", gid), ("size", info.st_size if has_content else 0),
                  ("typeflag", "1" if link else _FLAGS.get(kind, "0")), ("linkname", os.fsdecode(link)),
                  ("uname", owner), ("gname", group), ("devmajor", os.major(info.st_rdev) if device else 0),
                  ("devminor", os.minor(info.st_rdev) if device else 0))
        state = hashlib.sha256("".join(f"{key}{value}" for key, value in fields).encode("utf-8", "surrogateescape"))
        for key, value in () if self._view.direct else sorted(xattr.get_all(parent, name).items()):
            if not key.startswith(_NOT_HASHED):
                state.update(os.fsencode(key) + value)
        if has_content:
            if self._view.direct and info.st_size >= _LARGE:
                return self._digests.of(state, info, parent, name)
            _update(state, parent, name)
        return state.hexdigest()


def _update(state: hashlib._Hash, parent: int, name: bytes) -> None:
    fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=parent)
    try:
        while block := os.read(fd, _BLOCK):
            state.update(block)
    finally:
        os.close(fd)


def join(first: bytes, second: bytes) -> bytes:
    return first + b"/" + second if first and second else first or second
