"""Pulling from a well-behaved registry: what is stored, what is told, what is not fetched twice."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest
from aiohttp import web

from barque.errors import BarqueError
from barque.image.client.hosts import HostConfig
from barque.image.names import IMAGE_ID
from barque.oci.platform import Platform
from barque.oci.reference import parse
from tests.image_world import INDEX, LAYER, digest, faulty_registry, make_image, make_index, world

ONE = {"a": b"first", "dir/b": b"second"}
TWO = {"c": os.urandom(700_000)}


def short(data: bytes) -> str:
    return digest(data)[7:19]


async def test_pull_tells_dockers_story(tmp_path: Path) -> None:
    image = make_image(ONE, TWO, Cmd=["true"])
    async with faulty_registry() as registry, world(tmp_path) as here:
        registry.add("some/app", "v1", image)
        ref = parse(f"{registry.address}/some/app:v1")
        pulled = await here.puller.pull(ref, None, None, here.progress.append)
        assert here.lines()[0] == "Pulling from some/app"
        assert here.progress[0].id == "v1"
        for layer in image.layers:
            steps = [step for step in here.lines(short(layer)) if step not in ("Downloading", "Extracting", "Waiting")]
            assert steps == ["Pulling fs layer", "Verifying Checksum", "Download complete", "Pull complete"]
        assert here.lines()[-2:] == [f"Digest: {digest(image.manifest)}",
                                     f"Status: Downloaded newer image for {ref.familiar}"]
        assert pulled.target.annotations[IMAGE_ID] == image.id
        found = await here.images.resolve(ref.familiar)
        assert (found.id, found.repo_tags) == (image.id, [ref.familiar])
        assert found.repo_digests == [f"{registry.address}/some/app@{digest(image.manifest)}"]
        assert found.size == 5 + 6 + 700_000
        mount = await here.snapshots.image_mount(str(found.chain_id))
        assert Path(mount.lower[0], "c").read_bytes() == TWO["c"]
        assert Path(mount.lower[1], "dir/b").read_bytes() == b"second"


async def test_second_pull_fetches_the_manifest_only(tmp_path: Path) -> None:
    async with faulty_registry() as registry, world(tmp_path) as here:
        registry.add("app", "latest", make_image(ONE))
        ref = parse(f"{registry.address}/app")
        await here.puller.pull(ref, None, None, here.progress.append)
        registry.seen.clear()
        here.progress.clear()
        await here.puller.pull(ref, None, None, here.progress.append)
        assert registry.count("/blobs/") == 0
        assert here.lines() == ["Pulling from app", here.lines()[1], f"Status: Image is up to date for "
                                f"{ref.familiar}:latest"]


async def test_shared_layer_exists_already(tmp_path: Path) -> None:
    base, top = make_image(ONE), make_image(ONE, TWO)
    async with faulty_registry() as registry, world(tmp_path) as here:
        registry.add("base", "latest", base)
        registry.add("top", "latest", top)
        for name in ("base", "top"):
            await here.puller.pull(parse(f"{registry.address}/{name}"), None, None, here.progress.append)
        assert here.lines(short(base.layers[0]))[-1] == "Already exists"
        assert registry.count(digest(base.layers[0])) == 1


async def test_layers_do_not_wait_for_the_configuration(tmp_path: Path) -> None:
    base, top = make_image(ONE), make_image(ONE, TWO)
    asked = asyncio.Event()

    async def configuration_last(request: web.Request) -> None:
        if digest(top.layers[1]) in request.path:
            asked.set()
        if digest(top.config) in request.path:
            async with asyncio.timeout(60):
                await asked.wait()

    async with faulty_registry() as registry, world(tmp_path) as here:
        registry.add("base", "latest", base)
        registry.add("top", "latest", top)
        await here.puller.pull(parse(f"{registry.address}/base"), None, None, here.progress.append)
        here.progress.clear()
        registry.faults.append(configuration_last)
        await here.puller.pull(parse(f"{registry.address}/top"), None, None, here.progress.append)
        told = [(line.id, line.status) for line in here.progress if line.progress_detail is not None]
        assert told[:2] == [(short(top.layers[0]), "Already exists"), (short(top.layers[1]), "Pulling fs layer")]


async def test_bad_configuration_ends_the_downloads(tmp_path: Path) -> None:
    image = make_image(ONE, TWO)
    asked, over = asyncio.Event(), asyncio.Event()

    async def fault(request: web.Request) -> web.StreamResponse | None:
        if digest(image.layers[1]) in request.path:
            asked.set()
            await over.wait()
        if digest(image.config) in request.path:
            await asked.wait()
            return web.Response(status=404)
        return None

    async with faulty_registry() as registry, world(tmp_path) as here:
        registry.add("app", "latest", image)
        registry.faults.append(fault)
        async with asyncio.timeout(60):
            with pytest.raises(BarqueError, match="error pulling image configuration"):
                await here.puller.pull(parse(f"{registry.address}/app"), None, None, here.progress.append)
        over.set()
        await here.assert_empty()


async def test_blobs_without_their_layers_are_not_fetched_again(tmp_path: Path) -> None:
    image = make_image(ONE, TWO)
    async with faulty_registry() as registry, world(tmp_path) as here:
        registry.add("app", "latest", image)
        async with here.leases.hold("test") as lease:
            for layer in image.layers:
                await here.content.put(lease, LAYER, layer)
            await here.puller.pull(parse(f"{registry.address}/app"), None, None, here.progress.append)
        assert [registry.count(digest(layer)) for layer in image.layers] == [0, 0]
        assert here.lines(short(image.layers[1])) == ["Pulling fs layer", "Download complete", "Extracting",
                                                      "Pull complete"]
        assert (await here.images.resolve(image.id)).size == 5 + 6 + 700_000


async def test_concurrent_pulls_fetch_a_layer_once(tmp_path: Path) -> None:
    image = make_image(ONE, TWO)
    all_began = asyncio.Barrier(3)
    gate = asyncio.Event()

    async def slow(request: web.Request) -> None:
        if "/manifests/" in request.path:
            await all_began.wait()
            gate.set()
        if "/blobs/" in request.path:
            await gate.wait()

    async with faulty_registry() as registry, world(tmp_path) as here:
        for name in ("one", "two", "three"):
            registry.add(name, "latest", image)
        registry.faults.append(slow)
        await asyncio.gather(*(here.puller.pull(parse(f"{registry.address}/{name}"), None, None, here.progress.append)
                               for name in ("one", "two", "three")))
        for layer in image.layers:
            assert registry.count(digest(layer)) == 1
        assert len((await here.images.all())[0].repo_tags) == 3


async def test_same_layer_twice_in_one_image(tmp_path: Path) -> None:
    image = make_image(ONE, TWO, ONE)
    async with faulty_registry() as registry, world(tmp_path) as here:
        registry.add("app", "latest", image)
        await here.puller.pull(parse(f"{registry.address}/app"), None, None, here.progress.append)
        assert registry.count(digest(image.layers[0])) == 1
        found = await here.images.resolve(f"{registry.address}/app")
        assert len((await here.snapshots.image_mount(str(found.chain_id))).lower) == 3


async def test_more_layers_than_unpack_at_once(tmp_path: Path) -> None:
    image = make_image(*({f"file{number}": os.urandom(3000)} for number in range(9)))
    async with faulty_registry() as registry, world(tmp_path) as here:
        registry.add("app", "latest", image)
        await here.puller.pull(parse(f"{registry.address}/app"), None, None, here.progress.append)
        assert (await here.images.resolve(image.id)).size == 9 * 3000


async def test_index_leads_to_the_platform(tmp_path: Path) -> None:
    images = {"amd64": make_image(ONE), "arm64": make_image(TWO, architecture="arm64")}
    async with faulty_registry() as registry, world(tmp_path) as here:
        for image in images.values():
            registry.add("app", "unused", image)
        index = make_index(images)
        registry.manifests["app:multi"] = (INDEX, index)
        registry.manifests[f"app:{digest(index)}"] = (INDEX, index)
        ref = parse(f"{registry.address}/app:multi")
        await here.puller.pull(ref, Platform(os="linux", architecture="arm64"), None, here.progress.append)
        found = await here.images.resolve(ref.familiar)
        assert found.id == images["arm64"].id
        assert found.repo_digests == [f"{registry.address}/app@{digest(index)}"]
        assert here.lines()[-2] == f"Digest: {digest(index)}"
        by_digest = parse(f"{registry.address}/app@{digest(index)}")
        await here.puller.pull(by_digest, Platform(os="linux", architecture="amd64"), None, here.progress.append)
        assert (await here.images.resolve(by_digest.familiar)).id == images["amd64"].id


async def test_moved_tag_leaves_the_old_image_dangling(tmp_path: Path) -> None:
    old, new = make_image(ONE), make_image(TWO)
    async with faulty_registry() as registry, world(tmp_path) as here:
        ref = parse(f"{registry.address}/app")
        for image in (old, new):
            registry.add("app", "latest", image)
            await here.puller.pull(ref, None, None, here.progress.append)
        await here.collect()
        assert (await here.images.resolve(ref.familiar)).id == new.id
        left = await here.images.resolve(old.id)
        assert left.repo_tags == []
        assert left.repo_digests == [f"{registry.address}/app@{digest(old.manifest)}"]


async def test_mirror_comes_first_and_sees_no_credentials(tmp_path: Path) -> None:
    image = make_image(ONE)
    async with faulty_registry() as registry, faulty_registry() as down:
        down.faults.append(lambda request: _status(503))
        hosts = HostConfig(mirrors=(f"http://{down.address}", f"http://{registry.address}/"))
        async with world(tmp_path, hosts) as here:
            registry.add("library/httpd", "latest", image)
            await here.puller.pull(parse("httpd"), None, None, here.progress.append)
            assert (await here.images.resolve("httpd")).repo_tags == ["httpd:latest"]
            assert down.count("/manifests/") == 3
            assert here.lines()[-1] == "Status: Downloaded newer image for httpd:latest"


async def test_any_registry_can_have_a_mirror(tmp_path: Path) -> None:
    image = make_image(ONE)
    async with faulty_registry() as registry:
        (tmp_path / "certs/quay.example").mkdir(parents=True)
        (tmp_path / "certs/quay.example/hosts.toml").write_text(
            f'[host."http://{registry.address}".rewrite]\n"^team/(.*)$" = "near/$1"\n')
        async with world(tmp_path / "root", HostConfig(certs_dir=str(tmp_path / "certs"))) as here:
            registry.add("near/app", "1", image)
            await here.puller.pull(parse("quay.example/team/app:1"), None, None, here.progress.append)
            assert (await here.images.resolve("quay.example/team/app:1")).id == image.id


async def _status(status: int) -> web.Response:
    return web.Response(status=status)


async def test_cancelled_pull_leaves_nothing(tmp_path: Path) -> None:
    image = make_image(ONE, TWO)
    reached = asyncio.Event()

    async def stuck(request: web.Request) -> web.StreamResponse | None:
        if digest(image.layers[1]) not in request.path:
            return None
        response = web.StreamResponse(headers={"Content-Length": str(len(image.layers[1]))})
        await response.prepare(request)
        await response.write(image.layers[1][:300_000])
        reached.set()
        await asyncio.sleep(60)
        return response

    async with faulty_registry() as registry, world(tmp_path) as here:
        registry.add("app", "latest", image)
        registry.faults.append(stuck)
        pull = asyncio.create_task(here.puller.pull(parse(f"{registry.address}/app"), None, None,
                                                    here.progress.append))
        await reached.wait()
        pull.cancel()
        assert isinstance((await asyncio.gather(pull, return_exceptions=True))[0], asyncio.CancelledError)
        await here.assert_empty()
        # What arrived before is not fetched again.
        registry.faults.clear()
        await here.puller.pull(parse(f"{registry.address}/app"), None, None, here.progress.append)
        assert (await here.images.resolve(image.id)).id == image.id
