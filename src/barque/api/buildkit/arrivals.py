"""Things that have a name, come and go, and may be asked for before they are there."""

from __future__ import annotations

import asyncio
from typing import Generic, TypeVar

T = TypeVar("T")

#: A client opens its connections side by side: what one names another one may still be bringing (seconds).
PATIENCE = 15.0


class Arrivals(Generic[T]):
    def __init__(self) -> None:
        self._there: dict[str, T] = {}
        self._arrival = asyncio.Event()

    def __contains__(self, name: str) -> bool:
        return name in self._there

    def put(self, name: str, thing: T) -> None:
        self._there[name] = thing
        self._arrival.set()    # for all who wait now; who comes later waits for the next one
        self._arrival = asyncio.Event()

    def remove(self, name: str) -> None:
        self._there.pop(name, None)

    async def get(self, name: str) -> T:
        """Raises TimeoutError where it does not come."""
        async with asyncio.timeout(PATIENCE):
            while name not in self._there:
                await self._arrival.wait()
        return self._there[name]
