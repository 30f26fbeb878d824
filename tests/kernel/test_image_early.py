"""Loading while the archive is still coming in: what is unpacked on a guess is used once, or thrown away."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest

from barque.errors import BarqueError
from barque.image.load import Loader
from barque.oci.platform import Platform
from barque.store.workers import SubprocessWorkers
from tests.image_world import World, digest, make_image, make_index, tar_of, world
from tests.kernel.test_image_archives import archive_of, blobs_of, docker_archive_of, pieces_of

PATIENCE = 120


def noise(seed: str) -> bytes:
    """Data that is worth a guess however it is compressed, and more than what is gathered before it goes on."""
    return random.Random(seed).randbytes(1_500_000)


IMAGE = make_image({"a": noise("a")}, {"b": noise("b")})


class CountedWorkers(SubprocessWorkers):
    """``unpacked``: how many layers were, all of which have been given to the snapshots' owner by then."""

    def __init__(self) -> None:
        self.unpacked = 0
        self.changed = asyncio.Condition()

    async def run(self, kind: str, request: bytes, fds: Sequence[int]) -> bytes:
        answer = await super().run(kind, request, fds)
        async with self.changed:
            self.unpacked += kind == "unpack"
            self.changed.notify_all()
        return answer

    async def wait(self, count: int) -> None:
        async with self.changed, asyncio.timeout(PATIENCE):
            await self.changed.wait_for(lambda: self.unpacked >= count)


@pytest.fixture
async def here(tmp_path: Path) -> AsyncIterator[World]:
    async with world(tmp_path / "one") as found:
        yield found


async def held_back(archive: bytes, at: bytes, workers: CountedWorkers, count: int) -> AsyncIterator[bytes]:
    """The archive, of which the part from ``at`` on comes only when ``count`` layers were unpacked."""
    cut = archive.index(at)
    yield archive[:cut]
    await workers.wait(count)
    yield archive[cut:]


def loader(here: World, workers: SubprocessWorkers) -> Loader:
    return Loader(here.content, here.snapshots, here.leases, here.names, workers, here.slots)


async def contents(here: World) -> tuple[bytes, bytes]:
    image = await here.images.resolve(IMAGE.id)
    top, base = await here.snapshots.image_lower(image.chain_id)
    return Path(base, "a").read_bytes(), Path(top, "b").read_bytes()


async def directories(here: World) -> int:
    """Of layers, without the one that is always there."""
    await here.snapshots.wait_removed()
    return len(list((here.root / "snapshots").iterdir())) - 1


async def test_layers_are_unpacked_before_the_archive_says_that_they_are(here: World) -> None:
    files, links = docker_archive_of(IMAGE, ["app:1"])
    workers = CountedWorkers()
    archive = archive_of(files, links)
    await loader(here, workers).load(held_back(archive, b"manifest.json", workers, 2), [], lambda _: None)
    assert await contents(here) == (noise("a"), noise("b"))
    assert workers.unpacked == 2 and await directories(here) == 2


async def test_what_is_no_layer_of_an_image_is_thrown_away(here: World) -> None:
    stray, nonsense = tar_of({"c": noise("c")}), noise("d")
    files = {**blobs_of(stray, nonsense), "stray/layer.tar": stray}
    index = {"schemaVersion": 2, "manifests": [{
        "mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": digest(IMAGE.manifest),
        "size": len(IMAGE.manifest), "annotations": {"io.containerd.image.name": "docker.io/library/app:1"}}]}
    files |= {**blobs_of(IMAGE.manifest, IMAGE.config, *IMAGE.layers), "index.json": json.dumps(index).encode()}
    workers = CountedWorkers()
    archive = archive_of(files)
    await loader(here, workers).load(held_back(archive, b"index.json", workers, 5), [], lambda _: None)
    assert await contents(here) == (noise("a"), noise("b"))
    assert await directories(here) == 2
    assert len(await here.content.walk()) == len(IMAGE.blobs) + 1, "the strays are not kept"
    assert list((here.root / "content/ingest").iterdir()) == []


async def test_an_image_that_is_here_stays_as_it_is(here: World) -> None:
    files, links = docker_archive_of(IMAGE, ["app:1"])
    for _ in range(2):
        await loader(here, SubprocessWorkers()).load(pieces_of(archive_of(files, links)), [], lambda _: None)
    assert await contents(here) == (noise("a"), noise("b"))
    assert await directories(here) == 2


async def test_a_layer_twice_in_an_image_is_unpacked_for_each_place(here: World) -> None:
    image = make_image({"a": noise("a")}, {"b": noise("b")}, {"a": noise("a")})
    files, links = docker_archive_of(image, ["app:1"])
    await loader(here, SubprocessWorkers()).load(pieces_of(archive_of(files, links)), [], lambda _: None)
    found = await here.images.resolve("app:1")
    top, _, base = await here.snapshots.image_lower(found.chain_id)
    assert Path(top, "a").read_bytes() == Path(base, "a").read_bytes() == noise("a")


async def test_for_a_platform_nothing_is_guessed(here: World) -> None:
    other = make_image({"a": noise("arm")}, architecture="arm64")
    index = make_index({"amd64": IMAGE, "arm64": other})
    files = blobs_of(index, IMAGE.manifest, other.manifest, *IMAGE.blobs.values(), *other.blobs.values())
    entry = {"mediaType": "application/vnd.oci.image.index.v1+json", "digest": digest(index), "size": len(index)}
    files["index.json"] = json.dumps({"schemaVersion": 2, "manifests": [entry]}).encode()
    workers = CountedWorkers()
    await loader(here, workers).load(pieces_of(archive_of(files)), [Platform(os="linux", architecture="arm64")],
                                     lambda _: None)
    assert workers.unpacked == 1 and await directories(here) == 1


def spoilt() -> dict[str, tuple[bytes, str]]:
    files, links = docker_archive_of(IMAGE, ["app:1"])
    broken = json.loads(IMAGE.config)
    broken["rootfs"]["diff_ids"].reverse()
    torn = files["layer0/layer.tar"][:60_000]
    blob = next(iter(blobs_of(IMAGE.layers[0])))
    return {
        "diff ids": (archive_of({**files, "config.json": json.dumps(broken).encode()}, links),
                     "layers from manifest don't match image configuration"),
        "torn layer": (archive_of({**files, "layer0/layer.tar": torn}, links), "unexpected EOF"),
        "wrong bytes": (archive_of({blob: IMAGE.layers[1]}), "has the digest"),
        "torn archive": (archive_of(files, links)[:150_000], "unexpected EOF"),
    }


@pytest.mark.parametrize("name", spoilt())
async def test_bad_archives_leave_nothing_of_the_guesses(here: World, name: str) -> None:
    archive, text = spoilt()[name]
    with pytest.raises(BarqueError, match=text):
        await loader(here, SubprocessWorkers()).load(pieces_of(archive), [], lambda _: None)
    await here.assert_empty()
    assert list((here.root / "content/ingest").iterdir()) == []


@pytest.mark.parametrize("unpacked", [0, 1])
async def test_a_client_that_goes_away_in_a_layer_leaves_nothing(here: World, unpacked: int) -> None:
    """While the first layer is still coming, and while the second is."""
    workers = CountedWorkers()
    reached = asyncio.Event()
    files, links = docker_archive_of(IMAGE, ["app:1"])

    async def stalling() -> AsyncIterator[bytes]:
        archive = archive_of(files, links)
        yield archive[:archive.index(noise("ab"[unpacked])) + 1_200_000]
        await workers.wait(unpacked)
        reached.set()
        await asyncio.Event().wait()

    loading = asyncio.ensure_future(loader(here, workers).load(stalling(), [], lambda _: None))
    async with asyncio.timeout(PATIENCE):
        await reached.wait()
    loading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await loading
    await here.assert_empty()
    assert list((here.root / "content/ingest").iterdir()) == []
