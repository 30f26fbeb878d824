"""Pushes, pulls, deletions, collections and clients that break off, all at once: nothing that was accepted is lost."""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
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
from tests.registry_world import Client, digest, registry_over, s3_server, s3_storage

#: How long the workers go on; the S3 server of the tests is a slow one.
SECONDS = 6.0


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

    def __init__(self, client: Client, storage: Storage) -> None:
        self._client = client
        self._storage = storage
        self._until = time.monotonic() + SECONDS
        self.pushed = self.broken = self.collected = 0
        self.held: dict[tuple[str, str], tuple[bytes, tuple[bytes, ...]]] = {}

    def _on(self) -> bool:
        return time.monotonic() < self._until

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
            self.pushed += 1
            self.held[name, tag] = image, layers
            if dice.random() < 0.4:
                (name, tag), (image, _) = dice.choice([item for item in self.held.items()
                                                      if item[0][1].startswith(f"w{worker}-")])
                del self.held[name, tag]
                await (await self._client.delete(f"/v2/{name}/manifests/{digest(image)}")).release()

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
            await asyncio.sleep(0.3)

    async def pull(self) -> None:
        while self._on():
            await asyncio.sleep(0)
            if self.held:
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


async def test_nothing_is_lost(storage: Storage) -> None:
    async with registry_over(storage) as client:
        soak = Soak(client, storage)
        await asyncio.gather(soak.push_and_delete(1), soak.push_and_delete(2), soak.push_and_delete(3),
                             soak.break_off(), soak.collect(), soak.pull())
        assert min(soak.pushed, soak.broken, soak.collected) > 2
        for key in soak.held:
            await soak.verify(key, final=True)
        assert await check(storage) == []
    await storage.aclose()
