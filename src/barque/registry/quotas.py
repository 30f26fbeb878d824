"""How many bytes a group of repositories may hold."""

from __future__ import annotations

import asyncio
import mmap
import struct
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase

from barque.registry.errors import RegistryError
from barque.registry.storage.base import Storage

#: Usage is counted anew after so many seconds; in between, uploads are added to the last count.
_RECOUNT = 30.0


@dataclass(frozen=True)
class Quota:
    """``size`` bytes for all repositories that match the pattern, together."""

    repositories: str
    size: int


#: Bytes in use, and when they were counted (0: they have to be).
_COUNT = struct.Struct("=qd")


class Quotas:
    """Each repository's blobs count in full, whether or not their content is shared with others.

    The counts are in memory that forked workers share, so that they agree.
    """

    def __init__(self, storage: Storage, quotas: tuple[Quota, ...]) -> None:
        self._storage = storage
        self._quotas = quotas
        self._counting = asyncio.Lock()
        #: What is being stored by this process: a count may see it or not.
        self._under_way: Counter[Quota] = Counter()
        self._counts = mmap.mmap(-1, max(1, len(quotas)) * _COUNT.size)

    def _count(self, quota: Quota) -> tuple[int, float]:
        used, at = _COUNT.unpack_from(self._counts, self._quotas.index(quota) * _COUNT.size)
        return used, at

    def _set(self, quota: Quota, used: int, at: float) -> None:
        _COUNT.pack_into(self._counts, self._quotas.index(quota) * _COUNT.size, used, at)

    def _for(self, repository: str) -> list[Quota]:
        return [quota for quota in self._quotas if fnmatchcase(repository, quota.repositories)]

    async def admit(self, repository: str, size: int) -> None:
        """Raise DENIED if ``size`` more bytes do not fit."""
        for quota in self._for(repository):
            used = await self._used(quota)
            if used + size > quota.size:
                raise RegistryError("DENIED", f"quota of {quota.size} bytes for {quota.repositories} exceeded: "
                                              f"{used} used, {size} more asked for")

    async def _used(self, quota: Quota) -> int:
        async with self._counting:
            before, at = self._count(quota)
            if at and time.monotonic() - at <= _RECOUNT:
                return before
            used = self._under_way[quota]
            for repository in await self._storage.manifests.repositories():
                if fnmatchcase(repository, quota.repositories):
                    used += sum(entry.size for entry in await self._storage.blobs.entries(repository))
            used += self._count(quota)[0] - before  # what was added meanwhile
            self._set(quota, used, time.monotonic())
            return used

    def apply_to(self, repository: str) -> bool:
        return bool(self._for(repository))

    @asynccontextmanager
    async def reserved(self, repository: str, size: int) -> AsyncIterator[None]:
        """Raise DENIED if ``size`` more bytes do not fit; else they count from now on, unless the inside fails."""
        await self.admit(repository, size)
        self._add(repository, size)  # before anybody else runs
        under_way = dict.fromkeys(self._for(repository), size)
        self._under_way.update(under_way)
        try:
            yield
        except BaseException:
            self._add(repository, -size)
            raise
        finally:
            self._under_way.subtract(under_way)

    def _add(self, repository: str, size: int) -> None:
        for quota in self._for(repository):
            used, at = self._count(quota)
            self._set(quota, used + size, at)

    def forget(self) -> None:
        """Count anew at the next look: something was deleted."""
        for quota in self._quotas:
            self._set(quota, self._count(quota)[0], 0.0)
