"""Comparing unpacked layers with the blobs that they came from, file by file, by unpacking each a second time."""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import sqlite3
import stat
from collections.abc import Collection, Iterator
from dataclasses import dataclass

from barque.errors import BarqueError
from barque.oci import media_types
from barque.store.content import BlobNotFound, ContentStore
from barque.store.db import Database
from barque.store.gc import references
from barque.store.mend import mend
from barque.store.settling import torn_layers
from barque.store.snapshots import NoSuchSnapshot, Snapshots
from barque.store.tar.messages import UnpackRequest
from barque.store.threads import to_the_end
from barque.store.tree import walk
from barque.store.workers import InvalidArchive, Workers, unpack_layer
from barque.sys.xattr import get_all

log = logging.getLogger("barque.store.verify")
_BLOCK = 1 << 20


@dataclass(frozen=True)
class CorruptLayer:
    chain_id: str
    path: str  # the first one that differs
    repaired: bool


@dataclass(frozen=True)
class _Source:
    digest: str
    diff_id: str
    compression: str
    parent: str | None


async def corrupt_layers(db: Database, content: ContentStore, snapshots: Snapshots, workers: Workers, *,
                         repair: bool) -> list[CorruptLayer]:
    """Layers that differ from what their blobs unpack to; those without a good blob cannot be told and are passed over.

    ``repair`` puts the newly unpacked directory in the place of the other, except where a container uses the layer.
    """
    found = []
    used = await db.read(_used)
    spoilt: set[str | None] = set()  # by what lies below them: links and directories come from there
    sources = await db.read(lambda connection: dict(_sources(connection.execute(
        "SELECT digest, media_type FROM blobs").fetchall(), content)))
    for chain_id, source in sources.items():
        if source.parent in spoilt:
            spoilt.add(chain_id)
        elif await snapshots.layer(chain_id) is not None:
            damage = await _compare(chain_id, source, content, snapshots, workers,
                                    repair and chain_id not in used)
            if damage is not None:
                found.append(damage)
                if not damage.repaired:
                    spoilt.add(chain_id)
    return found


def _used(connection: sqlite3.Connection) -> set[str]:
    """The layers below the writable ones."""
    return {row[0] for row in connection.execute(
        "WITH RECURSIVE used (key) AS (SELECT parent FROM snapshots WHERE kind = 'container' UNION "
        "SELECT s.parent FROM snapshots s JOIN used ON s.key = used.key) SELECT key FROM used WHERE key IS NOT NULL")}


def _sources(blobs: list[tuple[str, str]], content: ContentStore) -> Iterator[tuple[str, _Source]]:
    """The layer blob of each chain id, parents before children, as the manifests and configs at hand tell."""
    types = dict(blobs)
    for digest, media_type in blobs:
        if media_type not in media_types.MANIFESTS:
            continue
        *layers, config = references(content.path(digest), media_type).blobs or [""]
        image = references(content.path(config), types[config]) if config in types else None
        if image is None or len(image.chain) != len(layers):
            continue
        for index, (chain_id, layer) in enumerate(zip(image.chain, layers, strict=True)):
            if layer in types:
                yield chain_id, _Source(layer, image.diff_ids[index],
                                        media_types.LAYER_COMPRESSION.get(types[layer], ""),
                                        image.chain[index - 1] if index else None)


async def _compare(chain_id: str, source: _Source, content: ContentStore, snapshots: Snapshots, workers: Workers,
                   repair: bool) -> CorruptLayer | None:
    number, fresh = await snapshots.scratch()
    kept = False
    try:
        await _unpack_again(source, fresh, content, snapshots, workers)
        stored = (await snapshots.image_lower(chain_id))[0]
        different = await to_the_end(first_difference, stored, fresh)
        if different is None:
            return None
        if repair:
            await snapshots.replace_layer(chain_id, number)
            kept = True
        return CorruptLayer(chain_id, os.fsdecode(different), repair)
    except (InvalidArchive, NoSuchSnapshot):
        return None  # the blob or the parent is damaged, which is another finding
    finally:
        if not kept:
            await snapshots.remove_unrecorded([number])


async def _unpack_again(source: _Source, target: str, content: ContentStore, snapshots: Snapshots,
                        workers: Workers) -> None:
    lower = await snapshots.image_lower(source.parent)
    with content.open(source.digest) as blob:
        result = await unpack_layer(workers, blob.fileno(), target, UnpackRequest(source.compression, source.diff_id))
    await to_the_end(mend, target, lower, result)


async def restore_torn(db: Database, content: ContentStore, snapshots: Snapshots, workers: Workers) -> None:
    """At boot, before anything is mounted: unpack the layers again that a power cut may have torn (store.settling).

    One that cannot be is named in the log, keeps its mark and is tried again at the next boot.
    """
    torn = await torn_layers(db)
    if torn:
        sources = await db.read(lambda connection: dict(_sources(connection.execute(
            "SELECT digest, media_type FROM blobs").fetchall(), content)))
        for chain_id in torn:
            log.warning("the machine went down while layer %s was fresh: unpacking it again", chain_id)
            await _restore(chain_id, sources.get(chain_id), content, snapshots, workers)
    snapshots.settler.begin()


async def restore(chain_ids: Collection[str], db: Database, content: ContentStore, snapshots: Snapshots,
                  workers: Workers) -> set[str]:
    """Unpack layers again whose rows are there and whose directories are not; those that could be. Parents first."""
    sources = await db.read(lambda connection: dict(_sources(connection.execute(
        "SELECT digest, media_type FROM blobs").fetchall(), content)))
    return {chain_id for chain_id, source in sources.items()
            if chain_id in chain_ids and await _restore(chain_id, source, content, snapshots, workers)}


async def _restore(chain_id: str, source: _Source | None, content: ContentStore, snapshots: Snapshots,
                   workers: Workers) -> bool:
    number, fresh = await snapshots.scratch()
    try:
        if source is None:
            raise BlobNotFound(digest=f"of layer {chain_id}")
        await _unpack_again(source, fresh, content, snapshots, workers)
        await snapshots.replace_layer(chain_id, number)
    except (BarqueError, OSError) as error:
        log.error("layer %s may be damaged, pull its image again: %s", chain_id, error)
        await snapshots.remove_unrecorded([number])
        return False
    return True


def first_difference(one: str, other: str) -> bytes | None:
    """The path of the first entry in which two trees differ: names, attributes, contents; None where they are equal."""
    first, second = dict(_entries(one)), dict(_entries(other))
    return min((path for path in first.keys() | second.keys() if first.get(path) != second.get(path)), default=None)


def _entries(root: str) -> Iterator[tuple[bytes, tuple[object, ...]]]:
    top = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for fd, path, _, others in walk(top):
            prefix = b"/".join(path)
            yield prefix or b"/", _signature(fd, b".")
            for name in others:
                yield (prefix + b"/" + name if prefix else name), _signature(fd, name)
    finally:
        os.close(top)


def _signature(fd: int, name: bytes) -> tuple[object, ...]:
    info = os.lstat(name, dir_fd=fd)
    kind = stat.S_IFMT(info.st_mode)
    content: bytes | str | int = b""
    if kind == stat.S_IFLNK:
        content = os.readlink(name, dir_fd=fd)
    elif kind == stat.S_IFREG:
        content = _hash(fd, name)
    elif kind in (stat.S_IFCHR, stat.S_IFBLK):
        content = info.st_rdev
    # Whiteouts and implicit directories have the time at which they were made.
    time = info.st_mtime_ns if kind == stat.S_IFREG else 0
    return info.st_mode, info.st_uid, info.st_gid, time, content, get_all(fd, name)


def _hash(dir_fd: int, name: bytes) -> str:
    """An unreadable file counts as different from any other."""
    state = hashlib.sha256()
    fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=dir_fd)
    try:
        while block := os.read(fd, _BLOCK):
            state.update(block)
    except OSError as error:
        return errno.errorcode.get(error.errno or 0, "error")
    finally:
        os.close(fd)
    return state.hexdigest()
