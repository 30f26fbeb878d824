"""What every storage of the registry must do: one contract through HTTP, over the file system and over S3."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from barque.registry.app import Settings
from barque.registry.check import check
from barque.registry.collect import Policy, collect
from barque.registry.quotas import Quota
from barque.registry.retention import Rule
from barque.registry.storage.base import Storage
from barque.registry.storage.filesystem import FilesystemStorage
from tests.registry_world import INDEX, MANIFEST, Client, digest, registry_over, s3_server, s3_storage, until

#: Nothing is too young to be collected.
AT_ONCE = Policy(grace=-5.0, upload_lifetime=-5.0)


@pytest.fixture(scope="module")
def s3_url() -> Iterator[str]:
    with s3_server() as url:
        yield url


class World:
    """One storage, of which any number of handles can be opened."""

    def __init__(self, kind: str, root: Path, url: str) -> None:
        self.kind = kind
        self._root = root
        self._url = url
        self._bucket = "b" + hashlib.sha256(str(root).encode()).hexdigest()[:20]

    def open(self, *, redirect: bool = False) -> Storage:
        if self.kind == "filesystem":
            return FilesystemStorage(str(self._root))
        return s3_storage(self._url, self._bucket, "some/prefix/", redirect=redirect)

    @asynccontextmanager
    async def serving(self, settings: Settings | None = None, **options: Any) -> AsyncIterator[tuple[Client, Storage]]:
        storage = self.open(**options)
        try:
            async with registry_over(storage, settings) as client:
                yield client, storage
        finally:
            await storage.aclose()


@pytest.fixture(params=["filesystem", "s3"])
def world(request: pytest.FixtureRequest, tmp_path: Path, s3_url: str) -> World:
    return World(request.param, tmp_path, s3_url)


async def test_blob_comes_back_whole_and_in_part(world: World) -> None:
    data = os.urandom(20_000_000)  # three parts of a multipart upload
    async with world.serving() as (client, _):
        await client.push_blob("app", data)
        path = f"/v2/app/blobs/{digest(data)}"
        assert await client.bytes_of(path) == data
        assert await client.bytes_of(path, Range="bytes=9000000-9000099") == data[9000000:9000100]
        assert await client.bytes_of(path, Range="bytes=-10") == data[-10:]
        async with client.get(path, headers={"Range": f"bytes={len(data)}-"}) as answer:
            assert answer.status == 416
        async with client.get(path, headers={"If-None-Match": f'"{digest(data)}"'}) as answer:
            assert answer.status == 304


async def test_chunks_and_a_wrong_digest(world: World) -> None:
    data = os.urandom(11_000_000)
    async with world.serving() as (client, storage):
        async with client.post("/v2/app/blobs/uploads/") as answer:
            location = answer.headers["Location"]
        for begin in range(0, len(data), 4_000_000):
            async with client.patch(location, data=data[begin:begin + 4_000_000]) as answer:
                assert answer.status == 202
        async with client.put(location, params={"digest": digest(b"other")}) as answer:
            assert (await answer.json())["errors"][0]["code"] == "DIGEST_INVALID"
        assert await client.status(f"/v2/app/blobs/{digest(data)}") == 404
        async with client.get(location) as answer:
            assert answer.status == 404
        assert await storage.blobs.entries("app") == []


async def test_upload_goes_on_after_a_restart(world: World) -> None:
    data = os.urandom(19_000_000)
    async with world.serving() as (client, _):
        async with client.post("/v2/app/blobs/uploads/") as answer:
            location = answer.headers["Location"]
        async with client.patch(location, data=data[:10_000_000]) as answer:
            assert answer.headers["Range"] == "0-9999999"
    async with world.serving() as (client, _):
        async with client.patch(location, data=data[10_000_000:], headers={
                "Content-Range": f"10000000-{len(data) - 1}"}) as answer:
            assert answer.status == 202
        async with client.put(location, params={"digest": digest(data)}) as answer:
            assert answer.status == 201
        assert await client.bytes_of(f"/v2/app/blobs/{digest(data)}") == data


async def test_other_algorithms_tags_and_referrers(world: World) -> None:
    async with world.serving() as (client, _):
        name = "sha512:" + hashlib.sha512(b"data").hexdigest()
        async with client.post("/v2/app/blobs/uploads/", params={"digest": name}, data=b"data") as answer:
            assert answer.status == 201
        assert await client.bytes_of(f"/v2/app/blobs/{name}") == b"data"
        image = await client.push_image("app/deep", "v1", b"layer")
        subject = {"mediaType": MANIFEST, "digest": digest(image), "size": len(image)}
        signature = await client.push_image("app/deep", "", b"signature", subject=subject, artifactType="test/sig")
        await client.push_image("app/deep", "v2", b"layer")
        assert await client.json_of("/v2/app/deep/tags/list") == {"name": "app/deep", "tags": ["v1", "v2"]}
        found = await client.json_of(f"/v2/app/deep/referrers/{digest(image)}")
        assert [entry["digest"] for entry in found["manifests"]] == [digest(signature)]
        assert (await client.json_of("/v2/_catalog"))["repositories"] == ["app", "app/deep"]
        async with client.delete("/v2/app/deep/manifests/v1") as answer:
            assert answer.status == 202
        async with client.delete(f"/v2/app/deep/manifests/{digest(signature)}") as answer:
            assert answer.status == 202
        assert (await client.json_of("/v2/app/deep/tags/list"))["tags"] == ["v2"]
        assert (await client.json_of(f"/v2/app/deep/referrers/{digest(image)}"))["manifests"] == []


async def test_mount_with_and_without_a_source(world: World) -> None:
    async with world.serving() as (client, _):
        await client.push_blob("one", b"layer")
        for target, query in (("two", {"from": "one"}), ("three", {})):
            async with client.post(f"/v2/{target}/blobs/uploads/",
                                   params={"mount": digest(b"layer"), **query}) as answer:
                assert answer.status == 201
            assert await client.bytes_of(f"/v2/{target}/blobs/{digest(b'layer')}") == b"layer"
        async with client.post("/v2/two/blobs/uploads/",
                               params={"mount": digest(b"none"), "from": "one"}) as answer:
            assert answer.status == 202
        async with client.delete(f"/v2/one/blobs/{digest(b'layer')}") as answer:
            assert answer.status == 202
        assert await client.status(f"/v2/one/blobs/{digest(b'layer')}") == 404
        assert await client.bytes_of(f"/v2/two/blobs/{digest(b'layer')}") == b"layer"


async def test_collection_takes_what_nobody_names_and_frees_its_space(world: World) -> None:
    async with world.serving() as (client, storage):
        await client.push_image("app", "v1", b"kept" * 1000)
        await client.push_blob("app", b"stray" * 1000)
        gone = await client.push_image("app", "v2", b"gone" * 1000)
        async with client.delete(f"/v2/app/manifests/{digest(gone)}") as answer:
            assert answer.status == 202
        assert (await collect(storage, Policy())).blobs == 0  # all of it is young
        report = await collect(storage, AT_ONCE)
        assert (report.blobs, report.size, report.skipped) == (2, 9000, [])
        assert await client.status(f"/v2/app/blobs/{digest(b'stray' * 1000)}") == 404
        assert await client.bytes_of(f"/v2/app/blobs/{digest(b'kept' * 1000)}") == b"kept" * 1000
        await client.push_blob("app", b"stray" * 1000)
        assert await client.bytes_of(f"/v2/app/blobs/{digest(b'stray' * 1000)}") == b"stray" * 1000


async def test_collection_gives_up_uploads(world: World) -> None:
    async with world.serving() as (client, storage):
        async with client.post("/v2/app/blobs/uploads/") as answer:
            location = answer.headers["Location"]
        async with client.patch(location, data=os.urandom(9_000_000)) as answer:
            assert answer.status == 202
        assert (await collect(storage, Policy())).uploads == 0
        assert (await collect(storage, AT_ONCE)).uploads == 1
        async with client.get(location) as answer:
            assert answer.status == 404


async def test_retention_keeps_what_a_kept_index_or_subject_needs(world: World) -> None:
    async with world.serving() as (client, storage):
        child = await client.push_image("app", "", b"child")
        await client.push_manifest("app", "multi", {"schemaVersion": 2, "mediaType": INDEX, "manifests": [
            {"mediaType": MANIFEST, "digest": digest(child), "size": len(child)}]})
        signature = await client.push_image("app", "", b"sig", subject={
            "mediaType": MANIFEST, "digest": digest(child), "size": len(child)})
        lonely = await client.push_image("app", "", b"lonely")
        report = await collect(storage, Policy((Rule("ap*", untagged=-5.0),), -5.0, -5.0))
        assert (report.manifests, report.tags) == (1, 0)
        assert await client.status(f"/v2/app/manifests/{digest(lonely)}") == 404
        for kept in (child, signature):
            assert await client.status(f"/v2/app/manifests/{digest(kept)}") == 200
        assert await client.bytes_of(f"/v2/app/blobs/{digest(b'sig')}") == b"sig"


async def test_manifest_is_not_accepted_while_its_layers_are_collected(world: World) -> None:
    """A push that found its layers there wins the race or loses it cleanly; a manifest without layers is no outcome."""
    async with world.serving() as (client, storage):
        await client.push_image("app", "v0", b"base")
        for number in range(6):
            layers = [b"%d-%d" % (number, part) for part in range(3)]
            blobs = [await client.push_blob("app", layer) for layer in layers]
            document = {"schemaVersion": 2, "mediaType": MANIFEST, "layers": blobs,
                        "config": await client.push_blob("app", b"{}")}

            async def push(tag: str = f"v{number + 1}", document: dict[str, Any] = document) -> int:
                async with client.put(f"/v2/app/manifests/{tag}", data=json.dumps(document).encode(),
                                      headers={"Content-Type": MANIFEST}) as answer:
                    return answer.status

            statuses, _ = await asyncio.gather(push(), collect(storage, AT_ONCE))
            assert statuses in (201, 404)
        assert await check(storage) == []


async def test_quota(world: World) -> None:
    async with world.serving(Settings(quotas=(Quota("team/*", 10_000),))) as (client, _):
        await client.push_blob("team/app", b"x" * 6000)
        async with client.post("/v2/team/other/blobs/uploads/", params={"digest": digest(b"y" * 6000)},
                               data=b"y" * 6000) as answer:
            assert answer.status == 403
            assert (await answer.json())["errors"][0]["code"] == "DENIED"
        await client.push_blob("elsewhere", b"y" * 6000)
        async with client.delete(f"/v2/team/app/blobs/{digest(b'x' * 6000)}") as answer:
            assert answer.status == 202
        await client.push_blob("team/other", b"y" * 6000)


async def test_quota_holds_for_mounts_and_for_many_at_once(world: World) -> None:
    async with world.serving(Settings(quotas=(Quota("team/*", 10_000),))) as (client, _):
        for each in (b"x", b"y"):
            await client.push_blob("elsewhere", each * 6000)

        async def mount(letter: bytes, source: str) -> int:
            query = {"mount": digest(letter * 6000), **({"from": source} if source else {})}
            async with client.post("/v2/team/app/blobs/uploads/", params=query) as answer:
                return int(answer.status)

        async def push(letter: bytes) -> int:
            async with client.post("/v2/team/many/blobs/uploads/", params={"digest": digest(letter * 4000)},
                                   data=letter * 4000) as answer:
                return int(answer.status)

        assert sorted(await asyncio.gather(*map(push, (b"1", b"2", b"3", b"4")))) == [201, 201, 403, 403]
        for letter in (b"1", b"2", b"3", b"4"):
            async with client.delete(f"/v2/team/many/blobs/{digest(letter * 4000)}"):
                pass
        assert await mount(b"x", "") == 202  # of a size that is not known: to be sent
        assert await mount(b"x", "elsewhere") == 201
        assert await mount(b"y", "elsewhere") == 403
        assert await client.status(f"/v2/team/app/blobs/{digest(b'y' * 6000)}") == 404


async def test_two_front_ends_at_once(world: World) -> None:
    """As two workers over one directory, or two servers over one bucket."""
    data = os.urandom(20_000_000)
    async with AsyncExitStack() as stack:
        fronts = [(await stack.enter_async_context(world.serving()))[0] for _ in range(2)]
        async with fronts[0].post("/v2/app/blobs/uploads/") as answer:
            location = answer.headers["Location"]
        for number, begin in enumerate(range(0, len(data), 6_000_000)):
            async with fronts[number % 2].patch(location, data=data[begin:begin + 6_000_000]) as answer:
                assert answer.status == 202
        async with fronts[1].put(location, params={"digest": digest(data)}) as answer:
            assert answer.status == 201
        async with fronts[0].put(location, params={"digest": digest(data)}) as answer:
            assert (await answer.json())["errors"][0]["code"] == "BLOB_UPLOAD_UNKNOWN"
        assert await fronts[0].bytes_of(f"/v2/app/blobs/{digest(data)}") == data
        await fronts[0].push_image("app", "v1", b"layer")
        assert await fronts[1].status("/v2/app/manifests/v1") == 200
        async with fronts[1].delete("/v2/app/manifests/v1") as answer:
            assert answer.status == 202
        assert await fronts[0].status("/v2/app/manifests/v1") == 404
        await asyncio.gather(*(front.push_image("app", f"v{number}", b"shared", os.urandom(100))
                               for number, front in enumerate(fronts * 2)))
        tags = [f"v{number}" for number in range(4)]
        for number in range(2):
            for front in fronts:
                assert (await front.json_of("/v2/app/tags/list"))["tags"] == tags
            tags.append(f"w{number}")
            await fronts[number % 2].push_image("app", tags[-1], b"shared")


async def test_session_has_one_writer_among_processes(tmp_path: Path) -> None:
    """A client whose connection broke goes on through another worker while the first still writes what came."""
    world = World("filesystem", tmp_path, "")
    async with AsyncExitStack() as stack:
        fronts = [(await stack.enter_async_context(world.serving())) for _ in range(2)]
        (one, _), (two, other) = fronts
        async with one.post("/v2/app/blobs/uploads/") as answer:
            location = answer.headers["Location"]
        first, second, go_on = os.urandom(3_000_000), os.urandom(1000), asyncio.Event()

        async def slow() -> AsyncIterator[bytes]:
            yield first
            await go_on.wait()
            yield second

        async def send() -> int:
            async with one._session.patch(location, data=slow()) as answer:
                return answer.status

        async def arrived() -> bool:
            return any(path.stat().st_size for path in tmp_path.rglob("_uploads/*"))

        sending = asyncio.create_task(send())
        await until(arrived)
        upload = await other.blobs.resume_upload("app", location.rpartition("/")[2])
        assert upload is not None
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2), upload.lock:
                pass
        go_on.set()
        assert await asyncio.wait_for(sending, 60) == 202
        async with asyncio.timeout(60), upload.lock:
            assert upload.offset == len(first + second)
        async with two.put(location, params={"digest": digest(first + second)}) as answer:
            assert answer.status == 201


async def test_clients_are_sent_to_the_object_store(tmp_path: Path, s3_url: str) -> None:
    world = World("s3", tmp_path, s3_url)
    async with world.serving(Settings(redirect=True), redirect=True) as (client, _):
        await client.push_blob("app", b"layer")
        path = f"/v2/app/blobs/{digest(b'layer')}"
        async with client.get(path, allow_redirects=False) as answer:
            assert answer.status == 307
            assert answer.headers["Location"].startswith(s3_url)
            assert "X-Amz-Signature=" in answer.headers["Location"]
        assert await client.bytes_of(path) == b"layer"


async def test_damage_is_found_and_a_push_mends_it(tmp_path: Path) -> None:
    storage = FilesystemStorage(str(tmp_path))
    async with registry_over(storage) as client:
        image = await client.push_image("app", "v1", b"layer")
        for path in tmp_path.rglob(digest(b"layer")[7:]):
            os.utime(path, (time.time(), time.time()))
            path.write_bytes(b"wrong")
        assert [str(damage) for damage in await check(storage)] == [f"app: blob {digest(b'layer')} is damaged"]
        assert len(await check(storage, repair=True)) == 2  # and now the manifest misses it
        await client.push_image("app", "v1", b"layer")
        assert await check(storage) == []
        (tmp_path / "repositories/app/_manifests/sha256" / digest(image)[7:]).write_bytes(b"x\n{}")
        found = [str(damage) for damage in await check(storage, repair=True)]
        assert f"app: manifest {digest(image)} is damaged" in found
        assert await check(storage) == []
    storage.close()
