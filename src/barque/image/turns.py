"""How many transfers run at once; the number may change while they run."""

from __future__ import annotations

import asyncio
from collections import deque


class Turns:
    """An asynchronous context manager, entered by ``count`` at once; who comes later waits, in order."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._taken = 0
        self._waiting: deque[asyncio.Future[None]] = deque()

    def locked(self) -> bool:
        """Whether who comes now has to wait."""
        return self._taken >= self._count

    def resize(self, count: int) -> None:
        """From now on ``count`` at once. Those who are more than that are let finish."""
        self._count = count
        self._pass_on()

    async def __aenter__(self) -> None:
        if not self.locked():
            self._taken += 1
            return
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._release()    # it was given the turn in the same moment
            raise

    async def __aexit__(self, *_: object) -> None:
        self._release()

    def _release(self) -> None:
        self._taken -= 1
        self._pass_on()

    def _pass_on(self) -> None:
        while self._waiting and not self.locked():
            turn = self._waiting.popleft()
            if not turn.done():
                self._taken += 1
                turn.set_result(None)
