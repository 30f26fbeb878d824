"""The pull-through cache, before a registry of ours that can break, and before docker's where it is installed."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import pytest

from barque.image.client.endpoints import Registry
from barque.image.client.hosts import HostConfig
from barque.image.client.transport import RetryPolicy, Transport
from barque.registry.app import Registry as RegistryApp
from barque.registry.app import make_app
from barque.registry.check import check
from barque.registry.http.messages import FilePart, Request, Response
from barque.registry.listen import serving
from barque.registry.proxy import CachingStorage, Upstream
from barque.registry.storage.filesystem import FilesystemStorage
from tests.registry_peers import docker_registry, has_docker_registry
from tests.registry_world import Client, digest, registry_over, until


@dataclass
class Faults:
    """What the upstream counts and does wrong."""

    asked: list[str] = field(default_factory=list)
    down: bool = False
    #: Bytes of a blob's answer after which the connection breaks, once.
    breaks_at: int = 0
    #: Blobs wait for it.
    gate: asyncio.Event = field(default_factory=asyncio.Event)

    async def answer(self, request: Request, registry: RegistryApp) -> Response:
        self.asked.append(f"{request.method} {request.path}")
        if self.down:
            return Response(503)
        response = await registry(request)
        if "/blobs/" not in request.path or request.method != "GET" or not self.breaks_at:
            return response
        assert isinstance(response.body, FilePart)
        with response.body.file as file:
            data = file.read(self.breaks_at)
        self.breaks_at = 0
        return Response(200, body=self._broken(data), length=response.length)

    async def _broken(self, data: bytes) -> AsyncGenerator[bytes, None]:
        yield data
        await self.gate.wait()
        raise ConnectionResetError


class Faulty:
    """A registry before which something goes wrong."""

    def __init__(self, registry: RegistryApp, faults: Faults) -> None:
        self._registry = registry
        self._faults = faults
        self.start, self.close = registry.start, registry.close

    async def __call__(self, request: Request) -> Response:
        return await self._faults.answer(request, self._registry)


@dataclass
class World:
    upstream: Client
    cache: Client
    faults: Faults
    storage: CachingStorage
    host: str


@asynccontextmanager
async def world(root: Path, *, tag_life: float = 0.0, default: bool = False,
                size: int | None = None) -> AsyncIterator[World]:
    faults = Faults()
    async with AsyncExitStack() as stack:
        behind = FilesystemStorage(str(root / "upstream"))
        stack.callback(behind.close)
        port = await stack.enter_async_context(serving(Faulty(make_app(behind), faults), "127.0.0.1", 0))
        upstream = Client(await stack.enter_async_context(aiohttp.ClientSession(f"http://127.0.0.1:{port}")))
        host = f"127.0.0.1:{port}"
        storage = caching(root / "cache", (Upstream("up", host, default=default, tag_life=tag_life, size=size),))
        stack.push_async_callback(storage.aclose)
        yield World(upstream, await stack.enter_async_context(registry_over(storage)), faults, storage, host)


def caching(root: Path, upstreams: tuple[Upstream, ...]) -> CachingStorage:
    transport = Transport(HostConfig(), RetryPolicy(attempts=1, pause=0.01))
    return CachingStorage(FilesystemStorage(str(root)), upstreams, Registry(transport))


async def test_image_is_fetched_once_and_served_when_upstream_is_away(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        layer = os.urandom(3_000_000)
        image = await w.upstream.push_image("library/app", "v1", layer)
        for _ in range(2):
            assert await w.cache.bytes_of("/v2/up/library/app/manifests/v1") == image
            assert await w.cache.bytes_of(f"/v2/up/library/app/blobs/{digest(layer)}") == layer
        assert w.faults.asked.count(f"GET /v2/library/app/blobs/{digest(layer)}") == 1
        assert w.faults.asked.count("GET /v2/library/app/manifests/v1") == 1
        w.faults.down = True
        assert await w.cache.bytes_of("/v2/up/library/app/manifests/v1") == image
        assert await w.cache.bytes_of(f"/v2/up/library/app/manifests/{digest(image)}") == image
        assert await w.cache.bytes_of(f"/v2/up/library/app/blobs/{digest(layer)}") == layer
        assert (await w.cache.json_of("/v2/up/library/app/tags/list"))["tags"] == ["v1"]
        async with w.cache.get("/v2/up/library/app/manifests/v2") as answer:
            assert answer.status == 503


async def test_tags_follow_upstream(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        await w.upstream.push_image("app", "v1", b"one")
        await w.cache.bytes_of("/v2/up/app/manifests/v1")
        image = await w.upstream.push_image("app", "v1", b"two")
        assert await w.cache.bytes_of("/v2/up/app/manifests/v1") == image
        async with w.upstream.delete("/v2/app/manifests/v1") as answer:
            assert answer.status == 202
        assert await w.cache.status("/v2/up/app/manifests/v1") == 404


async def test_tag_is_believed_for_its_life(tmp_path: Path) -> None:
    async with world(tmp_path, tag_life=3600) as w:
        image = await w.upstream.push_image("app", "v1", b"one")
        await w.cache.bytes_of("/v2/up/app/manifests/v1")
        w.faults.asked.clear()
        assert await w.cache.bytes_of("/v2/up/app/manifests/v1") == image
        assert w.faults.asked == []


async def test_broken_transfer_is_taken_up_and_readers_follow_it(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        layer = os.urandom(4_000_000)
        await w.upstream.push_image("app", "v1", layer)
        w.faults.breaks_at = 1_500_000
        path = f"/v2/up/app/blobs/{digest(layer)}"
        async with w.cache.get(path) as first:
            assert await first.content.readexactly(1_000_000) == layer[:1_000_000]  # while the rest is not there yet
            second = asyncio.create_task(w.cache.bytes_of(path, Range="bytes=3000000-"))
            w.faults.gate.set()
            assert await first.read() == layer[1_000_000:]
            assert await second == layer[3_000_000:]


async def test_wrong_bytes_never_look_complete(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        layer = os.urandom(500_000)
        await w.upstream.push_image("app", "v1", layer)
        for stored in (tmp_path / "upstream").rglob(digest(layer)[7:]):
            stored.write_bytes(layer[:-1] + bytes([layer[-1] ^ 1]))
        with pytest.raises(aiohttp.ClientPayloadError):
            await w.cache.bytes_of(f"/v2/up/app/blobs/{digest(layer)}")
        assert await w.storage.blobs.entries("up/app") == []


async def test_own_repositories_live_beside_copies(tmp_path: Path) -> None:
    async with world(tmp_path, default=True) as w:
        await w.upstream.push_image("library/theirs", "v1", b"theirs")
        await w.upstream.push_image("library/both", "v1", b"theirs too")
        own = await w.cache.push_image("library/both", "v1", b"ours")
        assert await w.cache.bytes_of("/v2/library/both/manifests/v1") == own
        assert await w.cache.status("/v2/library/theirs/manifests/v1") == 200
        assert await w.cache.bytes_of(f"/v2/library/theirs/blobs/{digest(b'theirs')}") == b"theirs"
        assert (await w.cache.json_of("/v2/_catalog"))["repositories"] == ["library/both", "up/library/theirs"]
        async with w.cache.post("/v2/up/library/theirs/blobs/uploads/") as answer:
            assert answer.status == 403


async def test_cache_stays_within_its_size(tmp_path: Path) -> None:
    """What was asked for longest ago goes, own repositories stay, and what went is fetched again."""
    async with world(tmp_path, size=100_000) as w:
        own = await w.cache.push_image("own/app", "v1", b"o" * 90_000)
        layers = [bytes([number]) * 30_000 for number in range(4)]
        await w.upstream.push_image("app", "v1", *layers)
        image = await w.cache.bytes_of("/v2/up/app/manifests/v1")
        for number, layer in enumerate(layers[:3]):
            assert await w.cache.bytes_of(f"/v2/up/app/blobs/{digest(layer)}") == layer
            (path,) = (tmp_path / "cache/repositories/up").rglob(digest(layer)[7:])
            used = time.time() - 3600 * (3 - number)
            os.utime(path, (used, used))
        assert await w.cache.bytes_of(f"/v2/up/app/blobs/{digest(layers[0])}") == layers[0]  # so it is young again
        assert await w.cache.bytes_of(f"/v2/up/app/blobs/{digest(layers[3])}") == layers[3]

        async def held() -> set[str]:
            return {entry.digest for entry in await w.storage.blobs.entries("up/app")}

        async def made_room() -> bool:
            return digest(layers[1]) not in await held()

        await until(made_room)
        assert await held() == {digest(layers[number]) for number in (0, 2, 3)}
        w.faults.asked.clear()
        assert await w.cache.bytes_of(f"/v2/up/app/blobs/{digest(layers[1])}") == layers[1]
        assert w.faults.asked == [f"GET /v2/app/blobs/{digest(layers[1])}"]
        assert await w.cache.bytes_of("/v2/own/app/manifests/v1") == own
        assert await w.cache.bytes_of(f"/v2/own/app/blobs/{digest(b'o' * 90_000)}") == b"o" * 90_000
        assert await w.cache.bytes_of("/v2/up/app/manifests/v1") == image
        # A copy that has not all its blobs is no damage; an own image would be.
        kept = FilesystemStorage(str(tmp_path / "cache"))
        assert await check(kept, copies=("up",)) == []
        assert len(await check(kept)) == 2
        kept.close()


@pytest.mark.skipif(not has_docker_registry(), reason="docker-registry is not installed")
async def test_several_upstreams_at_once(tmp_path: Path) -> None:
    with docker_registry(tmp_path / "docker") as address:
        async with world(tmp_path) as w, aiohttp.ClientSession(f"http://{address}") as session:
            data = b"from docker's registry"
            async with session.post("/v2/app/blobs/uploads/") as answer:
                location = answer.headers["Location"]
            async with session.put(f"{location}&digest={digest(data)}", data=data) as answer:
                assert answer.status == 201
            await w.upstream.push_blob("app", b"from ours")
            storage = caching(tmp_path / "both", (Upstream("docker", address), Upstream("ours", w.host)))
            async with registry_over(storage) as client:
                assert await client.bytes_of(f"/v2/docker/app/blobs/{digest(data)}") == data
                assert await client.bytes_of(f"/v2/ours/app/blobs/{digest(b'from ours')}") == b"from ours"
                assert await client.status(f"/v2/ours/app/blobs/{digest(data)}") == 404
            await storage.aclose()
