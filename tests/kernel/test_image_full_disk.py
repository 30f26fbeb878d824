"""A disk that is full in the middle: an error that says so, nothing left, and it works once there is room."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from barque.errors import BarqueError
from barque.image.imports import Importer, ImportRequest
from barque.oci.reference import parse
from tests.image_world import SmallImage, World, faulty_registry, make_image, tar_of, world
from tests.kernel.test_image_archives import layout_of, load, pieces_of

IMAGES = {
    "blob": make_image({"small": b"x"}, {"noise": os.urandom(8 << 20)}),
    "files": make_image({"small": b"x"}, {"zeros": bytes(24 << 20)}),
}


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "disk"
    path.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", path], check=True)
    yield path
    subprocess.run(["umount", path], check=True)


def give_room(disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,size=64m", disk], check=True)


async def fails_until_there_is_room(here: World, disk: Path, bring: Callable[[], Awaitable[object]]) -> None:
    with pytest.raises((BarqueError, OSError), match=r"(?i)no space left on device"):
        await bring()
    await here.assert_empty()
    assert os.listdir(disk / "content/ingest") == []
    give_room(disk)
    await bring()
    assert len(await here.images.all()) == 1


@pytest.mark.parametrize("image", IMAGES.values(), ids=IMAGES)
async def test_pull(disk: Path, image: SmallImage) -> None:
    async with faulty_registry() as registry, world(disk) as here:
        registry.add("app", "latest", image)
        ref = parse(f"{registry.address}/app")
        await fails_until_there_is_room(here, disk, lambda: here.puller.pull(ref, None, None, here.progress.append))


@pytest.mark.parametrize("image", IMAGES.values(), ids=IMAGES)
async def test_load(disk: Path, image: SmallImage) -> None:
    archive = layout_of(image, ["docker.io/library/app:1"])
    async with world(disk) as here:
        await fails_until_there_is_room(here, disk, lambda: load(here, archive))


@pytest.mark.parametrize("data", [os.urandom(8 << 20), bytes(24 << 20)], ids=IMAGES)
async def test_import(disk: Path, data: bytes) -> None:
    archive, request = tar_of({"file": data}), ImportRequest(parse("app:1"))
    async with world(disk) as here:
        importer = Importer(here.made, here.snapshots, lambda run, changes: run)
        await fails_until_there_is_room(here, disk, lambda: importer.bring_in(request, pieces_of(archive)))
