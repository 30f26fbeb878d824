"""The cache of an upstream within its size: what was asked for longest ago goes first."""

from __future__ import annotations

import asyncio
import logging
from fnmatch import fnmatchcase

from barque.errors import BarqueError
from barque.registry.storage.base import Entry, Storage

log = logging.getLogger("barque.registry.proxy")
#: So much of the limit is in use after an eviction: the next blob shall not cause the next one.
_FILL = 0.9
#: Fetches until the blobs are counted anew, as others may have deleted some.
_RECOUNT = 500


class CacheSize:
    """At most ``limit`` bytes of blobs in the repositories that match ``pattern``, and one blob more.

    Blobs alone count, each for every repository that has it. Manifests and tags stay: their blobs are fetched again.
    """

    def __init__(self, storage: Storage, pattern: str, limit: int) -> None:
        self._storage = storage
        self._pattern = pattern
        self._limit = limit
        self._used: int | None = None
        self._added = 0
        self._turn = asyncio.Lock()

    async def added(self, size: int) -> None:
        """After a blob of ``size`` bytes has been stored."""
        async with self._turn:
            try:
                await self._make_room(size)
            except (BarqueError, OSError) as error:
                log.error("the cache of %s is not kept within its size: %s", self._pattern, error)

    async def _make_room(self, size: int) -> None:
        self._added += 1
        if self._used is not None and self._added < _RECOUNT:
            self._used += size
            if self._used <= self._limit:
                return
        entries = await self._entries()
        self._used, self._added = sum(entry.size for _, entry in entries), 0
        if self._used <= self._limit:
            return
        entries.sort(key=lambda held: held[1].used)
        for repository, entry in entries[:-1]:
            if self._used <= self._limit * _FILL:
                break
            await self._storage.blobs.delete(repository, entry.digest)
            self._used -= entry.size
            log.info("evicted %s of %s", entry.digest, repository)

    async def _entries(self) -> list[tuple[str, Entry]]:
        return [(repository, entry) for repository in await self._storage.manifests.repositories()
                if fnmatchcase(repository, self._pattern) for entry in await self._storage.blobs.entries(repository)]
