"""The registry's HTTP server before clients that are slow, broken or hostile, asked byte by byte."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import ssl
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from barque.registry.app import make_app
from barque.registry.collect import Policy, collect
from barque.registry.http.connection import Patience
from barque.registry.listen import serving
from barque.registry.storage.filesystem import FilesystemStorage
from tests.registry_world import Client, digest, registry_over, until

#: For what has to happen, however busy the machine is.
LONG = 30.0
PING = b"GET /v2/ HTTP/1.1\r\nHost: x\r\n"


def chunked(session: str) -> bytes:
    return f"PATCH {session} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n".encode()


class Raw:
    """One connection, byte by byte."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def send(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()

    async def answer(self) -> tuple[int, bytes]:
        """Status and body of the next answer."""
        async with asyncio.timeout(LONG):
            head = await self._reader.readuntil(b"\r\n\r\n")
            length = next((int(line[15:]) for line in head.split(b"\r\n") if line.startswith(b"Content-Length:")), 0)
            return int(head.split(b" ")[1]), await self._reader.readexactly(length)

    def half_close(self) -> None:
        self._writer.write_eof()

    async def begin(self) -> None:
        """Take the first byte of an answer and leave the rest."""
        async with asyncio.timeout(LONG):
            await self._reader.readexactly(1)

    async def taken(self) -> int:
        """The bytes that come until the server ends the connection."""
        count = 0
        async with asyncio.timeout(LONG):
            with contextlib.suppress(ConnectionError):
                while data := await self._reader.read(1 << 20):
                    count += len(data)
        return count

    async def ended(self) -> bool:
        """Whether the server ends the connection now."""
        async with asyncio.timeout(LONG):
            with contextlib.suppress(ConnectionError):
                return await self._reader.read() == b""
            return True


class Server:
    def __init__(self, root: Path, port: int, client: Client) -> None:
        self.root = root
        self.client = client
        self.port = port

    @contextlib.asynccontextmanager
    async def connection(self) -> AsyncIterator[Raw]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            yield Raw(reader, writer)
        finally:
            writer.transport.abort()

    async def ask(self, data: bytes) -> tuple[int, bytes]:
        async with self.connection() as raw:
            await raw.send(data)
            return await raw.answer()

    async def session(self) -> str:
        async with self.client.post("/v2/app/blobs/uploads/") as answer:
            return str(answer.headers["Location"])

    async def arrived(self, session: str) -> str:
        async with self.client.get(session) as answer:
            return str(answer.headers["Range"])


@contextlib.asynccontextmanager
async def server(root: Path, patience: Patience | None = None) -> AsyncIterator[Server]:
    storage = FilesystemStorage(str(root))
    try:
        async with serving(make_app(storage), "127.0.0.1", 0, patience=patience) as port:
            async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session:
                yield Server(root, port, Client(session))
    finally:
        storage.close()


@pytest.mark.parametrize(("status", "data"), [
    (400, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"),  # TLS: its client waits for an answer
    (400, b"GET  /v2/ HTTP/1.1\r\nHost: x\r\n\r\n"),
    (400, b"GET v2 HTTP/1.1\r\nHost: x\r\n\r\n"),
    (400, b"GET /v2/ HTTP/1.1\r\n\r\n"),
    (400, b"GET /v2/ HTTP/1.1\r\nHost: x\"y\r\n\r\n"),
    (400, PING + b"Host: y\r\n\r\n"),
    (400, PING + b"X: one\nY: two\r\n\r\n"),
    (400, PING + b"X : one\r\n\r\n"),
    (400, PING + b"X: one\r\n two\r\n\r\n"),
    (400, PING + b"X: \x00\r\n\r\n"),
    (400, PING + b"Content-Length: 1\r\nContent-Length: 1\r\n\r\nx"),
    (400, PING + b"Content-Length: +1\r\n\r\nx"),
    (400, PING + b"Content-Length: -1\r\n\r\nx"),
    (400, PING + b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    (400, b"POST /v2/ HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    (501, PING + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n"),
    (505, b"GET /v2/ HTTP/2.0\r\nHost: x\r\n\r\n"),
    (414, b"GET /v2/" + b"a" * 9000 + b" HTTP/1.1\r\nHost: x\r\n\r\n"),
    (431, PING + b"X: " + b"a" * 70_000),
    (431, PING + b"X: y\r\n" * 200 + b"\r\n"),
])
async def test_what_is_no_request_is_told_so_at_once(tmp_path: Path, status: int, data: bytes) -> None:
    async with server(tmp_path) as found, found.connection() as raw:
        await raw.send(data)
        assert (await raw.answer())[0] == status
        assert await raw.ended()


@pytest.mark.parametrize("name", [
    "..", "../..", "%2e%2e", "a/../../b", "a/%2e%2e/b", "a//b", "/a", "a%2f%2e%2e%2fb", "a%00", "a%0d%0aX:y",
    "_uploads", "a/_tags", "a\\..", "%ff", "a" * 300])
async def test_name_that_tricks_with_paths_is_refused_and_leaves_nothing(tmp_path: Path, name: str) -> None:
    async with server(tmp_path / "data") as found:
        for method, path in (("POST", "blobs/uploads/"), ("PUT", "manifests/v1"), ("GET", "tags/list"),
                             ("GET", f"blobs/{digest(b'x')}"), ("GET", "manifests/v1")):
            request = f"{method} /v2/{name}/{path} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n"
            assert (await found.ask(request.encode()))[0] in (400, 404)
        for path in ("manifests/%2e%2e", "manifests/..%2fv1", "blobs/uploads/..", "blobs/uploads/%2e%2e%2f%2e%2e",
                     "blobs/sha256:..%2f..", "referrers/.."):
            request = f"GET /v2/app/{path} HTTP/1.1\r\nHost: x\r\n\r\n"
            assert (await found.ask(request.encode()))[0] in (400, 404)
        assert {path.name for path in tmp_path.rglob("*")} == {"data", "version"}


async def test_requests_that_come_in_one_piece_are_answered_in_order(tmp_path: Path) -> None:
    async with server(tmp_path) as found, found.connection() as raw:
        missing = b"GET /v2/app/tags/list HTTP/1.1\r\nHost: x\r\n\r\n"
        push = f"POST /v2/app/blobs/uploads/?digest={digest(b'four')} HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\n"
        last = PING + b"Connection: close\r\n\r\n"
        await raw.send(PING + b"\r\n" + missing + push.encode() + b"four\r\n" + last + PING)
        assert [(await raw.answer())[0] for _ in range(4)] == [200, 404, 201, 200]
        assert await raw.ended()


async def test_chunks_in_pieces_are_put_together(tmp_path: Path) -> None:
    async with server(tmp_path) as found, found.connection() as raw:
        session = await found.session()
        await raw.send(chunked(session))
        for byte in b"5;name=value\r\nfirst\r\n0B\r\n and second\r\n0\r\nTrailer: x\r\n\r\n":
            await raw.send(bytes([byte]))
        assert (await raw.answer())[0] == 202
        assert await found.arrived(session) == "0-15"
        await raw.send(PING + b"\r\n")
        assert (await raw.answer())[0] == 200


@pytest.mark.parametrize("rest", [b"zz\r\nx", b"-1\r\nx", b"0x1\r\nx", b"1" * 20 + b"\r\n", b"4\r\nfourXY", b"4" * 2000,
                                  b"1\nx", b"0\r\n" + b"T: x\r\n" * 3000])
async def test_malformed_chunk_ends_the_connection_and_keeps_what_came_before(tmp_path: Path, rest: bytes) -> None:
    async with server(tmp_path) as found, found.connection() as raw:
        session = await found.session()
        await raw.send(chunked(session) + b"4\r\ngood\r\n" + rest)
        assert (await raw.answer())[0] in (400, 431)
        assert await raw.ended()
        assert await found.arrived(session) in ("0-3", "0-7")


async def test_body_shorter_than_announced_is_kept_and_no_success(tmp_path: Path) -> None:
    async with server(tmp_path) as found:
        session = await found.session()
        async with found.connection() as raw:
            put = f"PUT {session}?digest={digest(b'short')} HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n"
            await raw.send(put.encode() + b"short")

        async def is_kept() -> bool:
            return await found.arrived(session) == "0-4"

        await until(is_kept, LONG)
        assert await found.client.status(f"/v2/app/blobs/{digest(b'short')}") == 404


async def test_body_that_nobody_reads_does_not_hide_the_answer(tmp_path: Path) -> None:
    async with server(tmp_path) as found, found.connection() as raw:
        await raw.send(b"PUT /v2/App/manifests/v1 HTTP/1.1\r\nHost: x\r\nContent-Length: 8000000\r\n\r\n")
        sending = asyncio.create_task(raw.send(b"x" * 8_000_000))
        status, body = await raw.answer()
        assert (status, b"NAME_INVALID" in body) == (400, True)
        async with asyncio.timeout(LONG):
            await asyncio.gather(sending, return_exceptions=True)
        assert await raw.ended()


async def test_clients_that_dawdle_are_let_go(tmp_path: Path) -> None:
    async with server(tmp_path, Patience(head=0.5, body=0.5)) as found:
        session = await found.session()
        async with found.connection() as head, found.connection() as body:
            await head.send(b"GET /v2/ HT")
            await body.send(f"PATCH {session} HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nhalf".encode())
            assert (await head.answer())[0] == 408
            assert await head.ended()
            assert await body.ended()
        assert await found.arrived(session) == "0-3"


async def test_connection_without_a_request_ends(tmp_path: Path) -> None:
    async with server(tmp_path, Patience(idle=0.3)) as found, found.connection() as raw:
        assert await raw.ended()


async def test_head_that_comes_byte_by_byte_has_an_end(tmp_path: Path) -> None:
    """Each byte in time does not make the whole in time."""
    async with server(tmp_path, Patience(head=0.5)) as found, found.connection() as raw, asyncio.timeout(LONG):
        await raw.send(b"GET /v2/")
        with pytest.raises(ConnectionError):
            while True:
                await raw.send(b"a")
                await asyncio.sleep(0.02)


async def test_deletion_during_a_download_spoils_nothing(tmp_path: Path) -> None:
    data = os.urandom(24 << 20)
    async with server(tmp_path) as found:
        await found.client.push_blob("app", data)
        async with found.client.get(f"/v2/app/blobs/{digest(data)}") as answer:
            begin = await answer.content.readexactly(1000)
            async with found.client.delete(f"/v2/app/blobs/{digest(data)}") as deleted:
                assert deleted.status == 202
            assert begin + await answer.read() == data
        assert await found.client.status(f"/v2/app/blobs/{digest(data)}") == 404


async def test_one_session_is_finished_once(tmp_path: Path) -> None:
    async with server(tmp_path) as found:
        session = await found.session()

        async def finish() -> int:
            async with found.client.put(session, b"data", params={"digest": digest(b"data")}) as answer:
                return int(answer.status)

        assert sorted(await asyncio.gather(finish(), finish(), finish())) == [201, 404, 404]
        assert await found.client.bytes_of(f"/v2/app/blobs/{digest(b'data')}") == b"data"


async def test_clock_that_jumps_takes_no_upload_that_is_under_way(tmp_path: Path) -> None:
    """To a collection with a clock of next year every upload is old; one that somebody sends to now stays."""
    storage = FilesystemStorage(str(tmp_path))
    async with registry_over(storage) as client:
        async with client.post("/v2/app/blobs/uploads/") as answer:
            idle = answer.headers["Location"]
        async with client.post("/v2/app/blobs/uploads/") as answer:
            session = answer.headers["Location"]
        rest = asyncio.Event()

        async def body() -> AsyncIterator[bytes]:
            yield b"first "
            await rest.wait()
            yield b"second"

        async def is_received() -> bool:
            with (next(tmp_path.rglob(session.rpartition("/")[2]))).open("rb") as file:
                try:
                    fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
                except BlockingIOError:
                    return True
            return False

        async def send() -> int:
            async with client._session.put(session, data=body(), params={"digest": digest(b"first second")}) as answer:
                return answer.status

        sending = asyncio.create_task(send())
        async with asyncio.timeout(LONG):
            await until(is_received, LONG)
            for path in tmp_path.rglob("_uploads/*"):
                os.utime(path, (0, 0))
            await collect(storage, Policy())
            rest.set()
            assert await sending == 201
        async with client.get(idle) as answer:
            assert answer.status == 404
    storage.close()


@pytest.fixture
def certificate(tmp_path: Path) -> ssl.SSLContext:
    cert, key = tmp_path / "cert", tmp_path / "key"
    subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", cert,
                    "-days", "2", "-subj", "/CN=localhost"], check=True, capture_output=True)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(cert, key)
    return context


async def test_large_blob_over_tls_with_ranges(tmp_path: Path, certificate: ssl.SSLContext) -> None:
    data = os.urandom(3_000_000)
    storage = FilesystemStorage(str(tmp_path / "data"))
    async with serving(make_app(storage), "127.0.0.1", 0, certificate) as port:
        connector = aiohttp.TCPConnector(ssl=False)
        async with aiohttp.ClientSession(f"https://127.0.0.1:{port}", connector=connector) as session:
            client = Client(session)
            await client.push_blob("app", data)
            path = f"/v2/app/blobs/{digest(data)}"
            assert await client.bytes_of(path) == data
            assert await client.bytes_of(path, Range="bytes=1000-2000000") == data[1000:2_000_001]
            assert await client.bytes_of(path, Range="bytes=-5") == data[-5:]
            etag = f'"{digest(data)}"'
            assert await client.bytes_of(path, **{"Range": "bytes=5-", "If-Range": etag}) == data[5:]
            assert await client.bytes_of(path, **{"Range": "bytes=5-", "If-Range": '"other"'}) == data
            for ignored in ("bytes=0-1,3-4", "lines=1-2"):
                assert await client.bytes_of(path, Range=ignored) == data
            for known in (etag, f'"other", W/{etag}', "*"):
                async with client.get(path, headers={"If-None-Match": known}) as answer:
                    assert (answer.status, answer.headers["ETag"]) == (304, etag)
            for wrong in ("bytes=3000000-", "bytes=5-4", "bytes=-0", "bytes=-", "bytes=x-y"):
                async with client.get(path, headers={"Range": wrong}) as answer:
                    assert (answer.status, answer.headers["Content-Range"]) == (416, "bytes */3000000")
    storage.close()
