"""What a crash leaves behind in the data root, removed before anything is served."""

from __future__ import annotations

import asyncio
import os
import re
import time
from dataclasses import dataclass

from barque.store.db import Database
from barque.store.layout import Layout
from barque.store.leases import Leases
from barque.store.snapshots import Snapshots

#: A broken download is kept that long, so that the next try can go on from where it stopped. Seconds.
INGEST_LIFETIME = 24 * 3600
_INGEST_NAME = re.compile(r"sha(?:256|384|512)-[0-9a-f]+\Z")


@dataclass(frozen=True)
class CleanUp:
    leases: int
    ingests: int
    blobs: int
    snapshots: int


async def clean_up(layout: Layout, db: Database, leases: Leases, snapshots: Snapshots) -> CleanUp:
    """Drop dead leases, stale partial downloads, blobs and snapshot directories without rows, and writable layers of
    containers that were never recorded, with what they hold besides (``<id>:...``). Big directories are still being
    deleted on return.
    """
    expired = await leases.expire_all()
    recorded = {row[0] for row in await db.read(lambda connection: connection.execute(
        "SELECT digest FROM blobs").fetchall())}
    ingests = await asyncio.to_thread(_drop_ingests, layout.ingest)
    blobs = await asyncio.to_thread(drop_blobs, layout.blobs, recorded)
    await db.write(lambda connection: connection.execute(
        "DELETE FROM snapshots WHERE kind = 'container' AND "
        "substr(key, 1, instr(key || ':', ':') - 1) NOT IN (SELECT id FROM containers) "
        "AND key NOT IN (SELECT key FROM build_cache WHERE kind = 'mount')"))
    numbers = await unrecorded_snapshots(layout, db)
    await snapshots.remove_unrecorded(numbers)
    return CleanUp(expired, ingests, blobs, len(numbers))


def _drop_ingests(directory: str) -> int:
    now = time.time()
    dropped = 0
    for entry in os.scandir(directory):
        stale = now - entry.stat(follow_symlinks=False).st_mtime > INGEST_LIFETIME
        if stale or not _INGEST_NAME.match(entry.name):
            os.unlink(entry.path)
            dropped += 1
    return dropped


def unrecorded_blobs(directory: str, recorded: set[str]) -> list[str]:
    """Paths of files below ``blobs`` that have no row."""
    return [entry.path for algorithm in os.scandir(directory) if algorithm.is_dir(follow_symlinks=False)
            for entry in os.scandir(algorithm.path) if f"{algorithm.name}:{entry.name}" not in recorded]


def drop_blobs(directory: str, recorded: set[str]) -> int:
    paths = unrecorded_blobs(directory, recorded)
    for path in paths:
        os.unlink(path)
    return len(paths)


async def unrecorded_snapshots(layout: Layout, db: Database) -> list[int]:
    """Numbers of snapshot directories that have no row."""
    known = {row[0] for row in await db.read(lambda connection: connection.execute(
        "SELECT id FROM snapshots").fetchall())}
    return sorted(int(name) for name in os.listdir(layout.snapshots) if name.isdigit() and int(name) not in known)
