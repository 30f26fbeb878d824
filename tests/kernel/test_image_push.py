"""Pushing what was pulled, to our registry and to docker's: the same bytes, nothing sent twice, mounts."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from aiohttp import web

from barque.errors import BarqueError
from barque.image.client.errors import NotAuthorized
from barque.image.client.hosts import HostConfig
from barque.image.client.transport import Transport
from barque.image.progress import Progress
from barque.image.push import push_image
from barque.oci.reference import parse
from tests.image_world import MANIFEST, digest, faulty_registry, make_image, refusal, world
from tests.registry_peers import barque_registry, docker_registry, has_docker_registry

IMAGE = make_image({"a": b"x" * 100_000}, {"b": bytes(range(256)) * 2000})
PEERS = {"barque": barque_registry, "docker-registry": docker_registry}


@pytest.fixture(scope="module", params=PEERS)
def address(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    if request.param == "docker-registry" and not has_docker_registry():
        pytest.skip("docker-registry is not installed")
    with PEERS[request.param](tmp_path_factory.mktemp("registry")) as found:
        yield found


@pytest.fixture
def own_address(tmp_path: Path) -> Iterator[str]:
    with barque_registry(tmp_path / "registry") as found:
        yield found


def fetch(address: str, path: str) -> bytes:
    connection = http.client.HTTPConnection(address, timeout=60)
    try:
        connection.request("GET", path, headers={"Accept": MANIFEST})
        return connection.getresponse().read()
    finally:
        connection.close()


async def seed(address: str, name: str, folder: Path, report: list[Progress] | None = None) -> None:
    folder.mkdir(exist_ok=True)
    paths = {}
    for number, (name_of_blob, data) in enumerate(IMAGE.blobs.items()):
        (folder / str(number)).write_bytes(data)
        paths[name_of_blob] = str(folder / str(number))
    transport = Transport(HostConfig())
    try:
        await push_image(transport, parse(f"{address}/{name}"), MANIFEST, IMAGE.manifest, paths,
                         report=report.append if report is not None else lambda _: None)
    finally:
        await transport.close()
        await asyncio.sleep(0)


async def test_helper_needs_no_engine(address: str, tmp_path: Path) -> None:
    told: list[Progress] = []
    await seed(address, "seeded:v1", tmp_path / "blobs", told)
    assert fetch(address, "/v2/seeded/manifests/v1") == IMAGE.manifest
    for name, data in IMAGE.blobs.items():
        assert fetch(address, f"/v2/seeded/blobs/{name}") == data
    assert told[-2].status == f"v1: digest: {digest(IMAGE.manifest)} size: {len(IMAGE.manifest)}"
    assert told[-1].aux == {"Tag": "v1", "Digest": digest(IMAGE.manifest), "Size": len(IMAGE.manifest)}
    assert [line.status for line in told].count("Pushed") == 2


async def test_pulled_image_is_pushed_as_it_came(address: str, tmp_path: Path) -> None:
    await seed(address, "origin:v1", tmp_path / "blobs")
    async with world(tmp_path / "root") as here:
        source, target = parse(f"{address}/origin:v1"), parse(f"{address}/copy:v2")
        pulled = await here.puller.pull(source, None, None, lambda _: None)
        await here.names.put(str(target), pulled.target)
        await here.pusher.push(target, None, here.progress.append)
        assert here.lines()[0] == f"The push refers to repository [{target.name}]"
        assert here.lines().count("Preparing") == 2
        assert here.lines().count("Mounted from origin") == 2
        assert fetch(address, "/v2/copy/manifests/v2") == IMAGE.manifest
        here.progress.clear()
        await here.pusher.push(target, None, here.progress.append)
        assert here.lines().count("Layer already exists") == 2


async def test_what_cannot_be_pushed(tmp_path: Path) -> None:
    async with world(tmp_path) as here:
        for text, message in (("app", "An image does not exist locally with the tag: app"),
                              (f"app@{digest(b'x')}", "cannot push a digest reference")):
            with pytest.raises(BarqueError, match=message):
                await here.pusher.push(parse(text), None, here.progress.append)


async def test_refused_push_is_told(tmp_path: Path) -> None:
    async def refuse(request: web.Request) -> web.StreamResponse:
        return refusal(401, "UNAUTHORIZED", "authentication required")

    async with faulty_registry() as registry:
        registry.faults.append(refuse)
        with pytest.raises(NotAuthorized, match="unauthorized: authentication required"):
            await seed(registry.address, "app:v1", tmp_path / "blobs")


async def test_broken_upload_is_begun_anew(tmp_path: Path) -> None:
    began: list[str] = []
    whole: dict[str, bytes] = {}

    async def uploads(request: web.Request) -> web.StreamResponse | None:
        if request.method == "HEAD":
            return web.Response(status=404)
        if request.method == "POST":
            began.append(request.path)
            return web.Response(status=202, headers={"Location": f"/upload/{len(began)}"})
        if request.path.startswith("/upload/"):
            if request.path == "/upload/1":
                assert request.transport is not None
                request.transport.close()
                return web.Response()
            whole[request.query["digest"]] = await request.read()
            return web.Response(status=201)
        return web.Response(status=201) if request.method == "PUT" else None

    async with faulty_registry() as registry:
        registry.faults.append(uploads)
        await seed(registry.address, "app:v1", tmp_path / "blobs")
        assert whole == IMAGE.blobs
        assert len(began) == 4


async def test_broken_upload_goes_on_where_it_broke(own_address: str, tmp_path: Path) -> None:
    """Through a wire that is cut in the middle of the first big body. docker-registry begins anew: it takes only the
    address that the chunk would have been answered with.
    """
    sent: list[bytes] = []

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        host, port = own_address.split(":")
        inner, outer = await asyncio.open_connection(host, int(port))
        back = asyncio.create_task(_pump(inner, writer))
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(1 << 15):
                sent.append(data)
                outer.write(data)
                await outer.drain()
                if sum(map(len, sent)) > 2_000_000 and not cut.is_set():
                    cut.set()
                    break
        outer.close()
        writer.close()
        back.cancel()

    cut = asyncio.Event()
    server = await asyncio.start_server(relay, "127.0.0.1", 0)
    big = make_image({"big": os.urandom(5_000_000)})
    paths = {}
    for number, (name, data) in enumerate(big.blobs.items()):
        (tmp_path / str(number)).write_bytes(data)
        paths[name] = str(tmp_path / str(number))
    transport = Transport(HostConfig())
    try:
        port = server.sockets[0].getsockname()[1]
        await asyncio.wait_for(push_image(transport, parse(f"127.0.0.1:{port}/cut:v1"), MANIFEST, big.manifest, paths),
                               60)
    finally:
        await transport.close()
        server.close()
    assert cut.is_set()
    for name, data in big.blobs.items():
        assert fetch(own_address, f"/v2/cut/blobs/{name}") == data
    request = b"".join(sent)
    assert b"PATCH /v2/cut/blobs/uploads/" in request and b"Content-Range: " in request
    assert len(request) < 6_500_000, "what had arrived is not sent again"


async def _pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while data := await source.read(1 << 15):
            sink.write(data)
            await sink.drain()
    sink.close()
