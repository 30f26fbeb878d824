"""What builds have cached: listed, pruned, and taken in and out of the engine."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any, Protocol

from barque.build import portable_cache
from barque.build.cache import CacheEntry
from barque.build.clock import rfc3339
from barque.build.directories import Directories
from barque.build.parts import Parts
from barque.build.portable_cache import PortableCache
from barque.engine import clock
from barque.errors import InvalidArgument, NotFound
from barque.image.archive import BadArchive, Members, Receiver, read_document
from barque.image.pipes import fed
from barque.image.save import blob_path
from barque.oci import go_json
from barque.oci.descriptor import Descriptor
from barque.oci.manifest import Index, Manifest, parse
from barque.store.content import ContentStore
from barque.store.gc import GcReport
from barque.store.leases import Lease

_MAX_DOCUMENT = 64 << 20
#: Kinds of rows in BuildKit's words.
_TYPES = {"step": "regular", "mount": "exec.cachemount", "source": "source.local"}
#: What a prune can be about, as dockerd has it: an expression for ids, a type, a description; the rest without a value.
CHOOSING = ("id", "type", "description", "parent", "inuse", "shared", "private")


class NoSuchCacheMount(NotFound):
    text = "No such cache mount: {ref}"


class Collector(Protocol):
    async def __call__(self) -> GcReport: ...


class BuildCacheService:
    def __init__(self, parts: Parts, content: ContentStore, portable: PortableCache, collect: Collector,
                 emit: Callable[[str, str, str, Mapping[str, str]], None]) -> None:
        self._parts = parts
        self._content = content
        self._portable = portable
        self._collect = collect
        self._emit = emit
        self._directories: dict[str, Directories] = {
            found.kind: found for found in (parts.cache_mounts, parts.kept_contexts)}

    async def prune(self, *, everything: bool, keep: int, until: str, mounts_only: bool = False,
                    only: Mapping[str, str] | None = None) -> dict[str, Any]:
        """``POST /build/prune``: drop cached steps that no image needs (or all), the oldest first, down to ``keep``
        bytes. ``mounts_only``: only shared cache directories, and ``keep`` is about them alone. ``only``: those that
        fit, see :data:`CHOOSING`.
        """
        limit = None
        if until:
            limit = clock.parse_moment(until, time.time_ns())
            if limit is None:
                raise InvalidArgument(f"invalid value for 'until' filter: {until!r}")
        entries = [entry for entry in await self._parts.cache.all() if entry.kind == "mount" or not mounts_only]
        sizes = {entry.key: await self._size(entry) for entry in entries}
        total = sum(sizes.values())
        doomed: list[CacheEntry] = []
        for entry in reversed(entries):
            if keep and total <= keep:
                break
            if (limit is not None and entry.used > limit) or self._in_use(entry):
                continue
            if only and not _fits(self._row(entry, sizes[entry.key]), only):
                continue
            if entry.kind == "mount" and not everything and not keep and not mounts_only:
                continue
            doomed.append(entry)
            total -= sizes[entry.key]
        return await self._drop(doomed, sizes)

    async def _drop(self, doomed: list[CacheEntry], sizes: dict[str, int]) -> dict[str, Any]:
        await self._parts.cache.remove(entry.key for entry in doomed)
        reclaimed = 0
        for entry in doomed:
            if entry.kind in self._directories:
                await self._directories[entry.kind].remove(entry.key)
                reclaimed += sizes[entry.key]
        report = await self._collect()
        reclaimed += report.bytes
        self._emit("builder", "prune", "", {"reclaimed": str(reclaimed)})
        return {"CachesDeleted": [entry.key for entry in doomed] or None, "SpaceReclaimed": reclaimed}

    async def disk_usage(self) -> list[dict[str, Any]]:
        """``BuildCache`` of ``GET /system/df``."""
        return [self._row(entry, await self._size(entry)) for entry in await self._parts.cache.all()]

    def _row(self, entry: CacheEntry, size: int) -> dict[str, Any]:
        return {
            "ID": entry.key, "Type": _TYPES[entry.kind],
            "Description": entry.description, "InUse": self._in_use(entry), "Shared": False,
            "Size": size, "CreatedAt": rfc3339(entry.created), "LastUsedAt": rfc3339(entry.used),
            "UsageCount": entry.uses}

    def _in_use(self, entry: CacheEntry) -> bool:
        found = self._directories.get(entry.kind)
        return found.in_use(entry.key) if found else self._parts.cache.in_use(entry.key)

    async def _size(self, entry: CacheEntry) -> int:
        found = self._directories.get(entry.kind)
        return await found.size(entry.key) if found else entry.size

    async def export_mount(self, ref: str) -> AsyncIterator[bytes]:
        """The tar archive of a shared cache directory, by name or by the beginning of its key."""
        entry = await self._mount(ref)
        async for piece in self._parts.cache_mounts.archive(entry.key):
            yield piece

    async def _mount(self, ref: str) -> CacheEntry:
        mounts = [entry for entry in await self._parts.cache.all() if entry.kind == "mount"]
        named = [entry for entry in mounts if mount_name(entry) == ref]
        found = named or [entry for entry in mounts if ref and entry.key.startswith(ref)]
        if len(found) > 1:
            raise InvalidArgument(f"several cache mounts fit {ref}: name one by its ID")
        if not found:
            raise NoSuchCacheMount(ref=ref)
        return found[0]

    async def import_mount(self, name: str, body: AsyncIterator[bytes]) -> None:
        """Let the shared cache directory ``name`` hold what the archive has, and nothing else."""
        await self._parts.cache_mounts.fill(name, body, self._parts.workers)

    async def import_steps(self, body: AsyncIterator[bytes]) -> dict[str, Any]:
        """Take in the OCI layout that ``--cache-to type=local`` makes; what is known already stays as it is.

        Raises BadArchive, BadCache.
        """
        members = Members()
        known = {info.digest: info.size for info in await self._content.walk()}
        try:
            await fed(body, Receiver(self._content, known, members).run)
            async with self._parts.leases.hold("build cache") as lease:
                manifest = await asyncio.to_thread(self._manifest, members)
                records = portable_cache.read(self._read(members, manifest.config), "the archive")
                layers = {layer.digest: layer for layer in manifest.layers
                          if await self._adopted(lease, members, layer)}
                added = await self._portable.add(records, layers)
        finally:
            await asyncio.to_thread(members.drop)
        return {"Steps": len(records), "Added": added}

    def _manifest(self, members: Members) -> Manifest:
        index = go_json.decode(self._bytes(members, "index.json"), Index)
        for entry in index.manifests:
            document = parse(self._bytes(members, blob_path(entry.digest)), entry.media_type)
            if isinstance(document, Manifest) and document.config.media_type == portable_cache.CONFIG:
                return document
        raise BadArchive(reason="there is no build cache in it")

    def _read(self, members: Members, blob: Descriptor) -> bytes:
        return self._bytes(members, blob_path(blob.digest))

    def _bytes(self, members: Members, name: str) -> bytes:
        return read_document(members.get(name), self._content, _MAX_DOCUMENT)

    async def _adopted(self, lease: Lease, members: Members, layer: Descriptor) -> bool:
        """Whether the blob is in the store now."""
        if await self._content.info(layer.digest) is not None:
            return True
        if blob_path(layer.digest) not in members:
            return False
        member = members.get(blob_path(layer.digest))
        if member.size != layer.size:
            raise BadArchive(reason=f"{layer.digest} has {member.size} bytes, not {layer.size}")
        await self._content.adopt(lease, layer, member.path)
        return True


def mount_name(entry: CacheEntry) -> str:
    return entry.description.removeprefix("cache mount ")


def _fits(row: Mapping[str, Any], only: Mapping[str, str]) -> bool:
    """Whether a row of ``GET /system/df`` is what :data:`CHOOSING` asks for. Nothing is shared or says its parent."""
    try:
        tests: dict[str, Callable[[str], bool]] = {
            "id": lambda value: re.search(value, row["ID"]) is not None, "type": lambda value: value == row["Type"],
            "description": lambda value: value == row["Description"], "parent": lambda _: False,
            "inuse": lambda _: row["InUse"], "shared": lambda _: row["Shared"], "private": lambda _: not row["Shared"]}
        return all(tests[name](value) for name, value in only.items())
    except re.error as error:
        raise InvalidArgument(f"invalid filter 'id={only['id']}': {error}") from None
