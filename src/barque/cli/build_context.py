"""A build context on its way to the engine: a directory as a tar stream, without what ``.dockerignore`` names."""

from __future__ import annotations

import os
import stat

from barque.cli.errors import CommandError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from barque.oci.patterns import Patterns

_CHUNK = 1 << 20
_BLOCK = 512
#: Small files are sent together: each piece costs a system call and a chunk header.
_BATCH = 256 << 10
_MAX_IGNORE = 4 << 20


def read_patterns(directory: str, dockerfile: str) -> Patterns:
    """The patterns for a context; ``<Dockerfile>.dockerignore`` wins over ``.dockerignore``."""
    from barque.oci.patterns import BadPattern, Patterns, read_ignore_file

    for name in (f"{dockerfile}.dockerignore", ".dockerignore"):
        try:
            with open(os.path.join(directory, name), encoding="utf-8", errors="surrogateescape") as file:
                lines = read_ignore_file(file.read(_MAX_IGNORE))
        except FileNotFoundError:
            continue
        try:
            return Patterns(lines)
        except BadPattern as error:
            raise CommandError(f"Error checking context: '{error}'.") from None
    return Patterns([])


def pack(directory: str, patterns: Patterns, dockerfile: str, extra: dict[str, bytes]) -> Iterator[bytes]:
    """The archive: owners are root's, times whole seconds, as docker sends them.

    The Dockerfile and ``.dockerignore`` are in it in any case: the engine reads them, and leaves them out of the files
    itself. ``extra``: further files. Without ``directory`` there are no others.
    """
    import tarfile

    archive = _Archive(directory, patterns, (dockerfile, ".dockerignore"))
    batch: list[bytes] = []
    size = 0
    for piece in archive.pieces(extra):
        batch.append(piece)
        size += len(piece)
        if size >= _BATCH:
            yield b"".join(batch)
            batch, size = [], 0
    yield b"".join(batch) + b"\0" * tarfile.BLOCKSIZE * 2


class _Archive:
    def __init__(self, root: str, patterns: Patterns, kept: tuple[str, ...]) -> None:
        self._root = root
        self._patterns = patterns
        self._kept = kept
        self._links: dict[tuple[int, int], str] = {}

    def pieces(self, extra: dict[str, bytes]) -> Iterator[bytes]:
        if self._root:
            yield from self._directory("")
        for name, data in extra.items():
            yield self._header(name, stat.S_IFREG | 0o600, size=len(data)) + data + b"\0" * (-len(data) % _BLOCK)

    def _directory(self, relative: str) -> Iterator[bytes]:
        try:
            with os.scandir(os.path.join(self._root, relative)) as found:
                entries = sorted(found, key=lambda entry: entry.name)
        except OSError as error:
            reason = (error.strerror or "").lower()
            raise CommandError(f"Error checking context: '{error.filename}': {reason}") from None
        for entry in entries:
            name = f"{relative}/{entry.name}" if relative else entry.name
            ignored = bool(self._patterns) and self._patterns.matches(name)
            if entry.is_dir(follow_symlinks=False):
                if not ignored:
                    info = entry.stat(follow_symlinks=False)
                    yield self._header(name + "/", info.st_mode, mtime=info.st_mtime)
                if not ignored or self._patterns.takes_back or any(kept.startswith(name + "/") for kept in self._kept):
                    yield from self._directory(name)
            elif not ignored or name in self._kept:
                yield from self._entry(entry, name)

    def _entry(self, entry: os.DirEntry[str], name: str) -> Iterator[bytes]:
        info = entry.stat(follow_symlinks=False)
        if stat.S_ISSOCK(info.st_mode):
            return
        if stat.S_ISLNK(info.st_mode):
            yield self._header(name, info.st_mode, mtime=info.st_mtime, link=os.readlink(entry.path))
        elif not stat.S_ISREG(info.st_mode):
            yield self._header(name, info.st_mode, mtime=info.st_mtime, device=info.st_rdev)
        elif info.st_nlink > 1 and (first := self._links.setdefault((info.st_dev, info.st_ino), name)) != name:
            yield self._header(name, info.st_mode, mtime=info.st_mtime, link=first, hard=True)
        else:
            yield from self._file(entry.path, name)

    def _file(self, path: str, name: str) -> Iterator[bytes]:
        """Header and content, as long as the header says: a file that shrinks meanwhile is padded with zeros."""
        try:
            file = open(path, "rb")  # noqa: SIM115 - closed below, and an error here has its own text
        except OSError as error:
            raise CommandError(f"Error checking context: 'can't stat '{path}'': {(error.strerror or '').lower()}"
                               ) from None
        with file:
            info = os.fstat(file.fileno())
            yield self._header(name, info.st_mode, size=info.st_size, mtime=info.st_mtime)
            left = info.st_size
            while left:
                data = file.read(min(left, _CHUNK)) or b"\0" * min(left, _CHUNK)
                left -= len(data)
                yield data
        yield b"\0" * (-info.st_size % _BLOCK)

    @staticmethod
    def _header(name: str, mode: int, *, size: int = 0, mtime: float = 0, link: str = "", hard: bool = False,
                device: int = 0) -> bytes:
        import tarfile

        info = tarfile.TarInfo(name)
        kinds = {stat.S_IFDIR: tarfile.DIRTYPE, stat.S_IFLNK: tarfile.SYMTYPE, stat.S_IFIFO: tarfile.FIFOTYPE,
                 stat.S_IFCHR: tarfile.CHRTYPE, stat.S_IFBLK: tarfile.BLKTYPE}
        info.type = tarfile.LNKTYPE if hard else kinds.get(stat.S_IFMT(mode), tarfile.REGTYPE)
        info.mode = stat.S_IMODE(mode)
        info.size, info.mtime, info.linkname = size, int(mtime), link
        info.devmajor, info.devminor = os.major(device), os.minor(device)
        return info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")
