"""A budget for the disk that images take: the least recently used ones go when a new one exceeds it."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import Awaitable, Callable
from typing import Any

from barque.errors import BarqueError
from barque.image.resolve import Images, ResolvedImage
from barque.image.use import ImageUse
from barque.store.db import Database

log = logging.getLogger("barque.engine.image_budget")
#: What a container does with its image, and what brings a new image.
_USES = frozenset({"create", "start", "die"})
_BRINGS = frozenset({"pull", "load", "import", "build", "commit", "flatten"})


class ImageBudget:
    """Hears the engine's events (:meth:`heard`). ``limit`` in bytes, 0 for none.

    ``image_of``: the image id of a container. ``in_use``: whether containers hold an image. ``discard`` removes one
    with all its names.
    """

    def __init__(self, limit: int, db: Database, images: Images, use: ImageUse, image_of: Callable[[str], str],
                 in_use: Callable[[str], bool], discard: Callable[[ResolvedImage], Awaitable[object]]) -> None:
        self._limit = limit
        self._db = db
        self._images = images
        self._use = use
        self._image_of = image_of
        self._in_use = in_use
        self._discard = discard
        self._wanted = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def heard(self, event: dict[str, Any]) -> None:
        kind, action = event["Type"], event["Action"]
        if kind == "container" and action in _USES:
            self._use.note(self._image_of(event["Actor"]["ID"]))
        elif action in _BRINGS and kind in ("image", "container") and self._limit:
            self._wanted.set()
            if self._task is None:
                self._task = asyncio.create_task(self._run())

    async def close(self) -> None:
        """Write down what is known of uses."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        await self._use.save({image.id for image in await self._images.all()})

    async def _run(self) -> None:
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            try:
                await self.trim()
            except BarqueError as error:
                log.error("images over their budget could not be removed: %s", error)

    async def trim(self) -> None:
        """Remove what has not been used for longest until the rest fits. The newest stays, however big it is."""
        while (taken := await self._taken()) > self._limit:
            images = sorted(await self._images.all(), key=self._last)[:-1]
            oldest = next((image for image in images if not self._in_use(image.id)), None)
            if oldest is None:
                log.warning("images take %d bytes of a budget of %d, and all are in use", taken, self._limit)
                return
            log.info("removing image %s, used last %d seconds before the newest: images take %d bytes of %d",
                     oldest.short_id, (self._last(images[-1]) - self._last(oldest)) // 10**9, taken, self._limit)
            await self._discard(oldest)

    def _last(self, image: ResolvedImage) -> int:
        """A name is given when an image comes."""
        return max(image.updated, self._use.last(image.id))

    async def _taken(self) -> int:
        """Bytes of all blobs and layers, whoever they belong to."""
        def total(connection: sqlite3.Connection) -> int:
            return int(connection.execute(
                "SELECT (SELECT coalesce(sum(size), 0) FROM blobs) + "
                "(SELECT coalesce(sum(size), 0) FROM snapshots WHERE kind = 'layer')").fetchone()[0])

        return await self._db.read(total)
