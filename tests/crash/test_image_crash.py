"""The daemon dies at each named point of a pull and of a load: nothing torn is left, and the next try succeeds."""

from __future__ import annotations

import asyncio
import random
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from barque.failpoints import arm
from barque.image.load import Loader
from barque.image.save import Saver
from barque.oci.reference import parse
from barque.store.boot import clean_up
from barque.store.fsck import check
from barque.store.layout import Layout
from barque.store.verify import restore_torn
from barque.store.workers import SubprocessWorkers
from tests.image_world import World, faulty_registry, make_image, world

A, B = (random.Random(seed).randbytes(100_000) for seed in "ab")
IMAGE = make_image({"a": A}, {"b": B}, Labels={"k": "v"})
PULL = ["content.write", "content.before-rename", "content.before-row", "snapshots.mend", "snapshots.before-row",
        "snapshots.after-row", "snapshots.before-settle"]
LOAD = ["load.guessed", "content.adopt.renamed", "snapshots.before-row", "snapshots.after-row"]


async def boot(here: World) -> None:
    """What the daemon does at its start."""
    await clean_up(here.content.layout, here.db, here.leases, here.snapshots)
    await restore_torn(here.db, here.content, here.snapshots, SubprocessWorkers())
    await here.snapshots.wait_removed()


async def damage(here: World, layout: Layout) -> list[str]:
    found = await check(layout, here.db, here.content, here.snapshots, repair=False, workers=SubprocessWorkers())
    return [f"{item.kind} {item.subject}" for item in found]


async def job(root: str, source: str) -> None:
    """Boot and bring the image here: from a registry's address, or from an archive's path."""
    async with world(Path(root)) as here:
        await boot(here)
        if source.startswith("/"):
            loader = Loader(here.content, here.snapshots, here.leases, here.names, SubprocessWorkers(), here.slots)
            await loader.load(_file(source), [], lambda _: None)
        else:
            await here.puller.pull(parse(f"{source}/app:1"), None, None, lambda _: None)
        await here.snapshots.settler.wait()


async def _file(path: str) -> AsyncIterator[bytes]:
    yield Path(path).read_bytes()


async def died_at(point: str, root: Path, source: str) -> None:
    process = await asyncio.create_subprocess_exec(sys.executable, "-m", __name__, str(root), source,
                                                   f"{point}=kill", cwd=Path(__file__).parents[2],
                                                   stderr=asyncio.subprocess.PIPE)
    _, errors = await process.communicate()
    assert process.returncode == -signal.SIGKILL, errors.decode()


async def looks_whole(root: Path, source: str, reference: str) -> None:
    async with world(root) as here:
        await boot(here)
        assert await damage(here, here.content.layout) == []
    await job(str(root), source)
    async with world(root) as here:
        assert await damage(here, here.content.layout) == []
        image = await here.images.resolve(reference)
        assert image.id == IMAGE.id
        top, base = await here.snapshots.image_lower(image.chain_id)
        assert Path(base, "a").read_bytes() == A and Path(top, "b").read_bytes() == B
        await here.names.remove_image(IMAGE.id)
        await here.assert_empty()
    assert list((root / "content/ingest").iterdir()) == []


@pytest.mark.parametrize("point", PULL)
async def test_death_in_a_pull(tmp_path: Path, point: str) -> None:
    async with faulty_registry() as registry:
        registry.add("app", "1", IMAGE)
        await died_at(point, tmp_path / "root", registry.address)
        await looks_whole(tmp_path / "root", registry.address, f"{registry.address}/app:1")


@pytest.mark.parametrize("point", LOAD)
async def test_death_in_a_load(tmp_path: Path, point: str) -> None:
    archive = tmp_path / "app.tar"
    async with faulty_registry() as registry, world(tmp_path / "source") as here:
        registry.add("app", "1", IMAGE)
        await here.puller.pull(parse(f"{registry.address}/app:1"), None, None, lambda _: None)
        saver = Saver(here.content, here.images, here.names)
        pieces = saver.stream(await saver.plan([f"{registry.address}/app:1"]))
        archive.write_bytes(b"".join([piece async for piece in pieces]))
        reference = f"{registry.address}/app:1"
    await died_at(point, tmp_path / "root", str(archive))
    await looks_whole(tmp_path / "root", str(archive), reference)


if __name__ == "__main__":
    arm(sys.argv[3])
    asyncio.run(job(sys.argv[1], sys.argv[2]))
