"""What steps have made before, by keys over content: the table ``build_cache``."""

from __future__ import annotations

import hashlib
import sqlite3
import time
from collections.abc import Iterable
from dataclasses import dataclass

from barque.build.layers import Layer
from barque.oci.descriptor import Descriptor
from barque.store.db import Database
from barque.store.leases import Lease

#: Raised whenever a step with the same key would come out differently.
_VERSION = "1"
_COLUMNS = "key, kind, parent, description, layer, media_type, packed, diff_id, chain_id, size, created, used, uses"


@dataclass(frozen=True)
class CacheEntry:
    """One row. Times are nanoseconds since 1970, sizes bytes."""

    key: str
    kind: str
    parent: str
    description: str
    layer: str
    media_type: str
    packed: int
    diff_id: str
    chain_id: str
    size: int
    created: int
    used: int
    uses: int

    @property
    def made(self) -> Layer | None:
        if not self.layer:
            return None
        descriptor = Descriptor(media_type=self.media_type, digest=self.layer, size=self.packed)
        return Layer(descriptor, self.diff_id, self.chain_id, self.size)


def key_of(parts: Iterable[str]) -> str:
    """The key of a step from all that it depends on."""
    state = hashlib.sha256(_VERSION.encode())
    for part in parts:
        data = part.encode("utf-8", "surrogateescape")
        state.update(b"%d:" % len(data) + data)
    return state.hexdigest()


class BuildCache:
    def __init__(self, db: Database) -> None:
        self._db = db

    async def find(self, lease: Lease, key: str) -> CacheEntry | None:
        """The row, held by ``lease`` and noted as used now; None also where its layer is gone."""
        def find(connection: sqlite3.Connection) -> CacheEntry | None:
            row = connection.execute(f"SELECT {_COLUMNS} FROM build_cache WHERE key = ?",  # noqa: S608
                                     (key,)).fetchone()
            if row is None:
                return None
            entry = CacheEntry(*row)
            if entry.layer and not _whole(connection, entry):
                connection.execute("DELETE FROM build_cache WHERE key = ?", (key,))
                return None
            connection.execute("UPDATE build_cache SET used = ?, uses = uses + 1 WHERE key = ?",
                               (time.time_ns(), key))
            if entry.layer:
                lease.add(connection, "blob", entry.layer)
                lease.add(connection, "snapshot", entry.chain_id)
            return entry

        return await self._db.write(find)

    async def add(self, key: str, parent: str, description: str, layer: Layer | None, created: int) -> None:
        values: tuple[object, ...] = ("", "", 0, "", "", 0)
        if layer is not None:
            values = (layer.descriptor.digest, layer.descriptor.media_type, layer.descriptor.size, layer.diff_id,
                      layer.chain_id, layer.size)
        row = (key, "step", parent, description, *values, created, created, 0)
        await self._db.write(lambda connection: connection.execute(
            f"INSERT OR REPLACE INTO build_cache ({_COLUMNS}) VALUES ({', '.join('?' * len(row))})", row))  # noqa: S608

    async def note_mount(self, key: str, description: str) -> None:
        """A shared cache directory was used."""
        now = time.time_ns()
        await self._db.write(lambda connection: connection.execute(
            f"INSERT INTO build_cache ({_COLUMNS}) VALUES (?, 'mount', '', ?, '', '', 0, '', '', 0, ?, ?, 1) "  # noqa: S608
            "ON CONFLICT (key) DO UPDATE SET used = excluded.used, uses = uses + 1", (key, description, now, now)))

    async def all(self) -> list[CacheEntry]:
        """Every row, the one used last first."""
        rows = await self._db.read(lambda connection: connection.execute(
            f"SELECT {_COLUMNS} FROM build_cache ORDER BY used DESC, key").fetchall())  # noqa: S608
        return [CacheEntry(*row) for row in rows]

    async def remove(self, keys: Iterable[str]) -> None:
        doomed = [(key,) for key in keys]
        await self._db.write(lambda connection: connection.executemany(
            "DELETE FROM build_cache WHERE key = ?", doomed))


def _whole(connection: sqlite3.Connection, entry: CacheEntry) -> bool:
    """Whether both the blob and the unpacked layer are there still."""
    return bool(connection.execute("SELECT 1 FROM blobs WHERE digest = ?", (entry.layer,)).fetchone()) and bool(
        connection.execute("SELECT 1 FROM snapshots WHERE key = ?", (entry.chain_id,)).fetchone())
