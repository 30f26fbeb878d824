"""Every error code of the specification, by a request that earns it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from barque import failpoints
from barque.image.client.endpoints import Registry
from barque.image.client.hosts import HostConfig
from barque.image.client.transport import RetryPolicy, Transport
from barque.registry.app import Settings
from barque.registry.auth import PasswordFile
from barque.registry.errors import STATUS
from barque.registry.limits import RateLimiter
from barque.registry.proxy import CachingStorage, Upstream
from barque.registry.quotas import Quota
from barque.registry.storage.filesystem import FilesystemStorage
from tests.registry_peers import free_port
from tests.registry_world import CONFIG, INDEX, MANIFEST, Client, descriptor, digest, registry_over

ABSENT = digest(b"absent")
TYPE = {"Content-Type": MANIFEST}


def manifest(config: bytes = b"{}", **changed: Any) -> bytes:
    return json.dumps({"schemaVersion": 2, "mediaType": MANIFEST, "config": descriptor(config, CONFIG), "layers": [],
                       **changed}).encode()


#: Code, method, path (SESSION: an upload with five bytes), and what goes with the request.
CASES: list[tuple[str, str, str, dict[str, Any]]] = [
    ("BLOB_UNKNOWN", "GET", f"/v2/app/blobs/{ABSENT}", {}),
    ("BLOB_UNKNOWN", "DELETE", f"/v2/app/blobs/{ABSENT}", {}),
    ("BLOB_UPLOAD_INVALID", "PATCH", "SESSION", {"data": b"x", "headers": {"Content-Range": "some"}}),
    ("BLOB_UPLOAD_UNKNOWN", "PATCH", f"/v2/app/blobs/uploads/{'0' * 32}", {"data": b"x"}),
    ("BLOB_UPLOAD_UNKNOWN", "GET", "/v2/app/blobs/uploads/none", {}),
    ("DIGEST_INVALID", "PUT", f"SESSION?digest={ABSENT}", {"data": b"x"}),
    ("DIGEST_INVALID", "PUT", "SESSION", {"data": b"x"}),
    ("DIGEST_INVALID", "GET", "/v2/app/blobs/sha256:short", {}),
    ("DIGEST_INVALID", "PUT", f"/v2/app/manifests/{ABSENT}", {"data": manifest(), "headers": TYPE}),
    ("DIGEST_INVALID", "GET", "/v2/app/referrers/latest", {}),
    ("MANIFEST_BLOB_UNKNOWN", "PUT", "/v2/app/manifests/v1", {"data": manifest(b"absent"), "headers": TYPE}),
    ("MANIFEST_BLOB_UNKNOWN", "PUT", "/v2/app/manifests/v1", {
        "data": json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": [
            {"mediaType": MANIFEST, "digest": ABSENT, "size": 6}]}), "headers": {"Content-Type": INDEX}}),
    ("MANIFEST_INVALID", "PUT", "/v2/app/manifests/v1", {"data": b"{", "headers": TYPE}),
    ("MANIFEST_UNKNOWN", "GET", "/v2/app/manifests/none", {}),
    ("MANIFEST_UNKNOWN", "DELETE", f"/v2/app/manifests/{ABSENT}", {}),
    ("NAME_INVALID", "GET", "/v2/App/tags/list", {}),
    ("NAME_UNKNOWN", "GET", "/v2/none/tags/list", {}),
    ("SIZE_INVALID", "PATCH", "SESSION", {"data": b"x", "headers": {"Content-Range": "5-9"}}),
    ("RANGE_INVALID", "PATCH", "SESSION", {"data": b"x", "headers": {"Content-Range": "7-7"}}),
    ("PAGINATION_NUMBER_INVALID", "GET", "/v2/app/tags/list?n=many", {}),
    ("TAG_INVALID", "GET", "/v2/app/manifests/-x", {}),
    ("UNSUPPORTED", "POST", "/v2/app/blobs/uploads/?digest-algorithm=md5", {}),
    ("UNSUPPORTED", "PUT", "/v2/_catalog", {}),
]


async def refused(client: Client, code: str, method: str, path: str, **options: Any) -> None:
    async with client._session.request(method, path, **options) as answer:
        (error,) = (await answer.json())["errors"]
        assert (error["code"], bool(error["message"])) == (code, True)
        assert answer.status == STATUS[code] or (code, answer.status) in {("NAME_INVALID", 404), ("UNSUPPORTED", 400)}


@asynccontextmanager
async def registry(root: Path, settings: Settings | None = None) -> AsyncIterator[Client]:
    storage = FilesystemStorage(str(root))
    async with registry_over(storage, settings) as client:
        yield client
    storage.close()


@pytest.mark.parametrize(("code", "method", "path", "options"), CASES)
async def test_code(tmp_path: Path, code: str, method: str, path: str, options: dict[str, Any]) -> None:
    async with registry(tmp_path) as client:
        await client.push_blob("app", b"{}")
        async with client.post("/v2/app/blobs/uploads/") as answer:
            session = answer.headers["Location"]
        async with client.patch(session, data=b"begin") as answer:
            assert answer.status == 202
        await refused(client, code, method, path.replace("SESSION", session), **options)


async def test_codes_of_the_rules(tmp_path: Path) -> None:
    upload = {"params": {"digest": digest(b"data")}, "data": b"data"}
    users = PasswordFile("ann:$2y$04$abcdefghijklmnopqrstuu2r9OfJnfCsdneAXAGHnS4UpFFP8WIrW")
    async with registry(tmp_path / "1", Settings(authenticator=users)) as client:
        await refused(client, "UNAUTHORIZED", "GET", "/v2/")
    async with registry(tmp_path / "2", Settings(quotas=(Quota("*", 3),))) as client:
        await refused(client, "DENIED", "POST", "/v2/app/blobs/uploads/", **upload)
    async with registry(tmp_path / "3", Settings(limiter=RateLimiter(0.001, 0))) as client:
        await refused(client, "TOOMANYREQUESTS", "GET", "/v2/")
    async with registry(tmp_path / "4", Settings(read_only=True)) as client:
        await refused(client, "UNSUPPORTED", "POST", "/v2/app/blobs/uploads/", **upload)


async def test_codes_of_trouble(tmp_path: Path) -> None:
    async with registry(tmp_path / "own") as client:
        failpoints.arm("registry.upload.written=error")
        try:
            await refused(client, "UNKNOWN", "POST", f"/v2/app/blobs/uploads/?digest={digest(b'x')}", data=b"x")
        finally:
            failpoints.arm("")
    transport = Transport(HostConfig(), RetryPolicy(attempts=1))
    cache = CachingStorage(FilesystemStorage(str(tmp_path / "cache")),
                           (Upstream("up", f"127.0.0.1:{free_port()}"),), Registry(transport))
    async with asyncio.timeout(60), registry_over(cache) as client:
        await refused(client, "UNAVAILABLE", "GET", "/v2/up/app/manifests/v1")
    await cache.aclose()


def test_no_code_is_left_out() -> None:
    elsewhere = {"UNAUTHORIZED", "DENIED", "TOOMANYREQUESTS", "UNKNOWN", "UNAVAILABLE"}
    assert {code for code, *_ in CASES} | elsewhere == set(STATUS)
