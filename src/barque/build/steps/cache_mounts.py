"""Directories that RUN steps of different builds share: ``--mount=type=cache``."""

from __future__ import annotations

import asyncio
import hashlib
import os
import secrets
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

from barque.build.cache import BuildCache
from barque.build.context import unpack
from barque.build.directories import Directories
from barque.build.dockerfile import run_mounts
from barque.build.dockerfile.run_mounts import RunMount
from barque.build.ports import Workers
from barque.errors import Conflict
from barque.store.tar.diff import write_tree
from barque.store.tar.writer import Writer
from barque.store.threads import to_the_end

_READ = 256 << 10


class CacheMountInUse(Conflict):
    text = "cache mount {name} is in use"


class CacheMounts(Directories):
    """Directories that steps of different builds share, by id, below ``root``."""

    kind = "mount"

    def __init__(self, root: str, cache: BuildCache) -> None:
        super().__init__(root, cache)
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def enter(self, stack: AsyncExitStack, mount: RunMount, target: str) -> tuple[str, bool]:
        """The directory of a cache mount for as long as ``stack`` is open, and whether it is new."""
        name = mount.id or target
        key = _key(name, mount.source_stage, mount.source)
        if mount.sharing == run_mounts.LOCKED:
            await stack.enter_async_context(self._locks[key])
        elif mount.sharing == run_mounts.PRIVATE and self.in_use(key):
            number = next(number for number in range(1, 1 << 20) if not self.in_use(f"{key}-{number}"))
            key = f"{key}-{number}"
        self._enter(key)
        stack.callback(self._leave, key)
        path = self.path(key)
        fresh = not os.path.isdir(path)
        if fresh:
            os.makedirs(self._root, mode=0o700, exist_ok=True)
            os.mkdir(path, 0o755)
            os.chmod(path, 0o755 if mount.mode < 0 else mount.mode)
            os.chown(path, max(mount.uid, 0), max(mount.gid, 0))
        await self._cache.note_directory(self.kind, key, f"cache mount {name}")
        return path, fresh

    async def archive(self, key: str) -> AsyncIterator[bytes]:
        """The tar archive of a directory, which stays for as long; one that steps lock is not in use meanwhile."""
        async with self._locks[key]:
            self._enter(key)
            try:
                async for piece in _archived(self.path(key)):
                    yield piece
            finally:
                self._leave(key)

    async def fill(self, name: str, pieces: AsyncIterator[bytes], workers: Workers) -> None:
        """Let the directory of this name have what an archive has, and nothing else. Raises :class:`CacheMountInUse`,
        and what unpacking raises; then it is as it was.
        """
        key = _key(name, "", "")
        fresh = f"import-{secrets.token_hex(8)}"
        os.makedirs(self.path(fresh), mode=0o755)
        try:
            await unpack(workers, pieces, self.path(fresh))
            async with self._locks[key]:
                if self.in_use(key):
                    raise CacheMountInUse(name=name)
                await self.remove(key)
                os.rename(self.path(fresh), self.path(key))
                await self._cache.note_directory(self.kind, key, f"cache mount {name}")
        finally:
            await self.remove(fresh)


def _key(name: str, stage: str, source: str) -> str:
    return hashlib.sha256(f"{name}\0{stage}\0{source}".encode()).hexdigest()


def _write(path: str, pipe: int) -> None:
    """The archive of a directory into a pipe, which is closed; a reader that went away is no failure."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with open(pipe, "wb", buffering=_READ) as out:
            writer = Writer(out.write)
            write_tree(writer, fd, b"")
            writer.close()
    except BrokenPipeError:
        return
    finally:
        os.close(fd)


async def _archived(path: str) -> AsyncIterator[bytes]:
    reading, writing = os.pipe2(os.O_CLOEXEC)
    work = asyncio.ensure_future(to_the_end(_write, path, writing))
    try:
        while piece := await asyncio.to_thread(os.read, reading, _READ):
            yield piece
        await work
    finally:
        os.close(reading)
        await asyncio.wait([work])
