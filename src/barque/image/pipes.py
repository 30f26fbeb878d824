"""What a client sends, for code that reads it in a thread."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from queue import SimpleQueue
from typing import TypeVar

from barque.store.threads import uncut

T = TypeVar("T")
#: Bytes gathered from the network before the reading thread is woken, and how many such batches wait for it at most.
_BATCH = 1 << 20
_AHEAD = 2


class _Pieces:
    """What was sent and is not read yet."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._batches: SimpleQueue[bytes] = SimpleQueue()
        self._room = asyncio.Semaphore(_AHEAD)
        self._ended = False

    def read(self) -> bytes:
        """The next batch, b"" at the end. For the thread."""
        if self._ended:
            return b""
        data = self._batches.get()
        self._ended = not data
        self._loop.call_soon_threadsafe(self._room.release)
        return data

    async def feed(self, pieces: AsyncIterator[bytes]) -> None:
        batch: list[bytes] = []
        size = 0
        async for piece in pieces:
            batch.append(piece)
            size += len(piece)
            if size >= _BATCH:
                await self._room.acquire()
                self._batches.put(b"".join(batch))
                batch, size = [], 0
        if size:
            self._batches.put(b"".join(batch))

    def end(self) -> None:
        self._batches.put(b"")


async def fed(pieces: AsyncIterator[bytes], read: Callable[[Callable[[], bytes]], T]) -> T:
    """Run ``read`` in a thread, with a function that gives it what ``pieces`` yield, and b"" at the end.

    Where they end by a failure, that is raised rather than what ``read`` made of the end.
    """
    sent = _Pieces()
    feeding = asyncio.ensure_future(sent.feed(pieces))
    feeding.add_done_callback(lambda _: sent.end())  # also where it is cancelled before it begins
    working = asyncio.ensure_future(asyncio.to_thread(read, sent.read))
    try:
        await asyncio.wait([working])
    finally:
        # The reader has ended, perhaps before the end; or the caller was cancelled, and the end of the feeding ends it.
        feeding.cancel()
        await uncut(asyncio.wait([feeding, working]))
    failure = None if feeding.cancelled() else feeding.exception()
    if failure is not None:
        working.exception()
        raise failure
    return working.result()
