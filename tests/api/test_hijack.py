"""Taking a connection over from aiohttp: each private name of it that api/hijack.py uses, held to its contract."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web

from barque.api import app
from barque.api.hijack import MULTIPLEXED, Hijacked
from barque.api.listeners import open_all
from barque.api.server import ApiServer

UPGRADE = b"Connection: Upgrade\r\nUpgrade: tcp\r\n"
Use = Callable[[Hijacked], Awaitable[None]]
Connect = Callable[[], Awaitable[tuple[asyncio.StreamReader, asyncio.StreamWriter]]]


@asynccontextmanager
async def serving(path: Path, use: Use) -> AsyncIterator[Connect]:
    """A server whose attach route hijacks and runs ``use``; gives what opens a connection to it."""
    async def attach(request: web.Request) -> web.StreamResponse:
        await request.read()
        hijacked = Hijacked(request, MULTIPLEXED, app.headers())
        await use(hijacked)
        return hijacked

    async def plain(request: web.Request) -> web.StreamResponse:
        return web.Response(text=f"plain {await request.text()}")

    address = str(path / "s")
    listeners = open_all((f"unix://{address}",), "docker", {}, tls=False, verify=False, allow_insecure_tcp=False)
    server = ApiServer(app.build([web.post("/containers/{id}/attach", attach), web.post("/plain", plain)]))
    await server.start(listeners, None)
    try:
        yield lambda: asyncio.open_unix_connection(address)
    finally:
        await server.close()
        for listener in listeners:
            listener.close()


async def echo(hijacked: Hijacked) -> None:
    while data := await hijacked.reader.read(65536):
        hijacked.writer.write(data)
        await hijacked.writer.drain()


def request(headers: bytes = UPGRADE, body: bytes = b"", path: bytes = b"/v1.45/containers/x/attach?stream=1") -> bytes:
    return (b"POST " + path + b" HTTP/1.1\r\nHost: d\r\n" + headers
            + b"Content-Length: %d\r\n\r\n" % len(body) + body)


async def head(reader: asyncio.StreamReader) -> bytes:
    return await reader.readuntil(b"\r\n\r\n")


async def test_upgrade_and_half_close(tmp_path: Path) -> None:
    async def after_the_end(hijacked: Hijacked) -> None:
        data = await hijacked.reader.read(-1)
        hijacked.writer.write(data[::-1])

    async with serving(tmp_path, after_the_end) as connect:
        reader, writer = await connect()
        writer.write(request())
        answer = await head(reader)
        assert answer.startswith(b"HTTP/1.1 101 UPGRADED\r\n")
        for line in (b"Connection: Upgrade", b"Upgrade: tcp", b"Content-Type: " + MULTIPLEXED.encode(),
                     b"Api-Version: "):
            assert line in answer
        writer.write(b"abc")
        writer.write_eof()
        assert await reader.read(-1) == b"cba"
        writer.close()


async def test_a_client_without_upgrade_gets_a_plain_answer(tmp_path: Path) -> None:
    async with serving(tmp_path, echo) as connect:
        reader, writer = await connect()
        writer.write(request(headers=b""))
        answer = await head(reader)
        assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
        assert b"Upgrade" not in answer
        assert b"Content-Length" not in answer
        writer.write(b"abc")
        writer.write_eof()
        assert await reader.read(-1) == b"abc"
        writer.close()


@pytest.mark.parametrize("cut", [1, 30, 130, -3, 10_000], ids=str)
async def test_bytes_right_behind_the_request(tmp_path: Path, cut: int) -> None:
    """In one segment, or cut anywhere: in the head, in the body, in the data."""
    async with serving(tmp_path, echo) as connect:
        reader, writer = await connect()
        everything = request(body=b'{"Tty":false}') + b"GET / HTTP/1.1\r\n\r\nearly"
        sock: socket.socket = writer.get_extra_info("socket")
        writer.write(everything[:cut])
        await writer.drain()
        assert sock.fileno() >= 0
        await asyncio.sleep(0)
        writer.write(everything[cut:])
        writer.write_eof()
        await head(reader)
        assert await reader.read(-1) == b"GET / HTTP/1.1\r\n\r\nearly"
        writer.close()


async def test_an_end_of_input_before_the_answer_is_kept(tmp_path: Path) -> None:
    async with serving(tmp_path, echo) as connect:
        reader, writer = await connect()
        writer.write(request() + b"all")
        writer.write_eof()
        await head(reader)
        assert await reader.read(-1) == b"all"
        writer.close()


async def test_much_data_both_ways_with_a_slow_reader(tmp_path: Path) -> None:
    async with serving(tmp_path, echo) as connect:
        reader, writer = await connect()
        writer.write(request())
        await head(reader)
        block = bytes(range(256)) * 4096

        async def send() -> None:
            for _ in range(16):
                writer.write(block)
                await writer.drain()
            writer.write_eof()

        sending = asyncio.create_task(send())
        received = 0
        while data := await reader.read(1 << 20):
            received += len(data)
            await asyncio.sleep(0)
        await sending
        assert received == 16 * len(block)
        writer.close()


async def test_a_reset_ends_the_handler(tmp_path: Path) -> None:
    ended = asyncio.Event()

    async def wait(hijacked: Hijacked) -> None:
        try:
            while True:
                hijacked.writer.write(b"x" * 65536)
                await hijacked.writer.drain()
        finally:
            ended.set()

    async with serving(tmp_path, wait) as connect:
        reader, writer = await connect()
        writer.write(request())
        await head(reader)
        writer.transport.abort()
        async with asyncio.timeout(60):
            await ended.wait()


async def test_the_handlers_last_bytes_arrive(tmp_path: Path) -> None:
    async def flood(hijacked: Hijacked) -> None:
        hijacked.writer.write(b"x" * (4 << 20))

    async with serving(tmp_path, flood) as connect:
        reader, writer = await connect()
        writer.write(request())
        await head(reader)
        assert len(await reader.read(-1)) == 4 << 20
        writer.close()


async def test_ordinary_requests_share_a_connection(tmp_path: Path) -> None:
    """Pipelined, and with bodies that look like hijackable requests."""
    async with serving(tmp_path, echo) as connect:
        reader, writer = await connect()
        writer.write(request(headers=b"", body=b"one", path=b"/plain")
                     + request(headers=b"", body=request(), path=b"/v1.40/plain"))
        first = await head(reader)
        assert first.startswith(b"HTTP/1.1 200 OK")
        assert await reader.readexactly(len("plain one")) == b"plain one"
        await head(reader)
        wanted = b"plain " + request()
        assert await reader.readexactly(len(wanted)) == wanted
        writer.close()


async def test_an_upgrade_that_is_refused_is_an_ordinary_answer(tmp_path: Path) -> None:
    async with serving(tmp_path, echo) as connect:
        reader, writer = await connect()
        writer.write(request(path=b"/v9.99/containers/x/attach"))
        answer = await head(reader)
        assert answer.startswith(b"HTTP/1.1 400 ")
        text = await reader.readuntil(b"}")
        assert b"client version 9.99 is too new. Maximum supported API version is 1.55" in text
        writer.write(request(headers=b"", body=b"two", path=b"/plain"))
        assert (await head(reader)).startswith(b"HTTP/1.1 200 OK")
        writer.close()
