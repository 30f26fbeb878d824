"""Every kind of damage to a data root that is made here is found, named and mended; what was lost comes back."""

from __future__ import annotations

import os
import shutil
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from barque.oci.reference import parse
from barque.store.fsck import Damage, check
from barque.store.workers import SubprocessWorkers
from tests.image_world import FaultyRegistry, World, digest, faulty_registry, make_image, world

IMAGE = make_image({"a": b"x" * 5000, "dir/b": b"y"}, {"c": b"z" * 700})
LAYER = digest(IMAGE.layers[0])


class Root:
    """A data root with an image, and the registry that it came from."""

    def __init__(self, here: World, registry: FaultyRegistry) -> None:
        self.here = here
        self.name = f"{registry.address}/app:1"

    async def pull(self) -> None:
        await self.here.puller.pull(parse(self.name), None, None, lambda _: None)

    async def check(self, *, repair: bool = False) -> list[Damage]:
        return await check(self.here.content.layout, self.here.db, self.here.content, self.here.snapshots,
                           repair=repair, workers=SubprocessWorkers(), deep=False, leases=self.here.leases)

    async def sql(self, statement: str, *values: object) -> None:
        await self.here.db.write(lambda connection: connection.execute(statement, values))

    async def layer(self, number: int) -> Path:
        """Where a layer is unpacked, counted from the bottom."""
        image = await self.here.images.resolve(self.name)
        return Path((await self.here.snapshots.image_lower(image.chain_id))[::-1][number])

    def blob(self, name: str) -> Path:
        return Path(self.here.content.path(name))


@pytest.fixture
async def root(tmp_path: Path) -> AsyncIterator[Root]:
    async with faulty_registry() as registry, world(tmp_path) as here:
        registry.add("app", "1", IMAGE)
        found = Root(here, registry)
        await found.pull()
        yield found


async def missing_blob(root: Root) -> None:
    root.blob(LAYER).unlink()


async def corrupt_blob(root: Root) -> None:
    path = root.blob(LAYER)
    path.write_bytes(path.read_bytes()[:-1] + b"?")


async def short_blob(root: Root) -> None:
    os.truncate(root.blob(LAYER), 5)


async def wrong_size_in_the_row(root: Root) -> None:
    await root.sql("UPDATE blobs SET size = 7 WHERE digest = ?", LAYER)


async def blob_that_is_a_directory(root: Root) -> None:
    root.blob(LAYER).unlink()
    (root.blob(LAYER) / "in/it").mkdir(parents=True)


async def file_without_a_row(root: Root) -> None:
    root.blob(digest(b"nobody's")).write_bytes(b"nobody's")


async def file_that_is_no_blob(root: Root) -> None:
    (root.blob(LAYER).parent / "what.tmp").write_bytes(b"?")


async def missing_layer(root: Root) -> None:
    shutil.rmtree((await root.layer(0)).parent)


async def layer_that_is_a_file(root: Root) -> None:
    fs = await root.layer(1)
    shutil.rmtree(fs)
    fs.write_bytes(b"")


async def layer_that_is_a_loop(root: Root) -> None:
    fs = await root.layer(1)
    shutil.rmtree(fs)
    fs.symlink_to(fs)


async def directory_without_a_row(root: Root) -> None:
    (root.here.root / "snapshots/999/fs").mkdir(parents=True)


async def lost_manifest(root: Root) -> None:
    root.blob(digest(IMAGE.manifest)).unlink()


async def lost_row_of_the_config(root: Root) -> None:
    await root.sql("DELETE FROM blobs WHERE digest = ?", IMAGE.id)


async def lease_of_nobody(root: Root) -> None:
    await root.sql("INSERT INTO leases VALUES ('old', 'a pull', 0)")


Spoil = Callable[[Root], Coroutine[Any, Any, None]]
#: What is done, and the kinds that are found.
DAMAGES: dict[Spoil, set[str]] = {
    missing_blob: {"blob-missing"}, corrupt_blob: {"blob-corrupt"}, short_blob: {"blob-size"},
    wrong_size_in_the_row: {"blob-size"}, blob_that_is_a_directory: {"blob-unreadable"},
    file_without_a_row: {"blob-unrecorded"}, file_that_is_no_blob: {"blob-unrecorded"},
    missing_layer: {"layer-missing", "layer-orphaned"}, layer_that_is_a_file: {"layer-unreadable"},
    layer_that_is_a_loop: {"layer-unreadable"}, directory_without_a_row: {"snapshot-unrecorded"},
    lost_manifest: {"blob-missing"}, lost_row_of_the_config: {"blob-unrecorded", "image-lost"},
    lease_of_nobody: {"lease-dangling"},
}


async def test_every_damage_is_found_and_mended(root: Root) -> None:
    assert await root.check() == []
    for spoil, kinds in DAMAGES.items():
        await spoil(root)
        found = await root.check()
        assert {damage.kind for damage in found} == kinds, spoil
        assert not any(damage.repaired for damage in found)
        mended = await root.check(repair=True)
        assert kinds - {"layer-orphaned"} <= {damage.kind for damage in mended if damage.repaired}, (spoil, mended)
        # Only what a registry has to bring again may be left, and it does.
        assert {damage.kind for damage in await root.check()} <= {"image-incomplete"}, spoil
        await root.pull()
        assert await root.check() == [], spoil
        assert (await root.layer(0) / "a").read_bytes() == b"x" * 5000
        assert (await root.layer(1) / "c").read_bytes() == b"z" * 700


async def test_a_lost_layer_comes_back_from_its_blob(root: Root) -> None:
    await missing_layer(root)
    await root.check(repair=True)
    assert await root.check() == []
    assert (await root.layer(0) / "dir/b").read_bytes() == b"y"


async def test_work_in_progress_is_no_damage(root: Root) -> None:
    async with root.here.leases.hold("a pull") as lease:
        slot = await root.here.snapshots.prepare_layer(lease, digest(b"chain"), None, digest(b"diff"))
        assert slot is not None
        async with slot:
            assert await root.check(repair=True) == []
            assert os.path.isdir(slot.fs)
