"""Streams of bytes out of and into confined workers, which have the other end as one of their descriptors.

``fds`` gives the descriptors of the worker in order, where it is told that of the stream.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Sequence

from barque.store.workers import Workers

_CHUNK = 256 << 10
Arranged = Callable[[int], Sequence[int]]


async def read(workers: Workers, kind: str, request: bytes, fds: Arranged,
               check: Callable[[bytes], None]) -> AsyncIterator[bytes]:
    """What the worker writes, in pieces; then its answer is given to ``check``, which raises where it is a failure."""
    ours, theirs = socket.socketpair()
    work = asyncio.create_task(workers.run(kind, request, fds(theirs.fileno())))
    # The end of the stream is the end of the worker, which has a descriptor of its own.
    work.add_done_callback(lambda _: theirs.close())
    reader, writer = await asyncio.open_connection(sock=ours, limit=_CHUNK)
    try:
        while piece := await reader.read(_CHUNK):
            yield piece
        check(await work)
    finally:
        writer.close()
        work.cancel()
        await asyncio.wait([work])


async def feed(workers: Workers, kind: str, request: bytes, fds: Arranged, stream: AsyncIterator[bytes]) -> bytes:
    """Give ``stream`` to the worker; returns its answer, which may come before it has read all."""
    ours, theirs = socket.socketpair()
    with theirs:
        work = asyncio.create_task(workers.run(kind, request, fds(theirs.fileno())))
        passing = asyncio.create_task(_pass_on(stream, ours))
        try:
            await asyncio.wait([work, passing], return_when=asyncio.FIRST_COMPLETED)
            if passing.done():
                passing.result()
            return await work
        finally:
            for task in (work, passing):
                task.cancel()
            await asyncio.wait([work, passing])


async def _pass_on(stream: AsyncIterator[bytes], sink: socket.socket) -> None:
    """A worker that wants no more of it ends this."""
    _, writer = await asyncio.open_connection(sock=sink)
    try:
        async for piece in stream:
            writer.write(piece)
            await writer.drain()
        writer.close()
        await writer.wait_closed()
    except (BrokenPipeError, ConnectionResetError):
        return
    finally:
        # What is not passed on by now never will be: nobody reads any more. A closed transport cannot be aborted.
        if writer.transport.get_write_buffer_size():
            writer.transport.abort()
        writer.close()
