"""Cached steps outside this engine: as an artifact in a registry or an OCI layout, or within an image (``inline``).

The artifact is an OCI manifest whose config lists the steps, and whose layers are theirs. An image has the same list as
an annotation of its manifest.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence

import msgspec

from barque.build import clock
from barque.build.cache import BuildCache, CacheEntry
from barque.build.lookup import Found, Identity
from barque.build.state import State
from barque.errors import InvalidArgument
from barque.oci import go_json, media_types
from barque.oci.descriptor import Descriptor
from barque.oci.manifest import Manifest
from barque.store.content import ContentStore
from barque.store.db import Database
from barque.store.leases import Lease

CONFIG = "application/vnd.barque.buildcache.config.v1+json"
ANNOTATION = "org.barque.build.cache"
_VERSION = 1


class Record(msgspec.Struct, frozen=True, omit_defaults=True):
    """One step. ``layer`` is the digest of one of the manifest's layers, "" for a step without files."""

    key: str
    created: int
    description: str = ""
    layer: str = ""
    diff_id: str = ""
    size: int = 0
    state: str = ""
    text: str = ""
    parts: str = ""


class _Document(msgspec.Struct, frozen=True):
    version: int
    records: list[Record]


class BadCache(InvalidArgument):
    text = "{where} is no build cache: {reason}"


def read(data: bytes, where: str) -> list[Record]:
    """Raises :class:`BadCache`."""
    try:
        document = msgspec.json.decode(data, type=_Document)
    except msgspec.DecodeError as error:
        raise BadCache(where=where, reason=error) from None
    if document.version != _VERSION:
        raise BadCache(where=where, reason=f"version {document.version} is not known here")
    return document.records


def annotation(entries: Iterable[CacheEntry]) -> dict[str, str]:
    """For the manifest of an image, whose layers are those of ``entries``."""
    records = [Record(entry.key, entry.created, layer=entry.layer, diff_id=entry.diff_id, size=entry.size)
               for entry in entries]
    return {ANNOTATION: msgspec.json.encode(_Document(_VERSION, records)).decode()} if records else {}


class RecordedSteps:
    """Steps that a registry has. Meets ``lookup.CacheSource``."""

    def __init__(self, records: Iterable[Record], layers: Sequence[Descriptor],
                 fetch: Callable[[Lease, Descriptor], Awaitable[None]]) -> None:
        self._records = {record.key: record for record in records}
        self._layers = {layer.digest: layer for layer in layers}
        self._fetch = fetch

    async def find(self, identity: Identity, state: State) -> Found | None:
        record = self._records.get(identity.key)
        if record is None or (record.layer and record.layer not in self._layers):
            return None
        created = clock.rfc3339(record.created)
        if not record.layer:
            return Found(created, noted=record.created)
        return Found(created, self._layers[record.layer], record.diff_id, record.size, record.created, self._fetch)


class PortableCache:
    def __init__(self, content: ContentStore, cache: BuildCache, db: Database) -> None:
        self._content = content
        self._cache = cache
        self._db = db

    async def entries(self, keys: Iterable[str]) -> list[CacheEntry]:
        """Those that are in the cache still, in this order."""
        known = {entry.key: entry for entry in await self._cache.all()}
        return [known[key] for key in dict.fromkeys(keys) if key in known]

    async def artifact(self, lease: Lease, keys: Iterable[str]) -> tuple[Descriptor, Manifest]:
        """The manifest of an artifact with these steps, stored as is its config."""
        entries = await self.entries(keys)
        layers: dict[str, Descriptor] = {}
        for entry in entries:
            if (made := entry.made) is not None:
                layers[entry.layer] = Descriptor(media_type=made.descriptor.media_type, digest=entry.layer,
                                                 size=made.descriptor.size)
        records = [Record(entry.key, entry.created, entry.description, entry.layer, entry.diff_id, entry.size,
                          entry.state, entry.text, entry.parts) for entry in entries]
        config = await self._content.put(lease, CONFIG, msgspec.json.encode(_Document(_VERSION, records)))
        manifest = Manifest(schema_version=2, media_type=media_types.OCI_MANIFEST, config=config,
                            layers=tuple(layers.values()))
        stored = await self._content.put(lease, media_types.OCI_MANIFEST, go_json.encode(manifest))
        return stored, manifest

    async def add(self, records: Iterable[Record], layers: Mapping[str, Descriptor]) -> int:
        """Note steps whose layers are stored; how many were new. Those that are known stay as they are."""
        now = time.time_ns()
        rows = []
        for record in records:
            layer = layers.get(record.layer)
            if record.layer and layer is None:
                continue
            rows.append((record.key, record.description, record.layer, layer.media_type if layer else "",
                         layer.size if layer else 0, record.diff_id, record.size, record.created, now, record.state,
                         record.text, record.parts))

        def insert(connection: sqlite3.Connection) -> int:
            before = connection.total_changes
            connection.executemany(
                "INSERT OR IGNORE INTO build_cache (key, kind, parent, description, layer, media_type, packed, "
                "diff_id, size, created, used, state, text, parts) "
                "VALUES (?, 'step', '', ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", rows)
            return connection.total_changes - before

        return await self._db.write(insert)
