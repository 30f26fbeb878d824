"""Verify what the storage holds: every blob and manifest against its digest, every reference against what is there."""

from __future__ import annotations

import asyncio
import hashlib
from dataclasses import dataclass

from barque.errors import BarqueError
from barque.oci.digest import Digest
from barque.registry.collect import known_manifests
from barque.registry.storage.base import Blob, Storage

_STEP = 1 << 20


@dataclass(frozen=True)
class Damage:
    repository: str
    what: str

    def __str__(self) -> str:
        return f"{self.repository}: {self.what}"


async def check(storage: Storage, *, repair: bool = False, copies: tuple[str, ...] = ()) -> list[Damage]:
    """``repair`` removes blobs and manifests whose bytes are not those of their digest, and tags that name nothing.

    A later push brings them back. What a manifest misses is told of and left: the rest of the image may be of use.
    ``copies``: prefixes of repositories that hold only what somebody asked for of another registry.
    """
    found: list[Damage] = []
    for repository in await storage.manifests.repositories():
        found += await _manifests(storage, repository, repair)
        found += await _blobs(storage, repository, repair)
        if not repository.startswith(tuple(f"{prefix}/" for prefix in copies)):
            found += await _references(storage, repository)
    return found


async def _manifests(storage: Storage, repository: str, repair: bool) -> list[Damage]:
    found = []
    for entry in await storage.manifests.entries(repository):
        stored = await storage.manifests.get(repository, entry.digest)
        if stored is not None and Digest.of(stored.body, entry.digest.algorithm) != entry.digest:
            found.append(Damage(repository, f"manifest {entry.digest} is damaged"))
            if repair:
                await storage.manifests.delete(repository, entry.digest, None)
    for tagged in await storage.manifests.tagged(repository):
        if await storage.manifests.get(repository, tagged.digest) is None:
            found.append(Damage(repository, f"tag {tagged.tag} names {tagged.digest}, which is not there"))
            if repair:
                await storage.manifests.untag(repository, tagged.tag)
    return found


async def _blobs(storage: Storage, repository: str, repair: bool) -> list[Damage]:
    found = []
    for entry in await storage.blobs.entries(repository):
        blob = await storage.blobs.get(repository, entry.digest)
        if blob is not None and await _digest(blob, entry.digest.algorithm) != entry.digest:
            found.append(Damage(repository, f"blob {entry.digest} is damaged"))
            if repair:
                await storage.blobs.delete(repository, entry.digest)
    return found


async def _digest(blob: Blob, algorithm: str) -> str:
    state = hashlib.new(algorithm)
    if blob.open is not None:
        async for chunk in blob.open(0, blob.size):
            await asyncio.to_thread(state.update, chunk)
    else:
        await asyncio.to_thread(_read_into, state.update, blob.path)
    return f"{algorithm}:{state.hexdigest()}"


def _read_into(update: object, path: str) -> None:
    assert callable(update)
    with open(path, "rb", buffering=0) as file:
        while data := file.read(_STEP):
            update(data)


async def _references(storage: Storage, repository: str) -> list[Damage]:
    try:
        manifests = await known_manifests(storage, repository)
    except BarqueError as error:
        return [Damage(repository, f"unreadable manifest: {error}")]
    blobs = {entry.digest for entry in await storage.blobs.entries(repository)}
    return [Damage(repository, f"manifest {known.digest} names {digest}, which is not there")
            for known in manifests.values()
            for digest in (*known.children, *known.blobs) if digest not in blobs and digest not in manifests]
