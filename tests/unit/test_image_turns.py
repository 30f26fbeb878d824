"""Turns: so many at once, in order, also when the number changes or who waits gives up."""

from __future__ import annotations

import asyncio

from barque.image.turns import Turns


class Transfers:
    def __init__(self, count: int) -> None:
        self.turns = Turns(count)
        self.running: list[int] = []
        self._ends: dict[int, asyncio.Event] = {}
        self.tasks: dict[int, asyncio.Task[None]] = {}

    async def begin(self, *numbers: int) -> None:
        for number in numbers:
            self._ends[number] = asyncio.Event()
            self.tasks[number] = asyncio.create_task(self._run(number))
        await asyncio.sleep(0)

    async def end(self, number: int) -> None:
        self._ends[number].set()
        await self.tasks[number]
        await asyncio.sleep(0)

    async def _run(self, number: int) -> None:
        async with self.turns:
            self.running.append(number)
            try:
                await self._ends[number].wait()
            finally:
                self.running.remove(number)


async def test_in_order() -> None:
    transfers = Transfers(2)
    await transfers.begin(1, 2, 3, 4)
    assert transfers.running == [1, 2]
    assert transfers.turns.locked()
    await transfers.end(2)
    assert transfers.running == [1, 3]
    for number in (1, 3, 4):
        await transfers.end(number)
    assert not transfers.turns.locked()


async def test_another_number() -> None:
    transfers = Transfers(1)
    await transfers.begin(1, 2, 3, 4)
    transfers.turns.resize(3)
    await asyncio.sleep(0)
    assert transfers.running == [1, 2, 3]
    transfers.turns.resize(1)
    await transfers.end(1)
    await transfers.end(2)
    assert transfers.running == [3]
    await transfers.end(3)
    assert transfers.running == [4]
    await transfers.end(4)


async def test_who_gives_up_takes_no_turn() -> None:
    transfers = Transfers(1)
    await transfers.begin(1, 2, 3)
    transfers.tasks[2].cancel()
    await transfers.end(1)
    assert transfers.running == [3]
    await transfers.begin(4, 5)
    # In the moment in which it is given the turn:
    transfers.tasks[3].add_done_callback(lambda _: transfers.tasks[4].cancel())
    await transfers.end(3)
    await asyncio.wait([transfers.tasks[4]])
    await asyncio.sleep(0)
    assert transfers.running == [5]
    await transfers.end(5)
    assert not transfers.turns.locked()
