"""What steps have made before, by keys over content: the table ``build_cache``."""

from __future__ import annotations

import hashlib
import sqlite3
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

import msgspec

from barque.build.layers import Layer
from barque.oci.descriptor import Descriptor
from barque.store.db import Database
from barque.store.threads import uncut

#: Raised whenever a step with the same key would come out differently.
_VERSION = "1"
_COLUMNS = ("key, kind, parent, description, layer, media_type, packed, diff_id, chain_id, size, created, used, uses, "
            "state, text, parts")


class Facts(msgspec.Struct, frozen=True):
    """What the key of a step was made of, to say later why another one missed it.

    ``state``: all that came before. ``text``: the instruction as written. ``parts``: the rest, by names for people.
    """

    state: str
    text: str
    parts: dict[str, str] = {}


@dataclass(frozen=True)
class CacheEntry:
    """One row. Times are nanoseconds since 1970, sizes bytes. ``parts``: those of :class:`Facts`, as JSON.

    ``whole``: the layer is there as a blob and unpacked, where the entry was looked up for a build.
    """

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
    state: str = ""
    text: str = ""
    parts: str = ""
    whole: bool = False

    @property
    def made(self) -> Layer | None:
        if not self.layer:
            return None
        descriptor = Descriptor(media_type=self.media_type, digest=self.layer, size=self.packed)
        return Layer(descriptor, self.diff_id, self.chain_id, self.size)

    @property
    def facts(self) -> Facts:
        return Facts(self.state, self.text, msgspec.json.decode(self.parts or "{}", type=dict[str, str]))


def key_of(parts: Iterable[str]) -> str:
    """The key of a step from all that it depends on."""
    state = hashlib.sha256(_VERSION.encode())
    for part in parts:
        data = part.encode("utf-8", "surrogateescape")
        state.update(b"%d:" % len(data) + data)
    return state.hexdigest()


class BuildCache:
    """Its rows are durable with the next row that is, such as the image's name: a power cut costs a cached step."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._used: Counter[str] = Counter()

    @asynccontextmanager
    async def session(self) -> AsyncIterator[CacheSession]:
        """For one build: what it finds is not pruned before the end of the block."""
        session = CacheSession(self._db, self._used)
        try:
            yield session
        finally:
            await uncut(session.close())

    def in_use(self, key: str) -> bool:
        """Whether a build that runs has found this entry."""
        return self._used[key] > 0

    async def add(self, key: str, parent: str, description: str, layer: Layer | None, created: int,
                  facts: Facts) -> None:
        values: tuple[object, ...] = ("", "", 0, "", "", 0)
        if layer is not None:
            values = (layer.descriptor.digest, layer.descriptor.media_type, layer.descriptor.size, layer.diff_id,
                      layer.chain_id, layer.size)
        row = (key, "step", parent, description, *values, created, created, 0, facts.state, facts.text,
               msgspec.json.encode(facts.parts).decode())
        statement = f"INSERT OR REPLACE INTO build_cache ({_COLUMNS}) VALUES ({', '.join('?' * len(row))})"  # noqa: S608
        await self._db.write(lambda connection: connection.execute(statement, row), durable=False)

    async def note_directory(self, kind: str, key: str, description: str) -> None:
        """A shared cache directory or the files of a client were used."""
        now = time.time_ns()
        await self._db.write(lambda connection: connection.execute(
            "INSERT INTO build_cache (key, kind, parent, description, created, used, uses) "
            "VALUES (?, ?, '', ?, ?, ?, 1) "
            "ON CONFLICT (key) DO UPDATE SET used = excluded.used, uses = uses + 1",
            (key, kind, description, now, now)), durable=False)

    async def nearest(self, facts: Facts) -> Facts | None:
        """The step that was most like this one: the same before it or the same instruction, the newest of the best."""
        row = await self._db.read(lambda connection: connection.execute(
            f"SELECT {_COLUMNS} FROM build_cache WHERE kind = 'step' AND (state = :state OR text = :text) "  # noqa: S608
            "ORDER BY (state = :state) + (text = :text) DESC, state = :state DESC, created DESC LIMIT 1",
            {"state": facts.state, "text": facts.text}).fetchone())
        return CacheEntry(*row).facts if row else None

    async def all(self) -> list[CacheEntry]:
        """Every row, the one used last first."""
        rows = await self._db.read(lambda connection: connection.execute(
            f"SELECT {_COLUMNS} FROM build_cache ORDER BY used DESC, key").fetchall())  # noqa: S608
        return [CacheEntry(*row) for row in rows]

    async def remove(self, keys: Iterable[str]) -> None:
        """Forget entries, apart from those in use."""
        doomed = [(key,) for key in keys if not self.in_use(key)]
        await self._db.write(lambda connection: connection.executemany(
            "DELETE FROM build_cache WHERE key = ?", doomed))


class CacheSession:
    """Looks entries up for one build. Reading is enough: an entry keeps its layer from collection, and whoever removes
    entries leaves those that are in use.
    """

    def __init__(self, db: Database, used: Counter[str]) -> None:
        self._db = db
        self._used = used
        self._found: Counter[str] = Counter()

    async def find(self, key: str) -> CacheEntry | None:
        """What the step made; of a layer that is not ``whole`` something has to be brought first."""
        self._used[key] += 1  # before looking, so that nobody removes it in between
        entry = await self._db.read(lambda connection: _find(connection, key))
        if entry is None:
            self._release(key)
        else:
            self._found[key] += 1
        return entry

    def _release(self, key: str, times: int = 1) -> None:
        self._used[key] -= times
        if not self._used[key]:
            del self._used[key]

    async def close(self) -> None:
        """Note what was used, and let go of it."""
        try:
            if self._found:
                now = time.time_ns()
                rows = [(now, times, key) for key, times in self._found.items()]
                await self._db.write(lambda connection: connection.executemany(
                    "UPDATE build_cache SET used = ?, uses = uses + ? WHERE key = ?", rows), durable=False)
        finally:
            for key, times in self._found.items():
                self._release(key, times)


def _find(connection: sqlite3.Connection, key: str) -> CacheEntry | None:
    row = connection.execute(f"SELECT {_COLUMNS} FROM build_cache WHERE key = ?", (key,)).fetchone()  # noqa: S608
    if row is None:
        return None
    entry = CacheEntry(*row)
    return replace(entry, whole=_whole(connection, entry)) if entry.layer else entry


def _whole(connection: sqlite3.Connection, entry: CacheEntry) -> bool:
    """Whether both the blob and the unpacked layer are there still."""
    return bool(connection.execute("SELECT 1 FROM blobs WHERE digest = ?", (entry.layer,)).fetchone()) and bool(
        connection.execute("SELECT 1 FROM snapshots WHERE key = ?", (entry.chain_id,)).fetchone())
