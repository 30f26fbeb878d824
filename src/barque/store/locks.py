"""One asyncio lock per key, kept only as long as somebody has it or waits for it."""

from __future__ import annotations

import asyncio


class KeyedLocks:
    def __init__(self) -> None:
        self._locks: dict[str, tuple[asyncio.Lock, list[None]]] = {}

    async def acquire(self, key: str) -> None:
        lock, wanted = self._locks.setdefault(key, (asyncio.Lock(), []))
        wanted.append(None)
        try:
            await lock.acquire()
        except BaseException:
            self._forget(key)
            raise

    def held(self, key: str) -> bool:
        """Whether whoever asks now waits."""
        return key in self._locks

    def release(self, key: str) -> None:
        self._locks[key][0].release()
        self._forget(key)

    def _forget(self, key: str) -> None:
        wanted = self._locks[key][1]
        wanted.pop()
        if not wanted:
            del self._locks[key]
