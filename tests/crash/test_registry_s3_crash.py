"""A front end over an object store that dies at one of its requests: images are whole or absent, space comes back."""

from __future__ import annotations

import asyncio
import io
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path

import aiohttp
import pytest

from barque.registry.check import check
from barque.registry.collect import Policy, collect
from barque.registry.storage.s3 import uploads
from barque.registry.storage.s3.client import S3
from barque.registry.storage.s3.sigv4 import Signer
from barque.registry.storage.s3.storage import S3Storage
from tests.registry_peers import free_port
from tests.registry_world import Client, digest, registry_over, s3_server, s3_storage

SIGNER = Signer("key", "secret", "us-east-1")
AT_ONCE = Policy(grace=-5.0, upload_lifetime=-5.0)
#: Requests between two deaths; a push takes some seventy.
STEP = 19
LAYER = b"layer" * 1000
PART = 8192
BIG = bytes(range(256)) * 80


class Died(Exception):
    """As nothing after it reaches the store, it is a kill -9 to all that the store can see."""


class MortalS3(S3):
    def __init__(self, url: str, bucket: str, life: int) -> None:
        super().__init__(url, bucket, SIGNER)
        self.life = life

    @asynccontextmanager
    async def _ask(self, method: str, key: str | None, *, query: Mapping[str, str] | None = None, body: bytes = b"",
                   headers: Mapping[str, str] | None = None) -> AsyncIterator[aiohttp.ClientResponse]:
        self.life -= 1
        if self.life < 0:
            raise Died
        async with super()._ask(method, key, query=query, body=body, headers=headers) as response:
            yield response


@pytest.fixture(scope="module")
def s3_url() -> Iterator[str]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("S3_UPLOAD_PART_MIN_SIZE", str(PART))
        with s3_server() as url:
            yield url


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """A push goes through all that a large one does, and takes a tenth of the time."""
    monkeypatch.setattr(uploads, "_PART", PART)


async def push(client: Client) -> bytes:
    async with client.post("/v2/app/blobs/uploads/") as answer:
        assert answer.status == 202
        location = answer.headers["Location"]
    for part in (BIG[:12_000], BIG[12_000:]):
        async with client.patch(location, data=part) as answer:
            assert answer.status == 202
    async with client.put(location, params={"digest": digest(BIG)}) as answer:
        assert answer.status == 201
    return await client.push_image("app", "v1", LAYER)


async def keys(storage: S3Storage) -> set[str]:
    """Of all that takes space."""
    begun = {f"multipart {multipart.id}" for multipart in await storage._s3.multiparts()}
    return begun | {stored.key async for stored in storage._s3.objects("")}


async def deaths(work: Callable[[MortalS3], Awaitable[bool]], s3_url: str, bucket: str) -> AsyncIterator[S3Storage]:
    """The store after each of the deaths, until ``work`` lives through."""
    for life in range(1, 500, STEP):
        mortal = MortalS3(s3_url, bucket, life)
        try:
            whole = await work(mortal)
        finally:
            await mortal.close()
        storage = S3Storage(S3(s3_url, bucket, SIGNER))
        for key in await keys(storage):
            if key.startswith(("locks/", "intents/")):
                await storage._s3.delete(key)  # as it were two minutes later: nobody trusts them any more
        yield storage
        await storage.aclose()
        if whole:
            return
    raise AssertionError("it never came through")


async def test_push_that_dies_leaves_nothing_half(s3_url: str) -> None:
    await s3_storage(s3_url, "push").aclose()

    async def work(s3: MortalS3) -> bool:
        async with registry_over(S3Storage(s3)) as client:
            with suppress(AssertionError):
                await push(client)
                return True
            return False

    count = 0
    async for storage in deaths(work, s3_url, "push"):
        count += 1
        assert await check(storage) == []
        await collect(storage, AT_ONCE)
        async with registry_over(storage) as client:
            image = await push(client)
            assert await client.bytes_of("/v2/app/manifests/v1") == image
            assert await client.bytes_of(f"/v2/app/blobs/{digest(LAYER)}") == LAYER
            assert await client.bytes_of(f"/v2/app/blobs/{digest(BIG)}") == BIG
            async with client.delete(f"/v2/app/manifests/{digest(image)}") as answer:
                assert answer.status == 202
        await collect(storage, AT_ONCE)
        assert await keys(storage) <= {"index/app"}
    assert count > 3


async def test_collection_that_dies_takes_nothing_that_is_in_use(s3_url: str) -> None:
    first = s3_storage(s3_url, "collect")
    async with registry_over(first) as client:
        image = await push(client)

        async def work(s3: MortalS3) -> bool:
            for number in range(2):
                await client.push_blob("app", b"stray %d" % number)
            with suppress(Died):
                await collect(S3Storage(s3), AT_ONCE)
                return True
            return False

        async for storage in deaths(work, s3_url, "collect"):
            assert await check(storage) == []
            async with registry_over(storage) as other:
                assert await other.bytes_of("/v2/app/manifests/v1") == image
                assert await other.bytes_of(f"/v2/app/blobs/{digest(LAYER)}") == LAYER
        await collect(first, AT_ONCE)
        assert {key for key in await keys(first) if key.startswith("blobs/")} \
            == {f"blobs/sha256/{digest(data)[7:]}" for data in (LAYER, b"{}")}
    await first.aclose()


@contextmanager
def server(config: Path) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """Its process and its URL."""
    port = free_port()
    code = "import sys; from barque.registry.server import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", code, "--config", str(config), "--addr", f"127.0.0.1:{port}"]
    with subprocess.Popen(command, stderr=subprocess.PIPE) as process:
        try:
            assert process.stderr is not None
            assert b"serves bucket servers" in process.stderr.readline()
            yield process, f"http://127.0.0.1:{port}"
        finally:
            process.kill()


async def test_killed_server_is_followed_by_another_one(s3_url: str, tmp_path: Path) -> None:
    """kill -9 in the middle of a chunk: a second server goes on where the first one's last whole chunk ended."""
    reader = s3_storage(s3_url, "servers")
    config = tmp_path / "config.toml"
    config.write_text(f'workers = 1\n[storage.s3]\nendpoint = "{s3_url}"\nbucket = "servers"\naccess_key = "key"\n'
                      'secret_key = "secret"\n')
    with server(config) as (first, first_url), server(config) as (_, second_url):
        async with aiohttp.ClientSession(first_url) as session:
            async with session.post("/v2/app/blobs/uploads/") as answer:
                location = answer.headers["Location"]
            async with session.patch(location, data=io.BytesIO(BIG[:5000])) as answer:
                assert answer.status == 202
            sent = asyncio.Event()

            async def slow() -> AsyncIterator[bytes]:
                yield BIG[5000:15_000]
                sent.set()
                await asyncio.sleep(60)

            broken = asyncio.create_task(session.patch(location, data=slow()).__aenter__())
            await asyncio.wait_for(sent.wait(), 60)
            first.send_signal(signal.SIGKILL)
            with pytest.raises(aiohttp.ClientError):
                await asyncio.wait_for(broken, 60)
        async with aiohttp.ClientSession(second_url) as session:
            client = Client(session)
            async with client.get(location) as answer:
                assert answer.headers["Range"] == "0-4999"
            async with client.put(location, data=BIG[5000:], params={"digest": digest(BIG)}) as answer:
                assert answer.status == 201, await answer.text()
            assert await client.bytes_of(f"/v2/app/blobs/{digest(BIG)}") == BIG
    assert await check(reader) == []
    await reader.aclose()
