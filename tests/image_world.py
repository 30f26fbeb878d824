"""Small real images, a store to pull them into, and a registry that can be told to misbehave."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import io
import json
import ssl
import tarfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiohttp import web

from barque.image.client.hosts import HostConfig
from barque.image.client.transport import RetryPolicy, Transport
from barque.image.fetch import Limits, Puller
from barque.image.layers import UnpackSlots
from barque.image.made import MadeImages
from barque.image.names import ImageNames
from barque.image.progress import Progress
from barque.image.push import Pusher
from barque.image.resolve import Images
from barque.store.content import ContentStore
from barque.store.db import Database
from barque.store.gc import GcReport, collect
from barque.store.layout import Layout
from barque.store.leases import Leases
from barque.store.snapshots import Snapshots
from barque.store.workers import SubprocessWorkers

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"


def digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


@dataclass
class SmallImage:
    manifest: bytes
    config: bytes
    layers: list[bytes]

    @property
    def id(self) -> str:
        return digest(self.config)

    @property
    def blobs(self) -> dict[str, bytes]:
        return {digest(data): data for data in (self.config, *self.layers)}


def tar_of(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return buffer.getvalue()


def make_image(*layers: dict[str, bytes], architecture: str = "amd64", created: str = "2024-01-02T03:04:05Z",
               change: Callable[[dict[str, Any]], None] = lambda manifest: None, **config: Any) -> SmallImage:
    """``change`` may spoil the manifest before it is serialised; ``config`` goes into the image's ``config``."""
    tars = [tar_of(files) for files in layers]
    blobs = [gzip.compress(tar, 1, mtime=0) for tar in tars]
    document = json.dumps({
        "created": created, "architecture": architecture, "os": "linux", "config": config,
        "rootfs": {"type": "layers", "diff_ids": [digest(tar) for tar in tars]},
        "history": [{"created": created, "created_by": f"layer {number}"} for number in range(len(tars))],
    }).encode()
    manifest = {"schemaVersion": 2, "mediaType": MANIFEST,
                "config": {"mediaType": CONFIG, "digest": digest(document), "size": len(document)},
                "layers": [{"mediaType": LAYER, "digest": digest(blob), "size": len(blob)} for blob in blobs]}
    change(manifest)
    return SmallImage(json.dumps(manifest).encode(), document, blobs)


def make_index(images: dict[str, SmallImage]) -> bytes:
    return json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": [
        {"mediaType": MANIFEST, "digest": digest(image.manifest), "size": len(image.manifest),
         "platform": {"os": "linux", "architecture": architecture}}
        for architecture, image in images.items()]}).encode()


Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass
class FaultyRegistry:
    """Serves ``manifests`` ("name:selector") and ``blobs``; ``faults`` are asked first and may answer instead.

    ``seen`` has (method, path, Authorization) of each request.
    """

    manifests: dict[str, tuple[str, bytes]] = field(default_factory=dict)
    blobs: dict[str, bytes] = field(default_factory=dict)
    faults: list[Callable[[web.Request], Awaitable[web.StreamResponse | None]]] = field(default_factory=list)
    seen: list[tuple[str, str, str]] = field(default_factory=list)
    port: int = 0

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def add(self, name: str, tag: str, image: SmallImage) -> None:
        for selector in (tag, digest(image.manifest)):
            self.manifests[f"{name}:{selector}"] = (MANIFEST, image.manifest)
        self.blobs.update(image.blobs)

    def count(self, part: str, method: str = "GET") -> int:
        return sum(1 for seen, path, _ in self.seen if seen == method and part in path)

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        self.seen.append((request.method, request.path_qs, request.headers.get("Authorization", "")))
        for fault in self.faults:
            response = await fault(request)
            if response is not None:
                return response
        parts = request.path.removeprefix("/v2/").rsplit("/", 2)
        if len(parts) == 3 and parts[1] == "manifests" and f"{parts[0]}:{parts[2]}" in self.manifests:
            kind, body = self.manifests[f"{parts[0]}:{parts[2]}"]
            return web.Response(body=body, headers={"Content-Type": kind, "Docker-Content-Digest": digest(body)})
        if len(parts) == 3 and parts[1] == "blobs" and parts[2] in self.blobs:
            return blob_response(request, self.blobs[parts[2]])
        if request.path == "/v2/":
            return web.json_response({})
        code = "MANIFEST_UNKNOWN" if "/manifests/" in request.path else "BLOB_UNKNOWN"
        return refusal(404, code, "manifest unknown" if code == "MANIFEST_UNKNOWN" else "blob unknown to registry")


def blob_response(request: web.Request, data: bytes) -> web.Response:
    begin = request.http_range.start or 0
    if not begin:
        return web.Response(body=data)
    headers = {"Content-Range": f"bytes {begin}-{len(data) - 1}/{len(data)}"}
    return web.Response(status=206, body=data[begin:], headers=headers)


def refusal(status: int, code: str, message: str, **headers: str) -> web.Response:
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    return web.json_response({"errors": [{"code": code, "message": message}]}, status=status, headers=names)


@asynccontextmanager
async def served(handler: Handler, tls: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    """Serve every request by ``handler`` on a loopback port."""
    app = web.Application()
    app.router.add_route("*", "/{rest:.*}", handler)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls).start()
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


@asynccontextmanager
async def faulty_registry() -> AsyncIterator[FaultyRegistry]:
    registry = FaultyRegistry()
    async with served(registry._answer) as registry.port:
        yield registry


@dataclass
class World:
    db: Database
    content: ContentStore
    snapshots: Snapshots
    names: ImageNames
    images: Images
    puller: Puller
    pusher: Pusher
    transport: Transport
    leases: Leases
    root: Path
    slots: UnpackSlots
    progress: list[Progress] = field(default_factory=list)

    async def collect(self) -> GcReport:
        return await collect(self.db, self.content, self.snapshots)

    async def assert_empty(self) -> None:
        """No name, no blob, no layer, no directory of a layer, after a collection."""
        await self.collect()
        await self.snapshots.wait_removed()
        assert await self.names.list() == []
        assert await self.content.walk() == []
        assert [path.name for path in (self.root / "snapshots").iterdir()] == ["empty"]

    @property
    def made(self) -> MadeImages:
        return MadeImages(self.content, self.leases, self.names, SubprocessWorkers(), self.slots)

    def lines(self, id: str | None = None) -> list[str]:
        return [line.status for line in self.progress if id is None or line.id == id]


@asynccontextmanager
async def world(root: Path, hosts: HostConfig | None = None, limits: Limits | None = None,
                retry: RetryPolicy | None = None) -> AsyncIterator[World]:
    layout = Layout.open(str(root))
    db = await Database.open(layout.database)
    content = ContentStore(layout, db)
    snapshots = Snapshots(layout, db)
    leases = Leases(db)
    names = ImageNames(db)
    transport = Transport(hosts or HostConfig(), retry or RetryPolicy(attempts=3, pause=0.001, longest=5))
    puller = Puller(content, snapshots, leases, names, SubprocessWorkers(), transport,
                    limits or Limits(attempts=3, pause=0.001))
    slots = UnpackSlots()
    try:
        yield World(db, content, snapshots, names, Images(names, content, snapshots), puller,
                    Pusher(content, names, transport), transport, leases, root, slots)
    finally:
        await transport.close()
        puller.close()
        slots.threads.shutdown()
        await snapshots.settler.wait()
        await asyncio.sleep(0)  # aiohttp closes its transports in the next turn of the loop
        await db.close()
        layout.close()
