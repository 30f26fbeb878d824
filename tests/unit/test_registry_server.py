"""Our registry beyond what docker's does: referrers, paging of tags, durability of sessions, authorisation."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from barque.registry.app import make_app
from barque.registry.auth import Access, Authenticator, InvalidPasswordFile, PasswordFile, TokenAuthority
from barque.registry.listen import serving
from barque.registry.storage.filesystem import FilesystemStorage, UnknownLayout

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
#: "secret" by bcrypt with the lowest cost.
HTPASSWD = "ann:$2y$04$abcdefghijklmnopqrstuu2r9OfJnfCsdneAXAGHnS4UpFFP8WIrW"


def digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def basic(user: str, password: str) -> dict[str, str]:
    return {"Authorization": aiohttp.encode_basic_auth(user, password)}


@asynccontextmanager
async def client(root: Path, *, authenticator: Authenticator | None = None,
                 read_only: bool = False) -> AsyncIterator[aiohttp.ClientSession]:
    storage = FilesystemStorage(str(root))
    try:
        async with serving(make_app(storage, authenticator=authenticator, read_only=read_only), "127.0.0.1", 0) as port:
            async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session:
                yield session
    finally:
        storage.close()


async def push_blob(session: aiohttp.ClientSession, name: str, data: bytes) -> dict[str, Any]:
    async with session.post(f"/v2/{name}/blobs/uploads/?digest={digest(data)}", data=data) as answer:
        assert answer.status == 201
    return {"mediaType": "application/octet-stream", "digest": digest(data), "size": len(data)}


async def push_manifest(session: aiohttp.ClientSession, reference: str, **fields: Any) -> bytes:
    body = json.dumps({"schemaVersion": 2, "mediaType": MANIFEST, "layers": [], **fields}).encode()
    async with session.put(f"/v2/app/manifests/{reference}", data=body, headers={"Content-Type": MANIFEST}) as answer:
        assert answer.status == 201, await answer.text()
    return body


async def test_referrers_are_listed_and_filtered(tmp_path: Path) -> None:
    async with client(tmp_path) as session:
        config = await push_blob(session, "app", b"{}")
        subject = {"mediaType": MANIFEST, "digest": digest(b"not there yet"), "size": 3}
        one = await push_manifest(session, "one", config=config, subject=subject, artifactType="test/one",
                                  annotations={"who": "me"})
        await push_manifest(session, "two", config=config, subject=subject)
        path = f"/v2/app/referrers/{subject['digest']}"
        index = await (await session.get(path)).json(content_type=None)
        assert {entry["artifactType"] for entry in index["manifests"]} == {"test/one", "application/octet-stream"}
        answer = await session.get(path, params={"artifactType": "test/one"})
        assert answer.headers["OCI-Filters-Applied"] == "artifactType"
        (entry,) = (await answer.json(content_type=None))["manifests"]
        assert entry == {"mediaType": MANIFEST, "digest": digest(one), "size": len(one), "artifactType": "test/one",
                         "annotations": {"who": "me"}}
        assert (await session.delete(f"/v2/app/manifests/{digest(one)}")).status == 202
        index = await (await session.get(path)).json(content_type=None)
        assert [entry["artifactType"] for entry in index["manifests"]] == ["application/octet-stream"]


async def test_subject_is_acknowledged(tmp_path: Path) -> None:
    async with client(tmp_path) as session:
        config = await push_blob(session, "app", b"{}")
        subject = {"mediaType": MANIFEST, "digest": digest(b"x"), "size": 1}
        body = json.dumps({"schemaVersion": 2, "config": config, "layers": [], "subject": subject}).encode()
        answer = await session.put(f"/v2/app/manifests/{digest(body)}?tag=a&tag=b", data=body,
                                   headers={"Content-Type": MANIFEST})
        assert (answer.status, answer.headers["OCI-Subject"]) == (201, subject["digest"])
        assert answer.headers.getall("OCI-Tag") == ["a", "b"]
        assert (await session.get("/v2/app/manifests/b")).headers["Docker-Content-Digest"] == digest(body)


async def test_tags_come_in_pages(tmp_path: Path) -> None:
    async with client(tmp_path) as session:
        config = await push_blob(session, "app", b"{}")
        for tag in ("a", "b", "c"):
            await push_manifest(session, tag, config=config)
        answer = await session.get("/v2/app/tags/list?n=2")
        assert (await answer.json())["tags"] == ["a", "b"]
        assert str(answer.links["next"]["url"]).endswith("/v2/app/tags/list?last=b&n=2")
        answer = await session.get(answer.links["next"]["url"])
        assert (await answer.json())["tags"] == ["c"]
        assert "Link" not in answer.headers
        assert (await session.get("/v2/app/tags/list?n=x")).status == 400


async def test_upload_survives_a_restart(tmp_path: Path) -> None:
    async with client(tmp_path) as session:
        location = (await session.post("/v2/app/blobs/uploads/")).headers["Location"]
        assert (await session.patch(location, data=b"first ")).status == 202
    async with client(tmp_path) as session:
        assert (await session.get(location)).headers["Range"] == "0-5"
        assert (await session.put(f"{location}?digest={digest(b'first second')}", data=b"second")).status == 201
        assert await (await session.get(f"/v2/app/blobs/{digest(b'first second')}")).read() == b"first second"


async def test_broken_transfer_keeps_what_arrived(tmp_path: Path) -> None:
    async with client(tmp_path) as session:
        answer = await session.post("/v2/app/blobs/uploads/")
        location = answer.headers["Location"]
        reader, writer = await asyncio.open_connection(answer.url.host, answer.url.port)
        writer.write(f"PATCH {location} HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n"
                     "Expect: 100-continue\r\n\r\n".encode())
        assert b"100 Continue" in await reader.readuntil(b"\r\n\r\n")
        writer.write(b"half")
        await writer.drain()
        writer.write_eof()
        await reader.read()
        writer.close()
        assert (await session.get(location)).headers["Range"] == "0-3"


async def test_chunk_out_of_order_is_refused_with_the_range_that_is_there(tmp_path: Path) -> None:
    async with client(tmp_path) as session:
        location = (await session.post("/v2/app/blobs/uploads/")).headers["Location"]
        answer = await session.patch(location, data=b"0123456789", headers={"Content-Range": "0-9"})
        assert answer.headers["Range"] == "0-9"
        for begin in (5, 11):
            answer = await session.patch(location, data=b"xx", headers={"Content-Range": f"{begin}-{begin + 1}"})
            assert (answer.status, answer.headers["Range"]) == (416, "0-9")
        answer = await session.patch(location, data=b"xxx", headers={"Content-Range": "10-11"})
        assert (await answer.json())["errors"][0]["code"] == "SIZE_INVALID"


async def test_range_behind_the_end(tmp_path: Path) -> None:
    async with client(tmp_path) as session:
        await push_blob(session, "app", b"four")
        answer = await session.get(f"/v2/app/blobs/{digest(b'four')}", headers={"Range": "bytes=4-"})
        assert answer.status == 416


async def test_other_digest_algorithms(tmp_path: Path) -> None:
    async with client(tmp_path) as session:
        name = "sha512:" + hashlib.sha512(b"data").hexdigest()
        assert (await session.post(f"/v2/app/blobs/uploads/?digest={name}", data=b"data")).status == 201
        assert await (await session.get(f"/v2/app/blobs/{name}")).read() == b"data"
        assert (await session.post("/v2/app/blobs/uploads/?digest-algorithm=md5")).status == 400


async def test_content_is_stored_once_and_dropped_with_its_last_user(tmp_path: Path) -> None:
    async with client(tmp_path) as session:
        for name in ("one", "two"):
            await push_blob(session, name, b"shared")
        (content,) = [path for path in (tmp_path / "blobs").rglob("*") if path.is_file()]
        assert content.stat().st_nlink == 3
        await session.delete(f"/v2/one/blobs/{digest(b'shared')}")
        assert content.exists()
        await session.delete(f"/v2/two/blobs/{digest(b'shared')}")
        assert not content.exists()


async def test_second_push_heals_a_bad_blob(tmp_path: Path) -> None:
    async with client(tmp_path) as session:
        await push_blob(session, "app", b"precious")
        link = next((tmp_path / "repositories/app/_blobs/sha256").iterdir())
        link.write_bytes(b"rotten!!")
        await push_blob(session, "app", b"precious")
        assert link.read_bytes() == b"precious"


async def test_concurrent_pushes_of_one_blob(tmp_path: Path) -> None:
    data = os.urandom(300_000)
    async with client(tmp_path) as session:
        await asyncio.gather(*(push_blob(session, f"repo{n % 3}", data) for n in range(12)))
        assert await (await session.get(f"/v2/repo1/blobs/{digest(data)}")).read() == data


async def test_encoded_body_is_kept_as_it_is(tmp_path: Path) -> None:
    data = b"\x1f\x8b not really gzip"
    async with client(tmp_path) as session:
        answer = await session.post(f"/v2/app/blobs/uploads/?digest={digest(data)}", data=data,
                                    headers={"Content-Encoding": "gzip"})
        assert answer.status == 201


async def test_read_only(tmp_path: Path) -> None:
    async with client(tmp_path, read_only=True) as session:
        answer = await session.post("/v2/app/blobs/uploads/")
        assert answer.status == 405
        assert (await answer.json())["errors"][0]["code"] == "UNSUPPORTED"
        assert (await session.get("/v2/")).status == 200


async def test_unknown_path_is_an_error_of_the_specification(tmp_path: Path) -> None:
    async with client(tmp_path) as session:
        answer = await session.get("/v2/app/nonsense")
        assert (answer.status, (await answer.json())["errors"][0]["code"]) == (404, "NAME_INVALID")


async def test_password_file(tmp_path: Path) -> None:
    async with client(tmp_path, authenticator=PasswordFile(HTPASSWD)) as session:
        answer = await session.get("/v2/")
        assert (answer.status, answer.headers["WWW-Authenticate"]) == (401, 'Basic realm="Registry"')
        assert (await answer.json())["errors"][0]["code"] == "UNAUTHORIZED"
        for _ in range(2):
            assert (await session.get("/v2/", headers=basic("ann", "secret"))).status == 200
        for user, password in (("ann", "wrong"), ("bob", "secret"), ("ann", "")):
            assert (await session.get("/v2/", headers=basic(user, password))).status == 401


@pytest.mark.parametrize("text", ["ann", ":x", "ann:$apr1$x$y", "ann:{SHA}abc", "ann:plain"])
def test_bad_password_file(text: str) -> None:
    with pytest.raises(InvalidPasswordFile):
        PasswordFile(text)


async def test_token_scopes(tmp_path: Path) -> None:
    rights = {"reader": [Access("repository", "app", "pull")], "nobody": []}
    authority = TokenAuthority("http://127.0.0.1/token", "test", rights.get)
    async with client(tmp_path, authenticator=authority) as session:
        answer = await session.post("/v2/app/blobs/uploads/")
        assert answer.headers["WWW-Authenticate"] == \
            'Bearer realm="http://127.0.0.1/token",service="test",scope="repository:app:pull,push"'
        allowed = {"Authorization": "Bearer reader"}
        assert (await session.get("/v2/app/tags/list", headers=allowed)).status == 404
        answer = await session.post("/v2/app/blobs/uploads/", headers=allowed)
        assert 'error="insufficient_scope"' in answer.headers["WWW-Authenticate"]
        answer = await session.get("/v2/", headers={"Authorization": "Bearer forged"})
        assert 'error="invalid_token"' in answer.headers["WWW-Authenticate"]


def test_foreign_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("x")
    with pytest.raises(UnknownLayout):
        FilesystemStorage(str(tmp_path))
