"""When each image was last used: had a container made from it, started or ended."""

from __future__ import annotations

import time
from collections.abc import Collection

import msgspec

from barque.store.db import Database

_KEY = "image-use"


class ImageUse:
    """Kept in memory, and written down by :meth:`save`: a crash forgets the newest. No start waits for the disk."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._moments: dict[str, int] = {}

    async def load(self) -> None:
        row = await self._db.read(lambda connection: connection.execute(
            "SELECT value FROM kv WHERE key = ?", (_KEY,)).fetchone())
        self._moments = msgspec.json.decode(row[0], type=dict[str, int]) if row else {}

    async def save(self, known: Collection[str]) -> None:
        """``known``: ids of the images that there are; others are forgotten."""
        self._moments = {image_id: moment for image_id, moment in self._moments.items() if image_id in known}
        data = msgspec.json.encode(self._moments)
        await self._db.write(lambda connection: connection.execute(
            "INSERT OR REPLACE INTO kv VALUES (?, ?)", (_KEY, data)))

    def note(self, image_id: str) -> None:
        self._moments[image_id] = time.time_ns()

    def last(self, image_id: str) -> int:
        """Nanoseconds since 1970; 0 for never."""
        return self._moments.get(image_id, 0)
