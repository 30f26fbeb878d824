"""Collection follows manifests, configs and chains; fsck names incomplete images and lost volumes."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from barque.oci import go_json, media_types
from barque.oci.descriptor import Descriptor
from barque.oci.digest import Digest
from barque.oci.image import chain_ids
from barque.store.content import ContentStore
from barque.store.db import Database
from barque.store.fsck import Damage, check
from barque.store.gc import collect
from barque.store.layout import Layout
from barque.store.leases import Lease, Leases
from barque.store.snapshots import Snapshots
from barque.store.tar.messages import UnpackResult


@dataclass
class Store:
    layout: Layout
    db: Database
    content: ContentStore
    snapshots: Snapshots
    leases: Leases

    async def image(self, lease: Lease, name: str, *layers: bytes) -> dict[str, Descriptor]:
        """Store an index with one manifest, its config and its layers, unpacked as empty directories."""
        diff_ids = [Digest.of(b"diff " + data) for data in layers]
        blobs = [await self.content.put(lease, media_types.OCI_LAYER, data) for data in layers]
        config = await self._json(lease, media_types.OCI_CONFIG, {"rootfs": {"diff_ids": diff_ids}})
        manifest = await self._json(lease, media_types.OCI_MANIFEST, {
            "config": {"digest": config.digest}, "layers": [{"digest": blob.digest} for blob in blobs]})
        index = await self._json(lease, media_types.OCI_INDEX, {
            "manifests": [{"digest": manifest.digest}, {"digest": "sha256:" + "0" * 64}]})
        parent = None
        for chain_id, diff_id in zip(chain_ids(diff_ids), diff_ids, strict=True):
            slot = await self.snapshots.prepare_layer(lease, chain_id, parent, diff_id)
            if slot is not None:
                await slot.commit(UnpackResult(diff_id=diff_id))
            parent = chain_id
        row = (name, index.digest, go_json.encode(index))
        await self.db.write(lambda c: c.execute("INSERT INTO images VALUES (?, ?, ?, 0)", row))
        return {"index": index, "manifest": manifest, "config": config, "layer": blobs[-1]}

    async def check(self, *, repair: bool = False) -> list[Damage]:
        return await check(self.layout, self.db, self.content, self.snapshots, repair=repair)

    async def _json(self, lease: Lease, media_type: str, document: object) -> Descriptor:
        return await self.content.put(lease, media_type, json.dumps(document).encode())


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    layout = Layout.open(str(tmp_path))
    db = await Database.open(layout.database)
    store = Store(layout, db, ContentStore(layout, db), Snapshots(layout, db), Leases(db))
    yield store
    await store.snapshots.wait_removed()
    await db.close()
    layout.close()


async def test_collection_takes_what_only_the_removed_image_had(store: Store) -> None:
    async with store.leases.hold("pull") as lease:
        await store.image(lease, "one", b"base", b"first")
        gone = await store.image(lease, "two", b"base", b"second")
        loose = await store.content.put(lease, "text/plain", b"loose")
        assert (await collect(store.db, store.content, store.snapshots)).blobs == []  # all of it leased
    report = await collect(store.db, store.content, store.snapshots)
    assert (report.blobs, report.snapshots) == ([loose.digest], [])
    await store.db.write(lambda c: c.execute("DELETE FROM images WHERE name = 'two'"))
    assert (await collect(store.db, store.content, store.snapshots, [gone["index"].digest])).blobs == []
    report = await collect(store.db, store.content, store.snapshots)
    assert set(report.blobs) == {descriptor.digest for descriptor in gone.values()}
    assert len(report.snapshots) == 1
    assert len(await store.content.walk()) == 5
    assert await check(store.layout, store.db, store.content, store.snapshots, repair=False) == []


@pytest.mark.parametrize("part", ["index", "manifest", "config", "layer"])
async def test_incomplete_image_is_named(store: Store, part: str) -> None:
    async with store.leases.hold("pull") as lease:
        blobs = await store.image(lease, "one", b"base", b"first")
    await store.content.delete(blobs[part].digest)
    found = await check(store.layout, store.db, store.content, store.snapshots, repair=False)
    kind = "image-incomplete" if part == "layer" else "image-lost"
    assert {(item.kind, item.subject) for item in found} == {(kind, "one")}
    assert any(blobs[part].digest in item.detail for item in found)
    assert {item.repaired for item in await store.check(repair=True)} == {part != "layer"}
    assert {item.kind for item in await store.check()} <= {"image-incomplete"}, "a lost image has lost its name"


async def test_lost_directories_are_named(store: Store) -> None:
    await store.db.write(lambda c: c.execute("INSERT INTO volumes VALUES ('v', 'v', '{}')"))
    await store.snapshots.create_container(None, "c1", None)
    Path(await store.snapshots.container_upper("c1")).rmdir()
    found = await check(store.layout, store.db, store.content, store.snapshots, repair=True)
    assert [(item.kind, item.subject, item.repaired) for item in found] == [
        ("container-missing", "c1", False), ("volume-missing", "v", False)]
