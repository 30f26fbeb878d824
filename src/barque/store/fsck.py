"""Checking a data root against its own rules: each kind of damage is found, named, and mended where that loses nothing.

What is mended: rows and bytes of corrupt or lost blobs are dropped, so that the next pull or load brings them back;
layers whose directory is lost are unpacked again, or dropped so that the next pull does; garbage is removed.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import stat
from collections.abc import Callable
from dataclasses import dataclass

from barque.errors import DataLoss, NotFound
from barque.oci.digest import Digest, InvalidDigest
from barque.store.boot import unrecorded_blobs, unrecorded_snapshots
from barque.store.content import ContentStore
from barque.store.db import Database
from barque.store.gc import references
from barque.store.layout import Layout
from barque.store.leases import Leases
from barque.store.snapshots import Snapshots
from barque.store.tree import remove_tree, walk
from barque.store.verify import corrupt_layers, restore
from barque.store.workers import Workers


@dataclass(frozen=True)
class Damage:
    """``kind`` is one of the words below; ``repaired`` says whether it is gone now.

    database, blob-missing, blob-size, blob-corrupt, blob-unreadable, blob-unrecorded, layer-missing, layer-orphaned,
    layer-corrupt, layer-unreadable, snapshot-unrecorded, container-missing, container-orphaned, image-lost,
    image-incomplete, volume-missing, lease-dangling
    """

    kind: str
    subject: str
    detail: str
    repaired: bool = False


async def check(layout: Layout, db: Database, content: ContentStore, snapshots: Snapshots, *, repair: bool,
                workers: Workers | None = None, deep: bool = True, leases: Leases | None = None) -> list[Damage]:
    """Look at everything; reads all blobs. What this process is in the middle of is passed over.

    With ``workers`` lost layers are unpacked again, and with ``deep`` the files of all layers are compared with their
    blobs, which unpacks each a second time; layers that containers use are not replaced. With ``leases`` those that
    nobody holds are found.
    """
    found = await db.read(_integrity)
    found += await _blobs(layout, content, repair)
    found += await _layers(layout, db, content, snapshots, workers, repair)
    if workers is not None and deep:
        found += [Damage("layer-corrupt", layer.chain_id, f"{layer.path} is not as in the layer's blob", layer.repaired)
                  for layer in await corrupt_layers(db, content, snapshots, workers, repair=repair)]
    found += await _containers(layout, db)
    found += await _images(db, content, repair)
    found += await db.read(lambda connection: _volumes(connection, layout))
    for lease, why in await leases.dangling() if leases is not None else ():
        if repair and leases is not None:
            await leases.drop(lease)
        found.append(Damage("lease-dangling", lease, f"held for {why!r}, by nobody", repair))
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
                await content.forget(info.digest)
                await asyncio.to_thread(_remove, content.path(info.digest))
            found.append(Damage(*damage, repaired=repair))
    recorded = {info.digest for info in infos}
    for path in await asyncio.to_thread(unrecorded_blobs, layout.blobs, recorded):
        digest = f"{os.path.basename(os.path.dirname(path))}:{os.path.basename(path)}"
        if not _is_digest(digest) or await content.unrecorded(digest):
            if repair:
                await asyncio.to_thread(_remove, path)
            found.append(Damage("blob-unrecorded", digest, "file without a row", repair))
    return found


def _is_digest(text: str) -> bool:
    try:
        return bool(Digest.parse(text))
    except InvalidDigest:
        return False


def _remove(path: str) -> None:
    """Whatever is there."""
    parent, name = os.path.split(path)
    fd = os.open(parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if os.path.isdir(path) and not os.path.islink(path):
            remove_tree(fd, name)
        elif os.path.lexists(path):
            os.unlink(name, dir_fd=fd)
    finally:
        os.close(fd)


async def _blob(content: ContentStore, digest: str, size: int) -> tuple[str, str, str] | None:
    try:
        info = os.lstat(content.path(digest))
        if not stat.S_ISREG(info.st_mode):
            return "blob-unreadable", digest, "no regular file"
        if info.st_size != size:
            return "blob-size", digest, f"{info.st_size} bytes instead of {size}"
        await content.verify(digest, drop=False)
    except (FileNotFoundError, NotFound):
        # A collection removes the row before the file.
        return ("blob-missing", digest, "row without a file") if await content.info(digest) else None
    except OSError as error:
        return "blob-unreadable", digest, str(error.strerror).lower()
    except DataLoss as error:
        return "blob-corrupt", digest, error.message
    return None


async def _layers(layout: Layout, db: Database, content: ContentStore, snapshots: Snapshots, workers: Workers | None,
                  repair: bool) -> list[Damage]:
    """What is lost is unpacked again where there are ``workers`` and a blob, and else forgotten until the next pull."""
    rows = await db.read(lambda connection: connection.execute(
        "SELECT id, key, parent FROM snapshots WHERE kind = 'layer'").fetchall())
    states = {key: await asyncio.to_thread(_readable, os.path.join(layout.snapshots, str(number), "fs"))
              for number, key, _ in rows}
    lost = [Damage("layer-missing" if "no such" in why else "layer-unreadable", key, why, repair)
            for key, why in states.items() if why]
    again: set[str] = set()
    if repair and workers is not None:
        again = await restore({damage.subject for damage in lost}, db, content, snapshots, workers)
    good = {key: parent for _, key, parent in rows if not states[key] or key in again}
    while orphans := [key for key, parent in good.items() if parent is not None and parent not in good]:
        for key in orphans:
            lost.append(Damage("layer-orphaned", key, f"parent {good.pop(key)} is missing", repair))
    if repair:
        gone = {damage.subject for damage in lost} - again
        await db.write(lambda connection: connection.executemany(
            "DELETE FROM snapshots WHERE key = ?", [(key,) for key in gone]))
        await snapshots.remove_unrecorded([number for number, key, _ in rows if key in gone])
    for number in await unrecorded_snapshots(layout, db):
        if snapshots.underway(number):
            continue
        lost.append(Damage("snapshot-unrecorded", str(number), "directory without a row", repair))
        if repair:
            await snapshots.remove_unrecorded([number])
    if repair:
        await snapshots.wait_removed()
    return lost


def _readable(directory: str) -> str:
    """What is wrong with the directory of a layer; "" for nothing."""
    try:
        fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        return str(error.strerror).lower()
    try:
        for _ in walk(fd):
            pass
    except OSError as error:
        return str(error.strerror).lower()
    finally:
        os.close(fd)
    return ""


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


async def _images(db: Database, content: ContentStore, repair: bool) -> list[Damage]:
    """Names whose manifest or config is not stored are lost, and dropped; without a layer's blob the image still runs,
    but cannot be pushed or saved until it is pulled again. An index may lack other platforms.
    """
    def look(connection: sqlite3.Connection) -> list[Damage]:
        stored = dict(connection.execute("SELECT digest, media_type FROM blobs").fetchall())
        found = []
        for name, digest in connection.execute("SELECT name, digest FROM images ORDER BY name").fetchall():
            missing = _missing(digest, stored, content.path)
            kind = "image-lost" if _is_lost(digest, stored, content.path) else "image-incomplete"
            gone = repair and kind == "image-lost"
            found += [Damage(kind, name, f"{lost} is missing; pull the image again", gone) for lost in missing]
        return found

    found = await db.read(look)
    lost = {damage.subject for damage in found if damage.kind == "image-lost"}
    if repair and lost:
        await db.write(lambda connection: connection.executemany(
            "DELETE FROM images WHERE name = ?", [(name,) for name in lost]))
    return found


def _is_lost(digest: str, stored: dict[str, str], path: Callable[[str], str]) -> bool:
    if digest not in stored:
        return True
    children = references(path(digest), stored[digest])
    if children.manifests:
        return all(_is_lost(child, stored, path) for child in children.manifests)
    return not children.blobs or children.blobs[-1] not in stored  # the config is the last


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
