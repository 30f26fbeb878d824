"""Unpacking members of an archive while it is still coming in, on the guess that they are layers.

Which layers an archive has, and in which order, may stand at its very end. But the directory of a layer has nothing of
the layers below until it is committed, so that it can be filled at once. What proves to be no layer, or none that is
missing, is thrown away. Nothing depends on a guess: where one fails, the layer is unpacked from its blob once more, and
that says why.
"""

from __future__ import annotations

import asyncio
import os

from barque.errors import BarqueError
from barque.failpoints import hit
from barque.image.layers import Growth, UnpackSlots, unpack_behind
from barque.image.progress import Bar
from barque.image.tasks import stop
from barque.store.snapshots import LayerSlot, Snapshots
from barque.store.tar.messages import UnpackRequest, UnpackResult
from barque.store.threads import uncut
from barque.store.workers import Workers

#: Smaller members are unpacked in no time when their turn comes. Bytes.
_LEAST = 32 << 10
#: Members of one archive that are unpacked early. The others are not lost: they come later.
_MOST = 128


class Guess:
    """A member of ``size`` bytes that is being unpacked, or was. :meth:`grown` is for the thread that writes it."""

    def __init__(self, early: Early, size: int) -> None:
        self.size = size
        self.growth = Growth()
        self.number: int | None = None  # of the snapshot directory, unless that was made or given away
        self.task: asyncio.Task[UnpackResult]
        self._early = early

    def grown(self, available: int) -> None:
        """So many bytes are in the file now."""
        self._early.loop.call_soon_threadsafe(self.growth.advance, available)

    def drop(self) -> None:
        """It is here already. For that thread, too."""
        self._early.loop.call_soon_threadsafe(lambda: self.task.cancel())

    async def fill(self, slot: LayerSlot) -> UnpackResult | None:
        """Let what was unpacked be the slot's content; None where it is not the right one: the slot is empty then."""
        try:
            result = await self.task
        except (BarqueError, OSError):
            result = None
        if result is None or self.number is None or result.diff_id != slot.diff_id:
            await self._early.discard([self])
            return None
        number, self.number = self.number, None
        await slot.take(number)
        return result


class Early:
    """The guesses about one archive. They wait for its sender, so that they take none of the common slots."""

    def __init__(self, snapshots: Snapshots, workers: Workers, slots: UnpackSlots) -> None:
        self.loop = asyncio.get_running_loop()
        self._snapshots = snapshots
        self._workers = workers
        self._slots = slots
        self._turns = asyncio.Semaphore(slots.count)
        self._guesses: list[Guess] = []

    def begin(self, path: str, size: int) -> Guess | None:
        """Unpack the file ``path``, which will have ``size`` bytes, as it grows. For the thread that writes it."""
        if size < _LEAST or len(self._guesses) >= _MOST:
            return None
        source = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        guess = Guess(self, size)
        self._guesses.append(guess)
        self.loop.call_soon_threadsafe(self._start, guess, source)
        return guess

    def _start(self, guess: Guess, source: int) -> None:
        guess.task = asyncio.create_task(self._unpack(guess, source))
        guess.task.add_done_callback(lambda _: os.close(source))

    async def _unpack(self, guess: Guess, source: int) -> UnpackResult:
        async with self._turns:
            guess.number, directory = await self._snapshots.scratch()
            result = await unpack_behind(self._workers, self._slots, source, guess.size, directory, UnpackRequest(),
                                         guess.growth, Bar(lambda _: None, ""))
        hit("load.guessed")
        return result

    async def discard(self, guesses: list[Guess]) -> None:
        """Stop what is being unpacked, and remove what was."""
        await stop([guess.task for guess in guesses])
        numbers = [guess.number for guess in guesses if guess.number is not None]
        for guess in guesses:
            guess.number = None
        await self._snapshots.remove_unrecorded(numbers)

    async def close(self) -> None:
        """Once the thread has ended: throw away what became no layer."""
        await uncut(self.discard(self._guesses))
