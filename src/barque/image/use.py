"""When each image was last used: had a container made from it, started or ended."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Collection

import msgspec

from barque.store.db import Database, DiskFull

log = logging.getLogger("barque.image.use")
_KEY = "image-use"


#: Uses are written down so long after the first of them, all at once. Seconds.
_PAUSE = 1.0


class ImageUse:
    """Kept in memory, and written down behind the uses, so that no start waits for it.

    The death of the daemon forgets those of the last second; a power cut those since the last change to anything else.
    """

    def __init__(self, db: Database, pause: float = _PAUSE) -> None:
        self._db = db
        self._pause = pause
        self._moments: dict[str, int] = {}
        self._writing: asyncio.Task[None] | None = None
        self._changed = False
        self._closed = False

    async def load(self) -> None:
        row = await self._db.read(lambda connection: connection.execute(
            "SELECT value FROM kv WHERE key = ?", (_KEY,)).fetchone())
        self._moments = msgspec.json.decode(row[0], type=dict[str, int]) if row else {}

    async def save(self, known: Collection[str]) -> None:
        """The last thing of all. ``known``: ids of the images that there are; others are forgotten."""
        self._closed = True
        if self._writing is not None:
            self._writing.cancel()
            await asyncio.wait([self._writing])
        self._moments = {image_id: moment for image_id, moment in self._moments.items() if image_id in known}
        await self._write(durable=True)

    async def _write(self, *, durable: bool) -> None:
        data = msgspec.json.encode(self._moments)
        await self._db.write(lambda connection: connection.execute(
            "INSERT OR REPLACE INTO kv VALUES (?, ?)", (_KEY, data)), durable=durable)

    def note(self, image_id: str) -> None:
        self._moments[image_id] = time.time_ns()
        self._changed = True
        if not self._closed and (self._writing is None or self._writing.done()):
            self._writing = asyncio.create_task(self._write_down())

    async def _write_down(self) -> None:
        while self._changed:
            await asyncio.sleep(self._pause)
            self._changed = False
            try:
                await self._write(durable=False)
            except DiskFull as error:
                log.warning("when images were used is not written down: %s", error)

    def last(self, image_id: str) -> int:
        """Nanoseconds since 1970; 0 for never."""
        return self._moments.get(image_id, 0)
