"""Unpacked layers and writable layers of containers, each in ``snapshots/<n>/{fs,init,work}``, put together as Mounts.

Layers are keyed by chain id, containers by their id. A row names a whole directory; directories without rows are
garbage, which boot removes. Nothing is mounted here.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sqlite3
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from barque.errors import Conflict, DataLoss, NotFound
from barque.failpoints import hit
from barque.oci.mount import Mount
from barque.store.db import Database
from barque.store.layout import Layout
from barque.store.leases import Lease
from barque.store.locks import KeyedLocks
from barque.store.mend import inherit_root, mend
from barque.store.mount_points import make_mount_points
from barque.store.removal import Removals
from barque.store.settling import Settler, boot_id
from barque.store.tar.messages import UnpackResult
from barque.store.threads import to_the_end, uncut
from barque.store.tree import disk_usage, remove_tree
from barque.sys.fsync import fsync_dir, syncfs

if TYPE_CHECKING:
    from typing import Self

log = logging.getLogger("barque.store.snapshots")

#: redirect_dir and metacopy would tie a layer to names in another one; index to one mount at a time.
_OVERLAY_OPTIONS = ("index=off", "redirect_dir=nofollow", "metacopy=off")
#: overlayfs wants two lower directories where there is no upper one: this empty one is the second.
EMPTY = "empty"

_CHAIN = """
WITH RECURSIVE chain (id, key, parent, cut, depth) AS (
    SELECT id, key, parent, cut, 0 FROM snapshots WHERE key = ? AND kind = 'layer'
    UNION ALL
    SELECT s.id, s.key, s.parent, s.cut, chain.depth + 1 FROM snapshots s JOIN chain ON s.key = chain.parent
)
SELECT id, parent, cut FROM chain ORDER BY depth
"""


class NoSuchSnapshot(NotFound):
    text = "snapshot {key}: not found"


class SnapshotExists(Conflict):
    text = "snapshot {key}: already exists"


class BrokenChain(DataLoss):
    text = "layer {key}: its parent {parent} is missing; pull or load the image again"


class DiffIdMismatch(DataLoss):
    text = "failed to register layer: diff id {actual} of the layer is not the {expected} that the image config names"


@dataclass(frozen=True)
class LayerInfo:
    chain_id: str
    parent: str | None
    diff_id: str
    size: int     # bytes of file contents
    created: int  # nanoseconds since 1970


class LayerSlot:
    """The right to unpack one layer into ``fs``: end it by :meth:`commit` or :meth:`abort` (``async with`` aborts)."""

    def __init__(self, snapshots: Snapshots, lease: Lease, chain_id: str, parent: str | None, diff_id: str,
                 number: int) -> None:
        self.chain_id = chain_id
        self.parent = parent
        self.diff_id = diff_id
        self.number = number
        self.lease = lease
        self.finished = False
        self._snapshots = snapshots

    @property
    def fs(self) -> str:
        return os.path.join(self._snapshots.root, str(self.number), "fs")

    async def take(self, number: int) -> None:
        """Have a scratch directory, into which the layer was unpacked already, instead of the empty one."""
        empty, self.number = self.number, number
        await self._snapshots.removals.remove([empty])

    async def commit(self, result: UnpackResult) -> None:
        """Mend, sync and record; the parent must be committed before. Failure leaves the slot to be aborted.

        Raises :class:`DiffIdMismatch`, :class:`BrokenChain`, NoLinkTarget, OSError.
        """
        await self._snapshots.commit([(self, result)])

    async def abort(self) -> None:
        """Drop what was unpacked; nothing happens after a commit."""
        await self._snapshots.abandon(self)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.abort()


class Snapshots:
    def __init__(self, layout: Layout, db: Database) -> None:
        self.root = layout.snapshots
        self._db = db
        self._first = self._next = 0
        self._locks = KeyedLocks()
        self.removals = Removals(self.root)
        self.settler = Settler(db, self.root)
        os.makedirs(os.path.join(self.root, EMPTY), mode=0o755, exist_ok=True)

    async def prepare_layer(self, lease: Lease, chain_id: str, parent_chain_id: str | None,
                            diff_id: str) -> LayerSlot | None:
        """A place to unpack the layer into, or None where it exists (and is held by ``lease`` now).

        One slot at a time per chain id: others wait until it ends. Whoever prepares several layers asks for them
        bottom first, one after the other, since two askers that hold each other's layers would wait for ever.
        """
        await self._locks.acquire(chain_id)
        try:
            if await self.hold(lease, [chain_id]):
                self._locks.release(chain_id)
                return None
            number = await self._make_directory(("fs",))
        except BaseException:
            self._locks.release(chain_id)
            raise
        return LayerSlot(self, lease, chain_id, parent_chain_id, diff_id, number)

    async def hold(self, lease: Lease, chain_ids: Sequence[str]) -> set[str]:
        """Let ``lease`` hold those layers that are there; returns their chain ids.

        A row whose directory is lost is dropped, so that the layer is unpacked again.
        """
        def hold(connection: sqlite3.Connection, chain_id: str) -> bool:
            row = connection.execute("SELECT id FROM snapshots WHERE key = ?", (chain_id,)).fetchone()
            if row is None:
                return False
            if not os.path.isdir(self._path(row[0], "fs")):
                log.error("layer %s has lost its directory: unpacking it again", chain_id)
                connection.execute("DELETE FROM snapshots WHERE id = ?", row)
                return False
            lease.add(connection, "snapshot", chain_id)
            return True

        return await self._db.write(lambda connection: {
            chain_id for chain_id in chain_ids if hold(connection, chain_id)}, durable=False)

    def _path(self, number: int, *names: str) -> str:
        return os.path.join(self.root, str(number), *names)

    def underway(self, number: int) -> bool:
        """Whether the directory was made by this process, and may be about to get its row, or is being removed."""
        return self._first <= number < self._next or number in self.removals.underway

    async def _make_directory(self, names: Sequence[str]) -> int:
        if not self._next:
            row = await self._db.read(lambda connection: connection.execute(
                "SELECT coalesce(max(id), 0) FROM snapshots").fetchone())
            present = [int(name) for name in os.listdir(self.root) if name.isdigit()]
            self._first = self._next = max(self._next, row[0] + 1, *(number + 1 for number in present))
        number = self._next
        self._next += 1
        os.mkdir(self._path(number), 0o710)
        for name in names:
            os.mkdir(self._path(number, name), 0o755)
            os.chmod(self._path(number, name), 0o755)  # noqa: S103 - whatever the umask
        return number

    async def commit(self, layers: Sequence[tuple[LayerSlot, UnpackResult]], *, stored: bool = False) -> None:
        """Commit several layers, bottom first, with one sync and in one transaction: all of them or none.

        ``stored``: the content store has their blobs, so that the sync may come after the return (store.settling);
        the rows are durable with the next durable transaction, such as the one that names the image.
        """
        for slot, result in layers:
            if result.diff_id != slot.diff_id:
                raise DiffIdMismatch(actual=result.diff_id, expected=slot.diff_id)
        fresh: dict[str | None, tuple[LayerSlot, UnpackResult]] = {}
        sizes = []
        for slot, result in layers:
            lower = await self._lower_with(slot, fresh)
            hit("snapshots.mend")
            sizes.append(result.size + await to_the_end(mend, slot.fs, lower, result))
            fresh[slot.chain_id] = slot, result
        hit("snapshots.before-sync")
        if not stored:
            await to_the_end(syncfs, self.root)
        hit("snapshots.before-row")
        mark = boot_id() if stored else None
        rows = [(slot.number, slot.chain_id, slot.parent, slot.diff_id, size, time.time_ns(), result.cut, mark)
                for (slot, result), size in zip(layers, sizes, strict=True)]

        def insert(connection: sqlite3.Connection) -> None:
            connection.executemany(
                "INSERT INTO snapshots (id, key, kind, parent, diff_id, size, created, cut, unsynced) "
                "VALUES (?, ?, 'layer', ?, ?, ?, ?, ?, ?)", rows)
            for slot, _ in layers:
                slot.lease.add(connection, "snapshot", slot.chain_id)

        async def record() -> None:
            await self._db.write(insert, durable=not stored)
            hit("snapshots.after-row")
            for slot, _ in layers:
                self._finish(slot)

        await uncut(record())  # a caller cancelled in the middle would abort slots that have their rows
        if stored and layers:
            self.settler.begin()

    async def _lower_with(self, slot: LayerSlot, fresh: dict[str | None, tuple[LayerSlot, UnpackResult]]) -> list[str]:
        """The directories below ``slot``, topmost first, of which some are about to be committed with it."""
        lower: list[str] = []
        parent = slot.parent
        while parent in fresh:
            below, result = fresh[parent]
            lower.append(below.fs)
            if result.cut:
                return lower
            parent = below.parent
        return lower + (await self._chain(parent) if parent is not None else [])

    def _finish(self, slot: LayerSlot) -> None:
        slot.finished = True
        self._locks.release(slot.chain_id)

    async def abandon(self, slot: LayerSlot) -> None:
        if not slot.finished:
            self._finish(slot)
            await self.removals.remove([slot.number])

    async def layer(self, chain_id: str) -> LayerInfo | None:
        row = await self._db.read(lambda connection: connection.execute(
            "SELECT key, parent, diff_id, size, created FROM snapshots WHERE key = ? AND kind = 'layer'",
            (chain_id,)).fetchone())
        return LayerInfo(*row) if row else None

    async def sizes(self, chain_ids: Sequence[str]) -> tuple[int, ...]:
        """Bytes of file contents in each of the layers; 0 for one that is missing."""
        def look(connection: sqlite3.Connection) -> tuple[int, ...]:
            found = [connection.execute("SELECT size FROM snapshots WHERE key = ? AND kind = 'layer'",
                                        (chain_id,)).fetchone() for chain_id in chain_ids]
            return tuple(row[0] if row else 0 for row in found)

        return await self._db.read(look)

    async def _chain(self, chain_id: str) -> list[str]:
        """The directories of a chain of layers, topmost first, down to one that hides all below it."""
        rows = await self._db.read(lambda connection: connection.execute(_CHAIN, (chain_id,)).fetchall())
        if not rows:
            raise NoSuchSnapshot(key=chain_id)
        directories = []
        for number, _, cut in rows:
            directories.append(self._path(number, "fs"))
            if cut:
                return directories
        if rows[-1][1] is not None:
            raise BrokenChain(key=chain_id, parent=rows[-1][1])
        return directories

    async def create_container(self, lease: Lease | None, container_id: str, chain_id: str | None) -> Mount:
        """Make the writable layer of a container over an image, or over nothing; durable with the next row that is.

        Raises :class:`SnapshotExists`, :class:`NoSuchSnapshot`, :class:`BrokenChain`, OSError.
        """
        lower = await self._chain(chain_id) if chain_id is not None else []
        number = await self._make_directory(("fs", "init", "work"))
        try:
            await to_the_end(self._complete_container, number, lower)
            await uncut(self._db.write(lambda connection: _insert_container(
                connection, number, container_id, chain_id, lease), durable=False))
        except BaseException:
            await uncut(self._db.write(lambda connection: connection.execute(
                "DELETE FROM snapshots WHERE id = ?", (number,))))  # recorded, if the caller was cancelled meanwhile
            await self.removals.remove([number])
            raise
        return self._writable(number, lower)

    def _complete_container(self, number: int, lower: Sequence[str]) -> None:
        make_mount_points(self._path(number, "init"), lower)
        inherit_root(self._path(number, "fs"), lower)
        hit("snapshots.container")
        fsync_dir(self.root)  # journals the new directories too, which are older than this one's change

    def _writable(self, number: int, lower: Sequence[str]) -> Mount:
        return Mount(type="overlay", source="overlay", options=_OVERLAY_OPTIONS,
                     lower=(self._path(number, "init"), *lower),
                     upper=self._path(number, "fs"), work=self._path(number, "work"))

    def _readonly(self, lower: Sequence[str]) -> Mount:
        whole = (*lower, os.path.join(self.root, EMPTY)) if len(lower) == 1 else tuple(lower)
        return Mount(type="overlay", source="overlay", options=("ro", *_OVERLAY_OPTIONS), lower=whole)

    async def container_mount(self, container_id: str, readonly: bool = False) -> Mount:
        """The root file system of a container. ``readonly``: a view without upper directory, for reading a stopped
        container; a container with a read-only root still needs the writable one, to make its mount points in.
        """
        number, parent = await self._container(container_id)
        lower = await self._chain(parent) if parent is not None else []
        if readonly:
            return self._readonly([self._path(number, "fs"), self._path(number, "init"), *lower])
        return self._writable(number, lower)

    async def container_upper(self, container_id: str) -> str:
        """The directory with all that a container changed, in overlayfs's form (see store.tar.diff)."""
        number, _ = await self._container(container_id)
        return self._path(number, "fs")

    async def container_lower(self, container_id: str) -> list[str]:
        """The directories below the writable layer of a container, topmost first."""
        number, parent = await self._container(container_id)
        return [self._path(number, "init"), *await self.image_lower(parent)]

    async def _container(self, container_id: str) -> tuple[int, str | None]:
        row = await self._db.read(lambda connection: connection.execute(
            "SELECT id, parent FROM snapshots WHERE key = ? AND kind = 'container'", (container_id,)).fetchone())
        if row is None:
            raise NoSuchSnapshot(key=container_id)
        return row[0], row[1]

    async def image_mount(self, chain_id: str) -> Mount:
        """A read-only view of an image."""
        return self._readonly(await self._chain(chain_id))

    async def image_lower(self, chain_id: str | None) -> list[str]:
        """The directories of an image's layers, topmost first; empty for an image without layers."""
        return await self._chain(chain_id) if chain_id is not None else []

    async def promote(self, lease: Lease, container_id: str, chain_id: str, diff_id: str, size: int) -> None:
        """Let a writable layer be the layer ``chain_id`` from now on, without unpacking anything.

        Where that layer is there already, the writable one is removed. Nothing may be mounted from it any more.
        Raises :class:`NoSuchSnapshot`.
        """
        number, _ = await self._container(container_id)
        await self._locks.acquire(chain_id)
        try:
            if await self.hold(lease, [chain_id]):
                await self.remove_container(container_id)
                return
            await to_the_end(syncfs, self.root)
            hit("snapshots.promote.synced")

            def change(connection: sqlite3.Connection) -> None:
                connection.execute("UPDATE snapshots SET key = ?, kind = 'layer', diff_id = ?, size = ?, created = ? "
                                   "WHERE key = ?", (chain_id, diff_id, size, time.time_ns(), container_id))
                lease.add(connection, "snapshot", chain_id)

            await uncut(self._db.write(change))
        finally:
            self._locks.release(chain_id)
        await to_the_end(_keep_files_only, self._path(number))

    async def container_size(self, container_id: str) -> int:
        """Bytes of file contents in the writable layer; walks it."""
        number, _ = await self._container(container_id)

        def measure() -> int:
            fd = os.open(self._path(number, "fs"), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                return disk_usage(fd)
            finally:
                os.close(fd)

        return await asyncio.to_thread(measure)

    async def remove_container(self, container_id: str) -> None:
        """Forget the writable layer and delete its files; a big one is still being deleted on return.

        Fine where there is none. Nothing may be mounted from it any more.
        """
        numbers = await self._db.write(lambda connection: [row[0] for row in connection.execute(
            "DELETE FROM snapshots WHERE key = ? AND kind = 'container' RETURNING id", (container_id,)).fetchall()])
        hit("snapshots.row-deleted")
        await self.removals.remove(numbers)

    async def scratch(self) -> tuple[int, str]:
        """A directory without a row: its number and where to unpack into. The caller removes it, or boot does."""
        number = await self._make_directory(("fs",))
        return number, self._path(number, "fs")

    async def replace_layer(self, chain_id: str, number: int) -> None:
        """Let a scratch directory be the layer, and delete the one that was. Nothing may be mounted from it."""
        await to_the_end(syncfs, self.root)

        def swap(connection: sqlite3.Connection) -> list[int]:
            old = [row[0] for row in connection.execute("SELECT id FROM snapshots WHERE key = ?", (chain_id,))]
            connection.execute("UPDATE snapshots SET id = ?, unsynced = NULL WHERE key = ?", (number, chain_id))
            return old

        await self.remove_unrecorded(await self._db.write(swap))

    async def remove_unrecorded(self, numbers: Sequence[int]) -> None:
        """Begin to delete directories of layers whose rows are gone."""
        await self.removals.remove(numbers, layers=True)

    async def wait_removed(self) -> None:
        """Wait until every deletion begun so far has ended."""
        await self.removals.wait()


def _keep_files_only(directory: str) -> None:
    """Take away what a writable layer has and a layer has not."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for name in ("init", "work"):
            remove_tree(fd, name)
    finally:
        os.close(fd)


def _insert_container(connection: sqlite3.Connection, number: int, container_id: str, chain_id: str | None,
                      lease: Lease | None) -> None:
    if connection.execute("SELECT 1 FROM snapshots WHERE key = ?", (container_id,)).fetchone():
        raise SnapshotExists(key=container_id)
    if chain_id is not None and not connection.execute("SELECT 1 FROM snapshots WHERE key = ?", (chain_id,)).fetchone():
        raise NoSuchSnapshot(key=chain_id)
    connection.execute("INSERT INTO snapshots (id, key, kind, parent, created) VALUES (?, ?, 'container', ?, ?)",
                       (number, container_id, chain_id, time.time_ns()))
    if lease is not None:
        lease.add(connection, "snapshot", container_id)
