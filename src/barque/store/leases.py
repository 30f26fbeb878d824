"""Leases keep blobs and snapshots from collection while nothing else refers to them yet.

What a lease holds is written in the same transaction as the row of the thing itself, so no moment is left in which a
collection could take it. Leases live as long as their ``async with``; those of a daemon that died are dropped at boot.
"""

from __future__ import annotations

import secrets
import sqlite3
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from barque.store.db import Database
from barque.store.threads import uncut


@dataclass(frozen=True)
class Lease:
    id: str
    why: str

    def add(self, connection: sqlite3.Connection, kind: str, item: str) -> None:
        """Hold ``item`` ("blob": a digest, "snapshot": a key) from within a write transaction."""
        connection.execute("INSERT OR IGNORE INTO lease_items VALUES (?, ?, ?)", (self.id, kind, item))


class Leases:
    def __init__(self, db: Database) -> None:
        self._db = db
        self._held: set[str] = set()

    @asynccontextmanager
    async def hold(self, why: str) -> AsyncIterator[Lease]:
        """A lease for the time of the block; ``why`` is for people who look at the database.

        Not durable: no lease outlives the daemon anyway.
        """
        lease = Lease(secrets.token_hex(16), why)
        self._held.add(lease.id)
        try:
            await uncut(self._db.write(lambda connection: connection.execute(
                "INSERT INTO leases VALUES (?, ?, ?)", (lease.id, why, time.time_ns())), durable=False))
            yield lease
        finally:
            await uncut(self._db.write(lambda connection: connection.execute(
                "DELETE FROM leases WHERE id = ?", (lease.id,)), durable=False))
            self._held.discard(lease.id)

    async def dangling(self) -> list[tuple[str, str]]:
        """``(id, why)`` of leases that nobody holds."""
        rows = await self._db.read(lambda connection: connection.execute("SELECT id, why FROM leases").fetchall())
        return [(lease, why) for lease, why in rows if lease not in self._held]

    async def drop(self, lease: str) -> None:
        await self._db.write(lambda connection: connection.execute("DELETE FROM leases WHERE id = ?", (lease,)))

    async def expire_all(self) -> int:
        """At boot: drop the leases of the daemon before; returns how many there were."""
        return await self._db.write(lambda connection: connection.execute("DELETE FROM leases").rowcount)
