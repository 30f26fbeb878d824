"""The registry's storage in one bucket of an S3-compatible object store. Any number of processes may serve it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from barque.registry.storage.base import Freed
from barque.registry.storage.s3.blobs import S3Blobs
from barque.registry.storage.s3.client import S3
from barque.registry.storage.s3.locks import Locks
from barque.registry.storage.s3.manifests import S3Manifests


class S3Storage:
    """Meets :class:`barque.registry.storage.base.Storage`."""

    def __init__(self, s3: S3, *, redirect: bool = False) -> None:
        self._s3 = s3
        self._locks = Locks(s3)
        self.blobs = S3Blobs(s3, self._locks, redirect=redirect)
        self.manifests = S3Manifests(s3)

    async def probe(self) -> None:
        await self._s3.head("index/probe")

    async def guarded(self, repository: str, action: Callable[[], Awaitable[None]]) -> None:
        async with self._locks.shared(f"repository/{repository}"):
            await action()

    @asynccontextmanager
    async def exclusive(self, repository: str) -> AsyncIterator[None]:
        async with self._locks.exclusive(f"repository/{repository}"):
            yield

    async def drop_unused(self, oldest: float, oldest_upload: float) -> Freed:
        return await self.blobs.drop_unused(oldest, oldest_upload)

    async def aclose(self) -> None:
        await self._s3.close()
