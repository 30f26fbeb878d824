"""Registries in this process, over every kind of storage, and an S3 server to keep their images in."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import io
import json
import sys
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp

from barque.registry.app import Settings, make_app
from barque.registry.listen import serving
from barque.registry.storage.base import Storage
from barque.registry.storage.s3.client import S3
from barque.registry.storage.s3.sigv4 import Signer
from barque.registry.storage.s3.storage import S3Storage
from tests.registry_peers import answering, free_port

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar"


def digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def descriptor(data: bytes, media_type: str = LAYER) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": digest(data), "size": len(data)}


class Client:
    """A registry client of few words: each call asserts its own success."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self.get, self.head, self.delete = session.get, session.head, session.delete
        self._session = session

    def _send(self, method: str, path: str, data: bytes | None, options: Any) -> Any:
        return self._session.request(method, path, data=None if data is None else io.BytesIO(data), **options)

    def post(self, path: str, data: bytes | None = None, **options: Any) -> Any:
        return self._send("POST", path, data, options)

    def put(self, path: str, data: bytes | None = None, **options: Any) -> Any:
        return self._send("PUT", path, data, options)

    def patch(self, path: str, data: bytes | None = None, **options: Any) -> Any:
        return self._send("PATCH", path, data, options)

    async def push_blob(self, name: str, data: bytes) -> dict[str, Any]:
        async with self.post(f"/v2/{name}/blobs/uploads/", params={"digest": digest(data)}, data=data) as answer:
            assert answer.status == 201, await answer.text()
        return descriptor(data)

    async def push_manifest(self, name: str, reference: str, document: dict[str, Any]) -> bytes:
        body = json.dumps(document).encode()
        headers = {"Content-Type": document["mediaType"]}
        async with self.put(f"/v2/{name}/manifests/{reference}", data=body, headers=headers) as answer:
            assert answer.status == 201, await answer.text()
        return body

    async def push_image(self, name: str, tag: str, *layers: bytes, **fields: Any) -> bytes:
        """``tag`` empty: pushed by digest alone."""
        for data in (b"{}", *layers):
            await self.push_blob(name, data)
        document = {"schemaVersion": 2, "mediaType": MANIFEST, "config": descriptor(b"{}", CONFIG),
                    "layers": [descriptor(layer) for layer in layers], **fields}
        return await self.push_manifest(name, tag or digest(json.dumps(document).encode()), document)

    async def status(self, path: str) -> int:
        async with self.head(path) as answer:
            return answer.status

    async def bytes_of(self, path: str, **headers: str) -> bytes:
        async with self.get(path, headers=headers) as answer:
            assert answer.status in (200, 206), await answer.text()
            return await answer.read()

    async def json_of(self, path: str) -> Any:
        return json.loads(await self.bytes_of(path))


async def until(holds: Callable[[], Awaitable[bool]], seconds: float = 60) -> None:
    """Wait for what nobody announces."""
    async with asyncio.timeout(seconds):
        while True:
            if await holds():
                return
            await asyncio.sleep(0.01)


@asynccontextmanager
async def registry_over(storage: Storage, settings: Settings | None = None) -> AsyncIterator[Client]:
    async with serving(make_app(storage, settings), "127.0.0.1", 0) as port:
        async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session:
            yield Client(session)


@contextlib.contextmanager
def s3_server() -> Iterator[str]:
    """An S3 server that keeps all in memory; its URL."""
    port = free_port()
    command = [sys.executable, "-W", "ignore", "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with answering(command, port, "/moto-api/data.json"):
        yield f"http://127.0.0.1:{port}"


def s3_storage(url: str, bucket: str, prefix: str = "", *, redirect: bool = False) -> S3Storage:
    request = urllib.request.Request(f"{url}/{bucket}", method="PUT", headers={
        "Authorization": "AWS4-HMAC-SHA256 Credential=key/20240101/us-east-1/s3/aws4_request"})
    urllib.request.urlopen(request).close()
    return S3Storage(S3(url, bucket, Signer("key", "secret", "us-east-1"), prefix), redirect=redirect)
