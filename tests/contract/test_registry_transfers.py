"""Transfers whose bytes threads move: whatever the pieces, the pauses and the ends of the clients."""

from __future__ import annotations

import os
from contextlib import AsyncExitStack
from pathlib import Path

import aiohttp
import pytest

from barque.registry import listen, uploads
from barque.registry.app import make_app
from barque.registry.http import connection
from barque.registry.listen import serving
from barque.registry.storage.filesystem import FilesystemStorage
from tests.contract.test_registry_http import LONG, Raw, Server, chunked, server
from tests.registry_world import Client, digest, until

DATA = os.urandom(1 << 20) * 24


def head(method: str, path: str, length: int = 0) -> bytes:
    return f"{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n".encode()


async def until_stored(root: Path, session: str, size: int) -> None:
    """But for what does not fill a batch. Asking the registry would wait for the end of the transfer."""
    file = next(root.rglob(session.rpartition("/")[2]))

    async def is_there() -> bool:
        return file.stat().st_size > size - uploads._LEAST

    await until(is_there, LONG)


async def until_gone(port: int) -> None:
    """Nobody is connected to ``port`` any more (proc(5), net/tcp: state 1 is ESTABLISHED)."""
    async def is_so() -> bool:
        rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
        return not any(row[1].endswith(f":{port:04X}") and row[3] == "01" for row in rows)

    await until(is_so, LONG)


async def test_upload_of_told_length_with_pauses(tmp_path: Path) -> None:
    async with server(tmp_path) as found, found.connection() as raw:
        session = await found.session()
        await raw.send(head("PUT", f"{session}?digest={digest(DATA)}", len(DATA)))
        sent = 0
        for size in (1, 40_000, 1, 9_000_000, 33_000):
            await raw.send(DATA[sent:sent + size])
            sent += size
            await until_stored(tmp_path, session, sent)
        await raw.send(DATA[sent:])
        assert (await raw.answer())[0] == 201
        assert await found.client.bytes_of(f"/v2/app/blobs/{digest(DATA)}") == DATA


async def test_upload_in_chunks_of_all_sizes_that_break_anywhere(tmp_path: Path) -> None:
    data, sizes = DATA[:9_000_000], (1, 31, 40_000, 5_000_000, 65_536)
    async with server(tmp_path) as found, found.connection() as raw:
        session = await found.session()
        await raw.send(chunked(session))
        sent = 0
        for size in (*sizes, len(data) - sum(sizes)):
            line = f"{size:X};name=value\r\n".encode()
            await raw.send(line[:2])
            await raw.send(line[2:] + data[sent:sent + size] + b"\r")
            await raw.send(b"\n")
            sent += size
        await until_stored(tmp_path, session, len(data))
        await raw.send(b"0\r\nTrai")
        await raw.send(b"ler: x\r\n\r\n" + head("PUT", f"{session}?digest={digest(data)}"))
        assert [(await raw.answer())[0] for _ in range(2)] == [202, 201]
        assert await found.client.bytes_of(f"/v2/app/blobs/{digest(data)}") == data


@pytest.mark.parametrize("in_chunks", [False, True])
async def test_upload_that_ends_early_keeps_every_byte(tmp_path: Path, in_chunks: bool) -> None:
    half = DATA[:5_000_000]
    async with server(tmp_path) as found:
        session = await found.session()
        async with found.connection() as raw:
            if in_chunks:
                await raw.send(chunked(session) + f"{len(DATA):x}\r\n".encode() + half)
            else:
                await raw.send(head("PATCH", session, len(DATA)) + half)
            raw.half_close()
            await raw.taken()
        assert await found.arrived(session) == f"0-{len(half) - 1}"
        async with found.client.put(session, DATA[len(half):], params={"digest": digest(DATA)}) as answer:
            assert answer.status == 201
        assert await found.client.bytes_of(f"/v2/app/blobs/{digest(DATA)}") == DATA


async def test_malformed_chunk_among_many_keeps_those_before(tmp_path: Path) -> None:
    chunk = f"{1 << 20:x}\r\n".encode() + DATA[:1 << 20] + b"\r\n"
    async with server(tmp_path) as found, found.connection() as raw:
        session = await found.session()
        await raw.send(chunked(session) + chunk * 5 + b"no size\r\n")
        assert (await raw.answer())[0] == 400
        assert await raw.ended()
        assert await found.arrived(session) == f"0-{(5 << 20) - 1}"


async def test_clients_that_do_not_read_delay_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "_SENDERS", 1)
    async with server(tmp_path) as found:
        await found.client.push_blob("app", DATA)
        path = f"/v2/app/blobs/{digest(DATA)}"
        async with found.client.get(path) as one, found.client.get(path) as two:
            begin = await one.content.readexactly(1), await two.content.readexactly(1)
            assert await found.client.bytes_of(path) == DATA
            assert (begin[0] + await one.read(), begin[1] + await two.read()) == (DATA, DATA)


async def open_and_stall(found: Server, raw: Raw) -> None:
    """Ask for more than the buffers of the connection hold, and read nothing but its begin."""
    await raw.send(head("GET", f"/v2/app/blobs/{digest(DATA)}"))
    await raw.begin()


async def test_client_that_takes_nothing_is_let_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "_STALLED", 300)
    async with server(tmp_path) as found:
        await found.client.push_blob("app", DATA)
        await found.client._session.close()
        async with found.connection() as raw:
            await open_and_stall(found, raw)
            await until_gone(found.port)


async def test_blob_that_becomes_shorter_does_not_look_complete(tmp_path: Path) -> None:
    async with server(tmp_path) as found:
        await found.client.push_blob("app", DATA)
        async with found.connection() as raw:
            await open_and_stall(found, raw)
            os.truncate(next(tmp_path.rglob(f"_blobs/sha256/{digest(DATA)[7:]}")), 1000)
            assert await raw.taken() < len(DATA)


async def test_end_waits_for_threads_that_are_at_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Clients that neither read nor send any more, when the time for their requests is over."""
    monkeypatch.setattr(listen, "_GRACE", 0.1)
    storage = FilesystemStorage(str(tmp_path))
    async with AsyncExitStack() as stack:
        async with serving(make_app(storage), "127.0.0.1", 0) as port:
            async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session:
                found = Server(tmp_path, port, Client(session))
                await found.client.push_blob("app", DATA)
                upload = await found.session()
            reader, sender = [await stack.enter_async_context(found.connection()) for _ in range(2)]
            await open_and_stall(found, reader)
            await sender.send(head("PATCH", upload, len(DATA)) + DATA[:1_000_000])
            await until_stored(tmp_path, upload, 1_000_000)
        assert await reader.taken() < len(DATA)
        assert await sender.ended()
    storage.close()
