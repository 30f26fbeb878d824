"""The registry's storage in one directory of a local file system that has hard links."""

from __future__ import annotations

import asyncio
import fcntl
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager

from barque.errors import Conflict
from barque.registry.storage import durable
from barque.registry.storage.base import Freed
from barque.registry.storage.blobs import FilesystemBlobs
from barque.registry.storage.manifests import FilesystemManifests

VERSION = b"1\n"


class UnknownLayout(Conflict):
    text = "{root} is not a registry root of this version (found version {found!r})"


class FilesystemStorage:
    """Meets :class:`barque.registry.storage.base.Storage`.

    Several processes may serve it, and another one collect or check it at the same time: a lock file per repository
    keeps collections apart from the others (flock(2), which ends with its holder).
    """

    def __init__(self, root: str) -> None:
        self._root = root = os.path.abspath(root)
        os.makedirs(root, mode=0o700, exist_ok=True)
        found = durable.read_file(f"{root}/version")
        if found is None and not os.listdir(root):
            durable.write_file(f"{root}/version", VERSION)
        elif found != VERSION:
            raise UnknownLayout(root=root, found=found)
        self._threads = ThreadPoolExecutor(8, thread_name_prefix="registry")
        self.blobs = FilesystemBlobs(root, self._threads)
        self.manifests = FilesystemManifests(root, self._threads)

    async def probe(self) -> None:
        path = f"{self._root}/version"
        if await asyncio.to_thread(durable.read_file, path) != VERSION:
            raise FileNotFoundError(f"{path} is gone")

    async def guarded(self, repository: str, action: Callable[[], Awaitable[None]]) -> None:
        async with self._locked(repository, fcntl.LOCK_SH):
            await action()

    @asynccontextmanager
    async def exclusive(self, repository: str) -> AsyncIterator[None]:
        async with self._locked(repository, fcntl.LOCK_EX):
            yield

    @asynccontextmanager
    async def _locked(self, repository: str, kind: int) -> AsyncIterator[None]:
        directory = f"{self._root}/repositories/{repository}"
        os.makedirs(directory, mode=0o700, exist_ok=True)
        fd = os.open(f"{directory}/_lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            try:
                fcntl.flock(fd, kind | fcntl.LOCK_NB)
            except BlockingIOError:
                # Not in the storage's own threads: those who wait must not keep the holder from its work.
                await asyncio.to_thread(fcntl.flock, fd, kind)
            yield
        finally:
            os.close(fd)

    async def drop_unused(self, oldest: float, oldest_upload: float) -> Freed:
        return await self.blobs.run(self.blobs.drop_unused, oldest_upload)  # type: ignore[no-any-return]

    def close(self) -> None:
        self._threads.shutdown()

    async def aclose(self) -> None:
        self.close()
