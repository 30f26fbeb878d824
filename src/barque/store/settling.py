"""Making unpacked layers durable behind the back of whoever waits for them, and mending what a power cut tore.

A layer whose blob is stored can be unpacked again, so its files need not be on the disk when its row is: the row says
under which boot of the machine they were written (``unsynced``), and loses that mark after a syncfs(2). Rows that still
have the mark of an earlier boot are torn, perhaps: their layers are unpacked again before anything uses them.
The death of the daemon alone tears nothing: the page cache outlives it.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import Sequence
from contextlib import suppress

from barque.failpoints import hit
from barque.store.db import Database
from barque.store.threads import to_the_end
from barque.sys.fsync import syncfs

log = logging.getLogger("barque.store.settling")
_BOOT_ID = "/proc/sys/kernel/random/boot_id"
#: Seconds. The sync would hold up that of the row which names the image, and one sync does for all that comes by then.
_PAUSE = 0.25


def boot_id() -> str:
    """What names this boot of the machine (random(4))."""
    with open(_BOOT_ID) as file:
        return file.read().strip()


class Settler:
    """Syncs the file system of ``root`` in the background; one sync settles all rows that were there when it began."""

    def __init__(self, db: Database, root: str) -> None:
        self._db = db
        self._root = root
        self._task: asyncio.Task[None] | None = None
        self._again = False
        self._hurry = asyncio.Event()

    def begin(self) -> None:
        """Settle soon what is recorded by now; returns at once."""
        self._again = True
        if self._task is None or self._task.done():
            self._hurry.clear()
            self._task = asyncio.ensure_future(self._run())

    async def wait(self) -> None:
        """Until everything begun so far is on the disk (or has failed to get there, which is logged)."""
        self._hurry.set()
        if self._task is not None:
            await asyncio.wait([self._task])

    async def _run(self) -> None:
        while self._again:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._hurry.wait(), _PAUSE)
            self._again = False
            numbers = await self._db.read(lambda connection: [row[0] for row in connection.execute(
                "SELECT id FROM snapshots WHERE unsynced = ?", (boot_id(),))])
            if numbers:
                await self._settle(numbers)

    async def _settle(self, numbers: Sequence[int]) -> None:
        hit("snapshots.before-settle")
        try:
            await to_the_end(syncfs, self._root)
        except OSError as error:
            # The mark stays: the kernel tells of a failed write only once, so no later sync may take it away.
            log.error("layers in %s may not survive a crash of the machine: %s", self._root, error)
            return
        await self._db.write(lambda connection: _unmark(connection, numbers), durable=False)


def _unmark(connection: sqlite3.Connection, numbers: Sequence[int]) -> None:
    connection.executemany("UPDATE snapshots SET unsynced = NULL WHERE id = ?", [(number,) for number in numbers])


async def torn_layers(db: Database) -> list[str]:
    """Chain ids of layers whose files were not known to be on the disk when the machine went down."""
    return await db.read(lambda connection: [row[0] for row in connection.execute(
        "SELECT key FROM snapshots WHERE kind = 'layer' AND unsynced IS NOT NULL AND unsynced <> ? ORDER BY id",
        (boot_id(),))])
