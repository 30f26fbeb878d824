"""Checking a data root against its own rules: each kind of damage is found, named, and mended where that loses nothing.

What is mended: rows and bytes of corrupt or lost blobs are dropped, so that the next pull or load brings them back;
rows of layers whose directory or parent is lost are dropped, so that they are unpacked again; garbage is removed.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass

from barque.errors import DataLoss, NotFound
from barque.store.boot import unrecorded_blobs, unrecorded_snapshots
from barque.store.content import ContentStore
from barque.store.db import Database
from barque.store.gc import references
from barque.store.layout import Layout
from barque.store.snapshots import Snapshots
from barque.store.verify import corrupt_layers
from barque.store.workers import Workers


@dataclass(frozen=True)
class Damage:
    """``kind`` is one of the words below; ``repaired`` says whether it is gone now.

    database, blob-missing, blob-size, blob-corrupt, blob-unrecorded, layer-missing, layer-orphaned,
    layer-corrupt, snapshot-unrecorded, container-missing, container-orphaned, image-incomplete, volume-missing
    """

    kind: str
    subject: str
    detail: str
    repaired: bool = False


async def check(layout: Layout, db: Database, content: ContentStore, snapshots: Snapshots, *,
                repair: bool, workers: Workers | None = None) -> list[Damage]:
    """Look at everything; reads all blobs. Nothing else may use the data root meanwhile.

    With ``workers`` the files of all layers are compared with their blobs too, which unpacks each a second time.
    """
    found = await db.read(_integrity)
    found += await _blobs(layout, content, repair)
    found += await _layers(layout, db, snapshots, repair)
    if workers is not None:
        found += [Damage("layer-corrupt", layer.chain_id, f"{layer.path} is not as in the layer's blob", layer.repaired)
                  for layer in await corrupt_layers(db, content, snapshots, workers, repair=repair)]
    found += await _containers(layout, db)
    found += await db.read(lambda connection: _images(connection, content))
    found += await db.read(lambda connection: _volumes(connection, layout))
    return found


def _integrity(connection: sqlite3.Connection) -> list[Damage]:
    lines = [row[0] for row in connection.execute("PRAGMA integrity_check").fetchall()]
    return [Damage("database", "meta.db", line) for line in lines if line != "ok"]


async def _blobs(layout: Layout, content: ContentStore, repair: bool) -> list[Damage]:
    found = []
    infos = await content.walk()
    for info in infos:
        damage = await _blob(content, info.digest, info.size)
        if damage is not None:
            if repair:
                await content.delete(info.digest)
            found.append(Damage(*damage, repaired=repair))
    recorded = {info.digest for info in infos}
    for path in await asyncio.to_thread(unrecorded_blobs, layout.blobs, recorded):
        if repair:
            os.unlink(path)
        found.append(Damage("blob-unrecorded", os.path.basename(path), "file without a row", repair))
    return found


async def _blob(content: ContentStore, digest: str, size: int) -> tuple[str, str, str] | None:
    try:
        actual = os.stat(content.path(digest)).st_size
        if actual != size:
            return "blob-size", digest, f"{actual} bytes instead of {size}"
        await content.verify(digest, drop=False)
    except (FileNotFoundError, NotFound):
        return "blob-missing", digest, "row without a file"
    except DataLoss as error:
        return "blob-corrupt", digest, error.message
    return None


async def _layers(layout: Layout, db: Database, snapshots: Snapshots, repair: bool) -> list[Damage]:
    rows = await db.read(lambda connection: connection.execute(
        "SELECT id, key, parent FROM snapshots WHERE kind = 'layer'").fetchall())
    good = {key: parent for number, key, parent in rows
            if os.path.isdir(os.path.join(layout.snapshots, str(number), "fs"))}
    lost = [Damage("layer-missing", key, "row without a directory", repair) for _, key, _ in rows if key not in good]
    while orphans := [key for key, parent in good.items() if parent is not None and parent not in good]:
        for key in orphans:
            lost.append(Damage("layer-orphaned", key, f"parent {good.pop(key)} is missing", repair))
    if repair:
        await db.write(lambda connection: connection.executemany(
            "DELETE FROM snapshots WHERE key = ?", [(damage.subject,) for damage in lost]))
    for number in await unrecorded_snapshots(layout, db):
        lost.append(Damage("snapshot-unrecorded", str(number), "directory without a row", repair))
        if repair:
            await snapshots.remove_unrecorded([number])
    return lost


async def _containers(layout: Layout, db: Database) -> list[Damage]:
    """A writable layer is nobody's to make again: what is lost of it is only named."""
    rows = await db.read(lambda connection: connection.execute(
        "SELECT c.id, c.key, c.parent, l.id FROM snapshots c LEFT JOIN snapshots l ON l.key = c.parent "
        "WHERE c.kind = 'container'").fetchall())
    found = []
    for number, key, parent, layer in rows:
        directory = os.path.join(layout.snapshots, str(number))
        if not all(os.path.isdir(os.path.join(directory, name)) for name in ("fs", "init", "work")):
            found.append(Damage("container-missing", key, f"{directory} is lost; remove the container"))
        if parent is not None and layer is None:
            found.append(Damage("container-orphaned", key, f"layer {parent} is lost; pull the image again"))
    return found


def _images(connection: sqlite3.Connection, content: ContentStore) -> list[Damage]:
    """Names whose manifest, or what it needs for this machine, is not stored. An index may lack other platforms."""
    stored = dict(connection.execute("SELECT digest, media_type FROM blobs").fetchall())
    found = []
    for name, digest in connection.execute("SELECT name, digest FROM images ORDER BY name").fetchall():
        missing = _missing(digest, stored, content.path)
        found += [Damage("image-incomplete", name, f"{lost} is missing; pull the image again") for lost in missing]
    return found


def _missing(digest: str, stored: dict[str, str], path: Callable[[str], str]) -> list[str]:
    if digest not in stored:
        return [digest]
    children = references(path(digest), stored[digest])
    present = [child for child in children.manifests if child in stored]
    if children.manifests and not present:
        return children.manifests
    lost = [child for child in children.blobs if child not in stored]
    for manifest in present:
        lost += _missing(manifest, stored, path)
    return lost


def _volumes(connection: sqlite3.Connection, layout: Layout) -> list[Damage]:
    names = [row[0] for row in connection.execute("SELECT name FROM volumes ORDER BY name").fetchall()]
    return [Damage("volume-missing", name, "its directory is lost; remove the volume") for name in names
            if not os.path.isdir(os.path.join(layout.volumes, name, "_data"))]
