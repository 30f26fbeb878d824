"""Content-addressed blobs: ``content/blobs/<algorithm>/<hex>`` and a row for each in ``blobs``.

A blob without a row is garbage, a row without its file is damage. Bytes are verified before they get their name.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import sqlite3
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import BinaryIO

import msgspec

from barque.errors import DataLoss, InvalidArgument, NotFound
from barque.failpoints import hit
from barque.oci.descriptor import Descriptor
from barque.oci.digest import Digest
from barque.store.db import Database
from barque.store.ingest import Ingest
from barque.store.layout import Layout
from barque.store.leases import Lease
from barque.store.locks import KeyedLocks
from barque.store.threads import to_the_end
from barque.sys.fsync import fsync_dir

log = logging.getLogger("barque.store.content")
_BLOCK = 1 << 20


class BlobNotFound(NotFound):
    text = "content digest {digest}: not found"


class BlobTooLarge(InvalidArgument):
    text = "content digest {digest}: {size} bytes are more than the limit of {limit}"


class CorruptBlob(DataLoss):
    text = "content digest {digest}: stored bytes are corrupt (got {actual}); pull or load the image again"


@dataclass(frozen=True)
class BlobInfo:
    digest: str
    size: int
    media_type: str
    created: int  # nanoseconds since 1970
    labels: dict[str, str] = field(default_factory=dict)


class ContentStore:
    def __init__(self, layout: Layout, db: Database) -> None:
        self._layout = layout
        self._db = db
        self._locks = KeyedLocks()

    @property
    def layout(self) -> Layout:
        return self._layout

    async def info(self, digest: str) -> BlobInfo | None:
        """What the row says, or None. The bytes are not looked at."""
        row = await self._db.read(lambda connection: connection.execute(
            "SELECT * FROM blobs WHERE digest = ?", (digest,)).fetchone())
        return _info(row) if row else None

    def path(self, digest: str) -> str:
        """Where the bytes are or would be; raises InvalidDigest."""
        checked = Digest.parse(digest)
        return os.path.join(self._layout.blobs, checked.algorithm, checked.hex)

    def open(self, digest: str) -> BinaryIO:
        """The bytes, not verified again: whoever unpacks them checks the digest of what comes out.

        Raises :class:`BlobNotFound`.
        """
        try:
            return open(self.path(digest), "rb")
        except FileNotFoundError:
            raise BlobNotFound(digest=digest) from None

    async def read(self, digest: str, limit: int) -> bytes:
        """All bytes, verified. A blob that fails is dropped, so that the next pull heals it.

        Raises :class:`BlobNotFound`, :class:`BlobTooLarge` (more than ``limit`` bytes), :class:`CorruptBlob`.
        """
        def load() -> bytes:
            with self.open(digest) as file:
                size = os.fstat(file.fileno()).st_size
                if size > limit:
                    raise BlobTooLarge(digest=digest, size=size, limit=limit)
                return file.read(size)

        data = await asyncio.to_thread(load)
        actual = Digest.of(data, Digest.parse(digest).algorithm)
        if actual != digest:
            await self._drop_corrupt(digest, actual)
        return data

    async def verify(self, digest: str, *, drop: bool = True) -> None:
        """Hash the stored bytes, however many; raises as :meth:`read` does. ``drop``: a corrupt blob goes as well."""
        def hashed() -> str:
            state = hashlib.new(Digest.parse(digest).algorithm)
            with self.open(digest) as file:
                while block := file.read(_BLOCK):
                    state.update(block)
            return f"{state.name}:{state.hexdigest()}"

        actual = await asyncio.to_thread(hashed)
        if actual != digest:
            if not drop:
                raise CorruptBlob(digest=digest, actual=actual)
            await self._drop_corrupt(digest, actual)

    async def _drop_corrupt(self, digest: str, actual: str) -> None:
        log.error("dropping corrupt blob %s: it has the digest %s", digest, actual)
        await self.delete(digest)
        raise CorruptBlob(digest=digest, actual=actual)

    async def ingest(self, lease: Lease, expected: Descriptor) -> Ingest:
        """Start or resume the blob that ``expected`` describes; use the result with ``async with``.

        One writer per digest: a second asker waits for the first to leave its block, and then finds the blob there
        (``exists``). Raises InvalidDigest, InvalidArgument for a negative size.
        """
        digest = expected.checked_digest
        if expected.size < 0:
            raise InvalidArgument(f"{digest}: negative size {expected.size}")
        target = self.path(digest)
        await self._locks.acquire(digest)
        try:
            exists = await self._usable(digest, expected.size)
            os.makedirs(os.path.dirname(target), mode=0o700, exist_ok=True)
            ingest = Ingest(expected, os.path.join(self._layout.ingest, f"{digest.algorithm}-{digest.hex}"), target,
                            exists, lambda descriptor: self._record(lease, descriptor),
                            lambda: self._locks.release(digest))
            await ingest.start()
        except BaseException:
            self._locks.release(digest)
            raise
        return ingest

    async def hold(self, lease: Lease, wanted: Iterable[Descriptor]) -> set[str]:
        """Let ``lease`` hold those blobs that are here with their full size; returns their digests."""
        descriptors = tuple(wanted)

        def held(connection: sqlite3.Connection) -> set[str]:
            found = set()
            for descriptor in descriptors:
                row = connection.execute("SELECT size FROM blobs WHERE digest = ?", (descriptor.digest,)).fetchone()
                if row and row[0] == descriptor.size == _size(self.path(descriptor.digest)):
                    lease.add(connection, "blob", descriptor.digest)
                    found.add(descriptor.digest)
            return found

        return await self._db.write(held, durable=False)

    async def _usable(self, digest: str, size: int) -> bool:
        """Whether the blob is stored with that size; a row whose file is lost or of another size is dropped."""
        info = await self.info(digest)
        if info is None:
            return False
        found = _size(self.path(digest))
        if found == info.size == size:
            return True
        if found == info.size:
            raise InvalidArgument(f"{digest}: the descriptor says {size} bytes, the blob has {found}")
        log.error("blob %s has %d bytes instead of %d: dropping it", digest, found, info.size)
        await self._db.write(lambda connection: connection.execute("DELETE FROM blobs WHERE digest = ?", (digest,)))
        return False

    async def _record(self, lease: Lease, descriptor: Descriptor) -> None:
        def insert(connection: sqlite3.Connection) -> None:
            connection.execute("INSERT OR IGNORE INTO blobs (digest, size, media_type, created) VALUES (?, ?, ?, ?)",
                               (descriptor.digest, descriptor.size, descriptor.media_type, time.time_ns()))
            lease.add(connection, "blob", descriptor.digest)

        # Durable with the name that refers to it: until then a power cut makes the file garbage.
        await self._db.write(insert, durable=False)

    async def put(self, lease: Lease, media_type: str, data: bytes) -> Descriptor:
        """Store ``data`` whole and return its descriptor; nothing happens to a blob that is there already."""
        descriptor = Descriptor(media_type=media_type, digest=Digest.of(data), size=len(data))
        async with await self.ingest(lease, descriptor) as ingest:
            if ingest.offset < len(data):
                await ingest.write(data[ingest.offset:])
            return await ingest.commit()

    def scratch(self) -> tuple[int, str]:
        """An empty file of its own on the way to becoming a blob, by :meth:`adopt`; else the caller unlinks it."""
        return tempfile.mkstemp(prefix="new-", dir=self.layout.ingest)

    async def adopt(self, lease: Lease, descriptor: Descriptor, path: str) -> None:
        """Make a scratch file, whose bytes the caller has hashed as they went by, the blob that ``descriptor`` names.

        The file is gone from ``path`` afterwards, also where the blob was there already.
        """
        await self._locks.acquire(descriptor.digest)
        try:
            if await self._usable(descriptor.digest, descriptor.size):
                await asyncio.to_thread(os.unlink, path)
            else:
                await to_the_end(_move_durably, path, self.path(descriptor.digest))
                hit("content.adopt.renamed")
            await self._record(lease, descriptor)
        finally:
            self._locks.release(descriptor.digest)

    async def delete(self, digest: str) -> None:
        """Drop row and bytes, whoever refers to them; collection is the ordinary way. Fine when there is none."""
        await self.forget(digest)
        await self.unlink_unrecorded(digest)

    async def forget(self, digest: str) -> None:
        """Drop the row alone."""
        await self._db.write(lambda connection: connection.execute("DELETE FROM blobs WHERE digest = ?", (digest,)))

    async def unrecorded(self, digest: str) -> bool:
        """Whether there is a file without a row, and nobody is about to write the row."""
        await self._locks.acquire(digest)
        try:
            return os.path.lexists(self.path(digest)) and await self.info(digest) is None
        finally:
            self._locks.release(digest)

    async def unlink_unrecorded(self, digest: str) -> bool:
        """Remove the bytes of a blob that has no row (any more); False where a row has come up meanwhile."""
        await self._locks.acquire(digest)
        try:
            if await self.info(digest) is not None:
                return False
            await to_the_end(_unlink, [self.path(digest)])
            return True
        finally:
            self._locks.release(digest)

    async def unlink_swept(self, digests: Sequence[str]) -> None:
        """As :meth:`unlink_unrecorded`, for many: in one step those of which nobody else does anything."""
        free = [digest for digest in digests if not self._locks.held(digest)]
        for digest in free:
            await self._locks.acquire(digest)
        try:
            recorded = await self._db.read(lambda connection: {row[0] for row in connection.execute(
                "SELECT digest FROM blobs")})
            await to_the_end(_unlink, [self.path(digest) for digest in free if digest not in recorded])
        finally:
            for digest in free:
                self._locks.release(digest)
        for digest in set(digests).difference(free):
            await self.unlink_unrecorded(digest)

    async def walk(self) -> list[BlobInfo]:
        """All blobs, ordered by digest."""
        rows = await self._db.read(lambda connection: connection.execute(
            "SELECT * FROM blobs ORDER BY digest").fetchall())
        return [_info(row) for row in rows]

    async def label(self, digest: str, key: str, value: str) -> None:
        """Note a fact about a blob (such as the repository it came from); an empty value removes it.

        Raises :class:`BlobNotFound`.
        """
        def update(connection: sqlite3.Connection) -> None:
            row = connection.execute("SELECT * FROM blobs WHERE digest = ?", (digest,)).fetchone()
            if row is None:
                raise BlobNotFound(digest=digest)
            labels = {**_info(row).labels, key: value}
            if not value:
                del labels[key]
            connection.execute("UPDATE blobs SET labels = ? WHERE digest = ?",
                               (msgspec.json.encode(labels).decode(), digest))

        await self._db.write(update)

    async def relabel(self, digests: Iterable[str], change: Callable[[dict[str, str]], dict[str, str]]) -> None:
        """Let ``change`` make new labels of the old ones of each of these blobs; passes over what is not stored."""
        wanted = tuple(digests)

        def pending(connection: sqlite3.Connection) -> list[tuple[str, str]]:
            found = []
            for digest in wanted:
                row = connection.execute("SELECT * FROM blobs WHERE digest = ?", (digest,)).fetchone()
                if row is not None and (labels := change(_info(row).labels)) != _info(row).labels:
                    found.append((msgspec.json.encode(labels).decode(), digest))
            return found

        if await self._db.read(pending):
            await self._db.write(lambda connection: connection.executemany(
                "UPDATE blobs SET labels = ? WHERE digest = ?", pending(connection)), durable=False)


def _size(path: str) -> int:
    """In bytes; -1 where there is no such file."""
    try:
        return os.stat(path).st_size
    except FileNotFoundError:
        return -1


def _unlink(paths: Iterable[str]) -> None:
    for path in paths:
        try:
            os.unlink(path)
        except FileNotFoundError:
            pass


def _move_durably(path: str, target: str) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
    os.makedirs(os.path.dirname(target), mode=0o700, exist_ok=True)
    os.rename(path, target)
    fsync_dir(os.path.dirname(target))


def _info(row: tuple[str, int, str, int, str]) -> BlobInfo:
    digest, size, media_type, created, labels = row
    return BlobInfo(digest, size, media_type, created, msgspec.json.decode(labels, type=dict[str, str]))
