"""What a client sends, for code that reads it in a thread."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from queue import SimpleQueue
from typing import TypeVar

from barque.store.threads import uncut

T = TypeVar("T")
#: Bytes that are worth to wake the reading thread. Waking it for less costs a sixth of all time.
_BATCH = 1 << 20


class _Pieces:
    """What was sent, in batches; one waits for the thread at most while the next is gathered."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._gathered: list[bytes] = []
        self._size = 0
        self._batches: SimpleQueue[bytes] = SimpleQueue()
        self._untaken = 0
        self._room = asyncio.Event()
        self._ended = False

    def read(self) -> bytes:
        """The next bytes, b"" at the end. For the thread."""
        if self._ended:
            return b""
        data = self._batches.get()
        self._ended = not data
        self._loop.call_soon_threadsafe(self._taken)
        return data

    def _taken(self) -> None:
        self._untaken -= 1
        self._hand_on()
        self._room.set()

    def _hand_on(self) -> None:
        if self._size >= _BATCH and not self._untaken:
            self._batches.put(b"".join(self._gathered))
            self._untaken += 1
            self._gathered, self._size = [], 0

    async def feed(self, pieces: AsyncIterator[bytes]) -> None:
        async for piece in pieces:
            self._gathered.append(piece)
            self._size += len(piece)
            self._hand_on()
            while self._size >= _BATCH:
                self._room.clear()
                await self._room.wait()

    def end(self) -> None:
        self._batches.put(b"".join(self._gathered))
        self._batches.put(b"")
        self._gathered = []


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
