"""Registries that misbehave: each fault has its error in docker's words, and leaves no image."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from barque.errors import BarqueError
from barque.image.client.auth import Credentials
from barque.image.client.hosts import HostConfig
from barque.image.client.transport import RetryPolicy
from barque.oci.platform import Platform
from barque.oci.reference import parse
from tests.image_world import (
    INDEX,
    FaultyRegistry,
    SmallImage,
    blob_response,
    digest,
    faulty_registry,
    make_image,
    make_index,
    refusal,
    served,
    world,
)
from tests.registry_peers import free_port

IMAGE = make_image({"a": b"x" * 100_000}, {"b": bytes(range(256)) * 2000})


def answering(status: int, code: str, message: str, part: str = "/manifests/") -> Callable[[FaultyRegistry], None]:
    async def fault(request: web.Request) -> web.StreamResponse | None:
        return refusal(status, code, message) if part in request.path else None

    return lambda registry: registry.faults.append(fault)


def spoiled(change: Callable[[dict[str, Any]], None]) -> Callable[[FaultyRegistry], None]:
    return lambda registry: registry.add("app", "latest", make_image({"a": b"x"}, change=change))


def other_bytes(which: Callable[[SmallImage], bytes], data: bytes) -> Callable[[FaultyRegistry], None]:
    def spoil(registry: FaultyRegistry) -> None:
        registry.blobs[digest(which(IMAGE))] = data

    return spoil


def truncated(registry: FaultyRegistry) -> None:
    async def fault(request: web.Request) -> web.StreamResponse | None:
        if digest(IMAGE.layers[1]) not in request.path:
            return None
        response = web.StreamResponse(headers={"Content-Length": str(len(IMAGE.layers[1]))})
        await response.prepare(request)
        await response.write(b"\x1f\x8b")
        assert request.transport is not None
        request.transport.close()
        return response

    registry.faults.append(fault)


def wrong_index_size(registry: FaultyRegistry) -> None:
    index = json.loads(make_index({"amd64": IMAGE}))
    index["manifests"][0]["size"] += 1
    registry.manifests["app:latest"] = (INDEX, json.dumps(index).encode())


def other_platform(registry: FaultyRegistry) -> None:
    registry.manifests["app:latest"] = (INDEX, make_index({"s390x": IMAGE}))


def bad_diff_id(registry: FaultyRegistry) -> None:
    config = json.loads(IMAGE.config)
    config["rootfs"]["diff_ids"][0] = digest(b"something else")
    data = json.dumps(config).encode()
    manifest = json.loads(IMAGE.manifest)
    manifest["config"] |= {"digest": digest(data), "size": len(data)}
    registry.add("app", "latest", SmallImage(json.dumps(manifest).encode(), data, IMAGE.layers))


FAULTS: dict[str, tuple[Callable[[FaultyRegistry], None], int, str]] = {
    "unknown": (answering(404, "MANIFEST_UNKNOWN", "manifest unknown"), 404,
                "manifest for {ref} not found: manifest unknown: manifest unknown"),
    "no such repository": (answering(404, "NAME_UNKNOWN", "repository name not known to registry"), 404,
                           "repository {name} not found: name unknown: repository name not known to registry"),
    "denied": (answering(403, "DENIED", "requested access to the resource is denied"), 404,
               "pull access denied for {name}, repository does not exist or may require 'docker login': "
               "denied: requested access to the resource is denied"),
    "unauthorized": (answering(401, "UNAUTHORIZED", "authentication required"), 401,
                     "unauthorized: authentication required"),
    "always busy": (answering(429, "TOOMANYREQUESTS", "slow down"), 500, "toomanyrequests: slow down"),
    "broken": (lambda registry: registry.faults.append(_internal_error), 500, "500 Internal Server Error"),
    "layer gone": (answering(404, "BLOB_UNKNOWN", "blob unknown to registry", digest(IMAGE.layers[0])), 500,
                   "blob unknown: blob unknown to registry"),
    "wrong bytes": (other_bytes(lambda image: image.layers[1], bytes(len(IMAGE.layers[1]))), 500,
                    "filesystem layer verification failed for digest"),
    "too many bytes": (other_bytes(lambda image: image.layers[1], IMAGE.layers[1] + b"more"), 500,
                       "bytes, got at least"),
    "truncated": (truncated, 500, "unexpected EOF"),
    "wrong config": (other_bytes(lambda image: image.config, b"{}"), 500,
                     "image config verification failed for digest"),
    "negative size": (spoiled(lambda manifest: manifest["layers"][0].update(size=-1)), 500, "negative size"),
    "ambiguous": (spoiled(lambda manifest: manifest.update(manifests=[])), 500, "has both 'manifests' and 'layers'"),
    "bad digest": (spoiled(lambda manifest: manifest["layers"][0].update(digest="sha256:../../etc")), 400,
                   "invalid digest"),
    "layer count": (spoiled(lambda manifest: manifest["layers"].clear()), 500,
                    "layers from manifest don't match image configuration"),
    "unknown layer type": (spoiled(lambda manifest: manifest["layers"][0].update(mediaType="text/plain")), 400,
                           "unsupported media type text/plain"),
    "diff id": (bad_diff_id, 500, "failed to register layer"),
    "index with a wrong size": (wrong_index_size, 500, "manifest verification failed for digest"),
    "other platform": (other_platform, 404, "no matching manifest for linux/amd64 in the manifest list entries"),
}


async def _internal_error(request: web.Request) -> web.StreamResponse:
    return web.Response(status=500, text="oops")


@pytest.mark.parametrize("fault", FAULTS)
async def test_fault(tmp_path: Path, fault: str) -> None:
    spoil, status, text = FAULTS[fault]
    async with faulty_registry() as registry, world(tmp_path) as here:
        registry.add("app", "latest", IMAGE)
        spoil(registry)
        ref = parse(f"{registry.address}/app")
        with pytest.raises(BarqueError) as caught:
            await here.puller.pull(ref, Platform(os="linux", architecture="amd64"), None, here.progress.append)
        assert text.format(ref=f"{ref.familiar}:latest", name=ref.familiar) in caught.value.message
        assert caught.value.status == status
        await here.assert_empty()


async def test_manifest_by_digest_is_verified(tmp_path: Path) -> None:
    async with faulty_registry() as registry, world(tmp_path) as here:
        wanted = digest(b"what was asked for")
        registry.manifests[f"app:{wanted}"] = ("application/json", IMAGE.manifest)
        with pytest.raises(BarqueError, match=f"manifest verification failed for digest {wanted}"):
            await here.puller.pull(parse(f"{registry.address}/app@{wanted}"), None, None, here.progress.append)
        await here.assert_empty()


async def test_nobody_listens(tmp_path: Path) -> None:
    port = free_port()
    async with world(tmp_path) as here:
        with pytest.raises(BarqueError) as caught:
            await here.puller.pull(parse(f"127.0.0.1:{port}/app"), None, None, here.progress.append)
        assert caught.value.message == (f'Get "http://127.0.0.1:{port}/v2/": dial tcp 127.0.0.1:{port}: connect: '
                                        "connection refused")


async def test_broken_download_goes_on_where_it_broke(tmp_path: Path) -> None:
    layer = IMAGE.layers[1]
    ranges: list[str] = []

    async def cut(request: web.Request) -> web.StreamResponse | None:
        if digest(layer) not in request.path:
            return None
        ranges.append(request.headers.get("Range", ""))
        if len(ranges) > 2:
            return None
        whole = blob_response(request, layer)
        assert isinstance(whole.body, bytes)
        response = web.StreamResponse(status=whole.status, headers={
            **whole.headers, "Content-Length": str(len(whole.body))})
        await response.prepare(request)
        await response.write(whole.body[:700])
        assert request.transport is not None
        request.transport.close()
        return response

    async with faulty_registry() as registry, world(tmp_path) as here:
        registry.add("app", "latest", IMAGE)
        registry.faults.append(cut)
        await here.puller.pull(parse(f"{registry.address}/app"), None, None, here.progress.append)
        assert ranges == ["", "bytes=700-", "bytes=1400-"]
        assert (await here.images.resolve(IMAGE.id)).id == IMAGE.id


async def test_attempts_of_a_download_can_be_changed_meanwhile(tmp_path: Path) -> None:
    layer = IMAGE.layers[1]
    asked: list[str] = []

    async def cut_at_once(request: web.Request) -> web.StreamResponse | None:
        if digest(layer) not in request.path:
            return None
        asked.append(request.path)
        response = web.StreamResponse(headers={"Content-Length": str(len(layer))})
        await response.prepare(request)
        assert request.transport is not None
        request.transport.close()
        return response

    async with faulty_registry() as registry, world(tmp_path) as here:
        registry.add("app", "latest", IMAGE)
        registry.faults.append(cut_at_once)
        for attempts in (2, 4):
            asked.clear()
            here.puller.limit(3, attempts)
            with pytest.raises(BarqueError):
                await here.puller.pull(parse(f"{registry.address}/app"), None, None, here.progress.append)
            assert len(asked) == attempts


async def test_busy_registry_is_asked_again(tmp_path: Path) -> None:
    asked: list[str] = []

    async def busy(request: web.Request) -> web.StreamResponse | None:
        asked.append(request.path)
        return web.Response(status=429, headers={"Retry-After": "0"}) if len(asked) % 2 else None

    async with faulty_registry() as registry, world(tmp_path) as here:
        registry.add("app", "latest", IMAGE)
        registry.faults.append(busy)
        await here.puller.pull(parse(f"{registry.address}/app"), None, None, here.progress.append)


async def test_long_retry_after_is_not_waited_for(tmp_path: Path) -> None:
    async def busy(request: web.Request) -> web.StreamResponse:
        return refusal(429, "TOOMANYREQUESTS", "come back tomorrow", Retry_After="86400")

    async with faulty_registry() as registry, world(tmp_path) as here:
        registry.faults.append(busy)
        with pytest.raises(BarqueError, match="come back tomorrow"):
            await here.puller.pull(parse(f"{registry.address}/app"), None, None, here.progress.append)
        assert registry.count("/manifests/") == 1


async def test_other_hosts_do_not_see_the_authorization(tmp_path: Path) -> None:
    seen: list[str | None] = []

    async def storage(request: web.Request) -> web.StreamResponse:
        seen.append(request.headers.get("Authorization"))
        return blob_response(request, IMAGE.blobs[request.path.removeprefix("/")])

    async with faulty_registry() as registry, served(storage) as port, world(tmp_path) as here:
        async def redirect(request: web.Request) -> web.StreamResponse | None:
            if not request.headers.get("Authorization"):
                return web.Response(status=401, headers={"WWW-Authenticate": 'Basic realm="x"'})
            if "/blobs/" in request.path:
                target = f"http://127.0.0.1:{port}/{request.path.rpartition('/')[2]}"
                return web.Response(status=307, headers={"Location": target})
            return None

        registry.add("app", "latest", IMAGE)
        registry.faults.append(redirect)
        await here.puller.pull(parse(f"{registry.address}/app"), None, Credentials(username="a", password="b"),
                               here.progress.append)
        assert seen == [None] * 3


async def test_insecure_is_only_who_may_be(tmp_path: Path) -> None:
    hosts = HostConfig(insecure=("10.0.0.0/8", "plain.example:5000", "other.example"))
    urls = {name: [endpoint.url for endpoint in await hosts.endpoints(name)]
            for name in ("10.1.2.3:5000", "plain.example:5000", "plain.example:5001", "other.example:80", "[::1]:5000",
                         "11.0.0.1")}
    assert {name for name, found in urls.items() if len(found) == 1} == {"plain.example:5001", "11.0.0.1"}
    assert urls["10.1.2.3:5000"] == ["https://10.1.2.3:5000", "http://10.1.2.3:5000"]


async def test_slow_registry_is_given_up_after_its_tries(tmp_path: Path) -> None:
    async def reset(request: web.Request) -> web.StreamResponse:
        assert request.transport is not None
        request.transport.close()
        await asyncio.sleep(0)
        return web.Response()

    async with faulty_registry() as registry, world(tmp_path, retry=RetryPolicy(attempts=2, pause=0.001)) as here:
        registry.faults.append(reset)
        with pytest.raises(BarqueError, match="EOF"):
            await here.puller.pull(parse(f"{registry.address}/app"), None, None, here.progress.append)
