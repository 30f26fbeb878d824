"""Blobs: whole or absent, one writer, resumed, and found out when they are damaged."""

from __future__ import annotations

import asyncio
import hashlib
import os
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from barque.errors import InvalidArgument
from barque.failpoints import arm
from barque.oci.descriptor import Descriptor
from barque.oci.digest import InvalidDigest
from barque.store.boot import INGEST_LIFETIME, clean_up
from barque.store.content import BlobNotFound, BlobTooLarge, ContentStore, CorruptBlob
from barque.store.db import Database
from barque.store.fsck import check
from barque.store.ingest import DigestMismatch, SizeMismatch, WriteFailed
from barque.store.layout import Layout
from barque.store.leases import Leases
from barque.store.snapshots import Snapshots

DATA = b"some bytes " * 1000


def describe(data: bytes) -> Descriptor:
    return Descriptor(media_type="text/plain", digest="sha256:" + hashlib.sha256(data).hexdigest(), size=len(data))


@dataclass
class Store:
    layout: Layout
    db: Database
    content: ContentStore
    snapshots: Snapshots
    leases: Leases


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    layout = Layout.open(str(tmp_path / "root"))
    db = await Database.open(layout.database)
    yield Store(layout, db, ContentStore(layout, db), Snapshots(layout, db), Leases(db))
    await db.close()
    layout.close()


async def test_put_read_label_walk_delete(store: Store) -> None:
    async with store.leases.hold("test") as lease:
        descriptor = await store.content.put(lease, "text/plain", DATA)
        assert await store.content.put(lease, "text/plain", DATA) == descriptor
    assert descriptor == describe(DATA)
    assert await store.content.read(descriptor.digest, len(DATA)) == DATA
    with pytest.raises(BlobTooLarge):
        await store.content.read(descriptor.digest, len(DATA) - 1)
    await store.content.label(descriptor.digest, "from", "docker.io")
    assert [info.labels for info in await store.content.walk()] == [{"from": "docker.io"}]
    await store.content.label(descriptor.digest, "from", "")
    assert [info.labels for info in await store.content.walk()] == [{}]
    await store.content.delete(descriptor.digest)
    assert await store.content.info(descriptor.digest) is None
    with pytest.raises(BlobNotFound):
        store.content.open(descriptor.digest)
    with pytest.raises(BlobNotFound):
        await store.content.label(descriptor.digest, "a", "b")


async def test_digests_cannot_name_other_files(store: Store) -> None:
    for digest in ("sha256:../../meta.db", "sha256:" + "A" * 64, "md5:" + "0" * 32, ""):
        with pytest.raises(InvalidDigest):
            store.content.open(digest)


async def test_broken_ingest_is_resumed(store: Store) -> None:
    wanted = describe(DATA)
    async with store.leases.hold("test") as lease:
        async with await store.content.ingest(lease, wanted) as ingest:
            await ingest.write(DATA[:4000])
        async with await store.content.ingest(lease, wanted) as ingest:
            assert ingest.offset == 4000
            await ingest.write(DATA[4000:])
            await ingest.commit()
    assert await store.content.read(wanted.digest, 1 << 20) == DATA
    assert os.listdir(store.layout.ingest) == []


async def test_wrong_bytes_are_dropped(store: Store) -> None:
    wanted = describe(DATA)
    async with store.leases.hold("test") as lease:
        with pytest.raises(DigestMismatch, match="failed to verify digest"):
            async with await store.content.ingest(lease, wanted) as ingest:
                await ingest.write(DATA[:-1] + b"!")
                await ingest.commit()
        assert os.listdir(store.layout.ingest) == []
        with pytest.raises(SizeMismatch):
            async with await store.content.ingest(lease, wanted) as ingest:
                await ingest.write(DATA + b"!")
        with pytest.raises(SizeMismatch):
            async with await store.content.ingest(lease, wanted) as ingest:
                await ingest.commit()
        with pytest.raises(InvalidArgument, match="negative"):
            await store.content.ingest(lease, Descriptor(media_type="", digest=wanted.digest, size=-1))
        async with await store.content.ingest(lease, wanted) as ingest:
            await ingest.write(DATA[:10])
            await ingest.abort()
    assert os.listdir(store.layout.ingest) == []
    assert await store.content.info(wanted.digest) is None


async def test_second_writer_waits_and_finds_the_blob(store: Store) -> None:
    wanted = describe(DATA)
    order = []

    async def fetch(who: str) -> None:
        async with store.leases.hold(who) as lease, await store.content.ingest(lease, wanted) as ingest:
            order.append((who, ingest.exists))
            if ingest.offset < wanted.size:
                await ingest.write(DATA[ingest.offset:])
            await ingest.commit()

    await asyncio.gather(fetch("a"), fetch("b"), fetch("c"))
    assert [exists for _, exists in order] == [False, True, True]


async def test_cancelled_write_leaves_a_resumable_file(store: Store) -> None:
    wanted = describe(DATA)
    async with store.leases.hold("test") as lease:
        async with await store.content.ingest(lease, wanted) as ingest:
            task = asyncio.ensure_future(ingest.write(DATA))
            await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        async with await store.content.ingest(lease, wanted) as ingest:
            await ingest.write(DATA[ingest.offset:]) if ingest.offset < len(DATA) else None
            assert await ingest.commit() == wanted


@pytest.mark.parametrize("damage", ["flip", "cut", "lose"])
async def test_damaged_blob_is_named_and_healed(store: Store, damage: str) -> None:
    async with store.leases.hold("test") as lease:
        wanted = await store.content.put(lease, "text/plain", DATA)
        path = Path(store.content.path(wanted.digest))
        if damage == "flip":
            path.write_bytes(b"S" + DATA[1:])
        elif damage == "cut":
            path.write_bytes(DATA[:-1])
        else:
            path.unlink()
        found = await check(store.layout, store.db, store.content, store.snapshots, repair=False)
        kind = {"flip": "blob-corrupt", "cut": "blob-size", "lose": "blob-missing"}[damage]
        assert [(item.kind, item.subject) for item in found] == [(kind, wanted.digest)]
        if damage == "flip":
            with pytest.raises(CorruptBlob, match=wanted.digest):
                await store.content.read(wanted.digest, 1 << 20)
        await store.content.put(lease, "text/plain", DATA)
    assert await store.content.read(wanted.digest, 1 << 20) == DATA
    assert await check(store.layout, store.db, store.content, store.snapshots, repair=False) == []


async def test_fsck_repairs(store: Store) -> None:
    async with store.leases.hold("test") as lease:
        wanted = await store.content.put(lease, "text/plain", DATA)
    Path(store.content.path(wanted.digest)).write_bytes(b"x" * len(DATA))
    Path(store.layout.blobs, "sha256", "f" * 64).write_bytes(b"nobody's")
    Path(store.layout.snapshots, "77").mkdir()
    found = await check(store.layout, store.db, store.content, store.snapshots, repair=True)
    await store.snapshots.wait_removed()
    assert {(item.kind, item.repaired) for item in found} == {
        ("blob-corrupt", True), ("blob-unrecorded", True), ("snapshot-unrecorded", True)}
    assert await check(store.layout, store.db, store.content, store.snapshots, repair=False) == []


async def test_failed_write_says_why(store: Store) -> None:
    arm("content.write=error")
    try:
        async with store.leases.hold("test") as lease, await store.content.ingest(lease, describe(DATA)) as ingest:
            with pytest.raises(WriteFailed) as caught:
                await ingest.write(DATA)
    finally:
        arm("")
    assert caught.value.errno == 5


async def test_clean_up_keeps_what_can_be_resumed(store: Store) -> None:
    async with store.leases.hold("test") as lease:
        async with await store.content.ingest(lease, describe(DATA)) as ingest:
            await ingest.write(DATA[:10])
        kept = os.path.basename(ingest.path)
    stale = Path(store.layout.ingest, "sha256-" + "0" * 64)
    stale.write_bytes(b"old")
    old = time.time() - INGEST_LIFETIME - 60
    os.utime(stale, (old, old))
    Path(store.layout.ingest, "junk").write_bytes(b"")
    Path(store.layout.blobs, "sha256", "e" * 64).write_bytes(b"no row")
    report = await clean_up(store.layout, store.db, store.leases, store.snapshots)
    assert (report.ingests, report.blobs) == (2, 1)
    assert os.listdir(store.layout.ingest) == [kept]
