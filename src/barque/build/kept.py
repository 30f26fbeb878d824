"""The files that a client has sent for its last build, so that what it has not changed need not be sent again."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager

from barque.build.directories import Directories
from barque.store.tar.reader import REGULAR, SYMLINK, Entry
from barque.store.threads import uncut
from barque.store.tree import remove_tree, walk
from barque.sys.beneath import open_in_root

_OPEN = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
#: Clients whose files are kept, and how much may be kept of one, in bytes.
_MOST = 16
_LARGEST = 2 << 30
_FORMATS = {REGULAR: stat.S_IFREG, SYMLINK: stat.S_IFLNK}


class KeptFiles:
    """Those in ``path``. What an archive says of a name replaces what is there."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._root = os.open(path, _OPEN)
        self._parent: tuple[bytes, int] = b"", os.dup(self._root)
        #: Attributes change without the time of the file: those that have some are not compared.
        self._attributed: set[bytes] = set()

    def close(self) -> None:
        os.close(self._parent[1])
        os.close(self._root)

    def has(self, entry: Entry) -> bool:
        """Whether the file or link is there as it should be, by size, time, mode and owner."""
        if entry.xattrs:
            self._attributed.add(entry.name)
        if entry.xattrs or entry.type not in _FORMATS:
            return False
        parent, _, name = entry.name.rpartition(b"/")
        try:
            directory = self._directory(parent)
            info = os.stat(name, dir_fd=directory, follow_symlinks=False)
            if (stat.S_IFMT(info.st_mode), info.st_uid, info.st_gid, info.st_mtime_ns) != (
                    _FORMATS[entry.type], entry.uid, entry.gid, entry.mtime):
                return False
            if entry.type == SYMLINK:
                return os.readlink(name, dir_fd=directory) == entry.link
        except (OSError, ValueError):
            return False
        return stat.S_IMODE(info.st_mode) == entry.mode and info.st_size == entry.size and info.st_nlink == 1

    def _directory(self, parent: bytes) -> int:
        """A descriptor that is good until the next call: a client goes through its directories one by one."""
        if self._parent[0] != parent:
            fd = open_in_root(self._root, parent or b".", _OPEN)
            os.close(self._parent[1])
            self._parent = parent, fd
        return self._parent[1]

    def drop_others(self, names: Collection[bytes]) -> None:
        """Remove what is not among ``names``. Blocks."""
        doomed: list[bytes] = []
        for _, path, directories, others in walk(self._root):
            prefix = b"".join(part + b"/" for part in path)
            doomed += [prefix + name for name in (*directories, *others) if prefix + name not in names]
        self._remove(doomed)

    def drop_attributed(self) -> None:
        self._remove(self._attributed)

    def _remove(self, doomed: Collection[bytes]) -> None:
        for name in doomed:
            parent, _, base = name.rpartition(b"/")
            try:
                fd = open_in_root(self._root, parent or b".", _OPEN)
            except OSError:
                continue  # its directory was removed before
            try:
                remove_tree(fd, base)
            finally:
                os.close(fd)


class KeptContexts(Directories):
    kind = "source"

    @asynccontextmanager
    async def enter(self, client: str, name: str) -> AsyncIterator[KeptFiles | None]:
        """What ``client`` sent of its directory ``name``, to be brought up to date in the block. None where a client
        does not say who it is, and for the second of two builds at the same time.
        """
        key = hashlib.sha256(f"{client}\0{name}".encode()).hexdigest()
        if not client or self.in_use(key):
            yield None
            return
        self._enter(key)
        try:
            os.makedirs(self.path(key), mode=0o755, exist_ok=True)
            files = KeptFiles(self.path(key))
            try:
                yield files
            finally:
                files.drop_attributed()
                files.close()
                await uncut(self._settle(key, name))
        finally:
            self._leave(key)

    async def _settle(self, key: str, name: str) -> None:
        """Note the use, and remove what is too large or was not used for long."""
        await self._cache.note_directory(self.kind, key, f"local source for {name}")
        used = [entry.key for entry in await self._cache.all() if entry.kind == self.kind]
        doomed = [old for old in used[_MOST:] if not self.in_use(old)]
        if await self.size(key) > _LARGEST:
            doomed.append(key)
        await self._cache.remove(doomed)
        for each in doomed:
            await self.remove(each)
