"""Pushes, pulls, deletions, collections and clients that break off, all at once: nothing that was accepted is lost."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import pytest

from barque.registry.check import check
from barque.registry.collect import Policy, collect
from barque.registry.retention import Rule
from barque.registry.storage.base import Storage
from barque.registry.storage.filesystem import FilesystemStorage
from tests.contract.test_registry_workers import Server, server
from tests.registry_world import Client, digest, registry_over, s3_server, s3_storage, until

#: How long the workers go on; the S3 server of the tests is a slow one.
SECONDS = 4.0
#: What must have happened of everything, for which a busy machine gets more time (seconds).
ENOUGH = 3
AT_MOST = 120.0


@pytest.fixture(params=["filesystem", "s3"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Storage]:
    if request.param == "filesystem":
        found = FilesystemStorage(str(tmp_path))
        yield found
        found.close()
        return
    with s3_server() as url:
        yield s3_storage(url, "b" + hashlib.sha256(str(tmp_path).encode()).hexdigest()[:20])


class Soak:
    """Each worker owns the tags it pushes, so that it knows what must be there."""

    def __init__(self, client: Client, storage: Storage, workers: Server | None = None) -> None:
        self._client = client
        self._storage = storage
        self._workers = workers
        self._until = time.monotonic() + SECONDS
        self.pushed = self.broken = self.collected = self.killed = 0
        self.held: dict[tuple[str, str], tuple[bytes, tuple[bytes, ...]]] = {}

    def _on(self) -> bool:
        """For as long as it was given, and until enough has happened."""
        left = self._until - time.monotonic()
        return left > 0 or (not self.enough() and left > SECONDS - AT_MOST)

    def enough(self) -> bool:
        happened = [self.pushed, self.broken, self.collected]
        return min(happened if self._workers is None else [*happened, self.killed]) >= ENOUGH

    async def _until_a_push(self, seconds: float) -> None:
        """Sleep, and until something was pushed: on a busy machine no push might ever be fast enough otherwise."""
        before = self.pushed

        async def went_on() -> bool:
            return self.pushed > before or not self._on()

        await asyncio.sleep(seconds)
        await until(went_on, AT_MOST)

    async def push_and_delete(self, worker: int) -> None:
        dice = random.Random(worker)
        shared = [b"shared layer %d" % number * 500 for number in range(4)]
        serial = 0
        while self._on():
            serial += 1
            name, tag = f"team/app{dice.randrange(3)}", f"w{worker}-{serial}"
            layers = (os.urandom(dice.choice((10, 5_000, 300_000))), dice.choice(shared))
            try:
                image = await self._client.push_image(name, tag, *layers)
            except AssertionError:
                continue  # a collection took a shared layer between its check and the manifest: refused, as it must
            except aiohttp.ClientError:
                assert self._workers is not None
                continue  # its worker was killed
            self.pushed += 1
            self.held[name, tag] = image, layers
            if dice.random() < 0.4:
                (name, tag), (image, _) = dice.choice([item for item in self.held.items()
                                                      if item[0][1].startswith(f"w{worker}-")])
                del self.held[name, tag]
                with self._kills():
                    await (await self._client.delete(f"/v2/{name}/manifests/{digest(image)}")).release()

    def _kills(self) -> contextlib.AbstractContextManager[None]:
        """Inside, a connection may break if there is somebody who kills."""
        return contextlib.suppress(*([aiohttp.ClientError] if self._workers is not None else []))

    async def kill(self) -> None:
        """One worker after the other, without a warning."""
        while self._workers is not None and self._on():
            await self._until_a_push(0.7)
            if alive := self._workers.workers():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(random.choice(alive), signal.SIGKILL)
                    self.killed += 1

    async def break_off(self) -> None:
        """Uploads whose client goes away in the middle."""
        while self._on():
            async def body() -> object:
                yield os.urandom(200_000)
                raise ConnectionResetError

            with pytest.raises(aiohttp.ClientError):
                async with self._client._session.post(
                        "/v2/team/app0/blobs/uploads/", params={"digest": digest(b"never")},
                        data=body(), headers={"Content-Length": "400000"}):
                    pass
            self.broken += 1
            await asyncio.sleep(0.05)

    async def collect(self) -> None:
        policy = Policy((Rule(untagged=0.0),), grace=0.5, upload_lifetime=0.5)
        while self._on():
            self.collected += 1
            assert (await collect(self._storage, policy)).skipped == []
            await self._until_a_push(0.3)

    async def pull(self) -> None:
        while self._on():
            await asyncio.sleep(0)
            if self.held:
                with self._kills():
                    await self.verify(random.choice(list(self.held)))

    async def verify(self, key: tuple[str, str], *, final: bool = False) -> None:
        name, tag = key
        image, layers = self.held[key]
        try:
            assert await self._client.bytes_of(f"/v2/{name}/manifests/{tag}") == image
            for layer in layers:
                assert await self._client.bytes_of(f"/v2/{name}/blobs/{digest(layer)}") == layer
        except AssertionError:
            assert key not in self.held and not final, f"{name}:{tag} is lost"  # it may have been deleted meanwhile


async def run(soak: Soak) -> None:
    await asyncio.gather(soak.push_and_delete(1), soak.push_and_delete(2), soak.push_and_delete(3),
                         soak.break_off(), soak.collect(), soak.pull(), soak.kill())
    assert soak.enough(), (soak.pushed, soak.broken, soak.collected, soak.killed)


async def test_nothing_is_lost(storage: Storage) -> None:
    async with registry_over(storage) as client:
        soak = Soak(client, storage)
        await run(soak)
        for key in soak.held:
            await soak.verify(key, final=True)
        assert await check(storage) == []
    await storage.aclose()


async def test_nothing_is_lost_though_workers_are_killed(tmp_path: Path) -> None:
    with server(tmp_path) as found:
        storage = FilesystemStorage(str(tmp_path / "data"))
        async with aiohttp.ClientSession(found.url) as session:
            soak = Soak(Client(session), storage, found)
            await run(soak)
        await found.until_said("is started anew", 2)
        async with aiohttp.ClientSession(found.url) as session:
            for (name, tag), (image, layers) in soak.held.items():
                after = Client(session)
                assert await after.bytes_of(f"/v2/{name}/manifests/{tag}") == image
                for layer in layers:
                    assert await after.bytes_of(f"/v2/{name}/blobs/{digest(layer)}") == layer
        assert await check(storage) == []
        storage.close()
