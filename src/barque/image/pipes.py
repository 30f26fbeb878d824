"""What a client sends, for code that reads a descriptor in a thread."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from typing import TypeVar

from barque.store.threads import to_the_end

T = TypeVar("T")
#: Bytes gathered from the network before the reading thread is woken.
_BATCH = 1 << 20


async def fed(pieces: AsyncIterator[bytes], read: Callable[[int], T]) -> T:
    """Run ``read`` in a thread, with a descriptor (the caller keeps none) from which it reads what ``pieces`` yield.

    Where they end by a failure, that is raised rather than what ``read`` made of the end.
    """
    reading, writing = os.pipe2(os.O_CLOEXEC)
    feeding = asyncio.ensure_future(_feed(pieces, writing))
    working = asyncio.ensure_future(asyncio.to_thread(read, reading))
    try:
        await asyncio.wait([working])
    finally:
        # Either the reader has ended, and a feeder that sleeps in write(2) must be woken; or the caller was cancelled,
        # and the end of the pipe ends the reader.
        early = working.done()
        if early:
            os.close(reading)
        feeding.cancel()
        [outcome] = await asyncio.gather(feeding, return_exceptions=True)
        if not early:
            await asyncio.wait([working])
            os.close(reading)
            working.exception()
    if isinstance(outcome, Exception):
        working.exception()
        raise outcome
    return working.result()


async def _feed(pieces: AsyncIterator[bytes], pipe: int) -> None:
    """Write what comes into the pipe, and close it at the end."""
    def push(data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[os.write(pipe, view):]

    try:
        batch: list[bytes] = []
        size = 0
        async for piece in pieces:
            batch.append(piece)
            size += len(piece)
            if size >= _BATCH:
                await to_the_end(push, b"".join(batch))
                batch, size = [], 0
        await to_the_end(push, b"".join(batch))
    except BrokenPipeError:
        return  # the reader has its own reason
    finally:
        os.close(pipe)
