"""Bytes on their way into a worker."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

from barque.engine import worker_streams

PATIENCE = 60
PIECE = 16 << 10


async def test_what_still_waits_at_the_end_of_the_stream_arrives() -> None:
    """A socket takes so much by itself; the rest is on its way when the stream ends."""
    pieces = int(Path("/proc/sys/net/core/wmem_default").read_text()) // PIECE + 2
    ended = asyncio.Event()

    async def stream() -> AsyncIterator[bytes]:
        for number in range(pieces):
            yield bytes([number % 256]) * PIECE
        ended.set()

    class Reader:
        async def run(self, kind: str, request: bytes, fds: Sequence[int]) -> bytes:
            await ended.wait()
            with os.fdopen(os.dup(fds[0]), "rb") as file:
                return await asyncio.to_thread(file.read)

    async with asyncio.timeout(PATIENCE):
        found = await worker_streams.feed(Reader(), "read", b"", lambda end: [end], stream())
    assert found == b"".join(bytes([number % 256]) * PIECE for number in range(pieces))
