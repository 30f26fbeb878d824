"""How many bytes a group of repositories may hold."""

from __future__ import annotations

import time
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


@dataclass
class _Count:
    used: int
    at: float


class Quotas:
    """Each repository's blobs count in full, whether or not their content is shared with others."""

    def __init__(self, storage: Storage, quotas: tuple[Quota, ...]) -> None:
        self._storage = storage
        self._quotas = quotas
        self._counts: dict[Quota, _Count] = {}

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
        count = self._counts.get(quota)
        if count is None or time.monotonic() - count.at > _RECOUNT:
            used = 0
            for repository in await self._storage.manifests.repositories():
                if fnmatchcase(repository, quota.repositories):
                    used += sum(entry.size for entry in await self._storage.blobs.entries(repository))
            count = self._counts[quota] = _Count(used, time.monotonic())
        return count.used

    def add(self, repository: str, size: int) -> None:
        for quota in self._for(repository):
            if quota in self._counts:
                self._counts[quota].used += size

    def forget(self) -> None:
        """Count anew at the next look: something was deleted."""
        self._counts.clear()
