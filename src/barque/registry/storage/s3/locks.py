"""Locks in an object store without compare-and-swap, for those who use something and those who collect it.

Who uses first writes an intent, then looks for the lock; who collects first writes the lock, then looks for intents. As
the store is strongly consistent, at least one of the two sees the other (Dekker): users then step back and wait,
collectors wait for the intents to go. What is older than :attr:`Locks.TRUSTED` seconds belongs to a process that died:
collectors renew their lock well before, and users are done by then or give up.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from barque.errors import Unavailable
from barque.registry.storage.s3.client import S3

_POLL = 0.2


class Locked(Unavailable):
    text = "{name} is being collected, try again"


class Locks:
    TRUSTED = 120.0

    def __init__(self, s3: S3) -> None:
        self._s3 = s3

    async def _held(self, prefix: str, own: str = "") -> bool:
        """Whether somebody alive has an object there."""
        async for found in self._s3.objects(prefix):
            if found.key != own and self._s3.now() - found.at < self.TRUSTED:
                return True
        return False

    async def wait(self, name: str) -> None:
        """Until nobody collects ``name``. Raises Locked after as long as a lock is trusted."""
        await self._wait_gone(f"locks/{name}/_/", name)

    async def _wait_gone(self, prefix: str, name: str) -> None:
        waited = 0.0
        while await self._held(prefix):
            if waited > self.TRUSTED:
                raise Locked(name=name)
            await asyncio.sleep(_POLL)
            waited += _POLL

    @asynccontextmanager
    async def shared(self, name: str) -> AsyncIterator[None]:
        """For a user: nobody collects ``name`` inside. Raises Locked, or TimeoutError if the inside takes too long."""
        intent = f"intents/{name}/_/{secrets.token_hex(8)}"
        try:
            while True:
                await self._s3.put(intent, b"")
                if not await self._held(f"locks/{name}/_/"):
                    break
                await self._s3.delete(intent)
                await self.wait(name)
            async with asyncio.timeout(self.TRUSTED / 2):
                yield
        finally:
            await self._s3.delete(intent)

    @asynccontextmanager
    async def exclusive(self, name: str) -> AsyncIterator[None]:
        """For a collector: nobody uses ``name`` inside. Raises Locked if another one collects it, or both begin."""
        own = f"locks/{name}/_/{secrets.token_hex(8)}"
        await self._s3.put(own, b"")
        renewing = asyncio.create_task(self._renew(own))
        try:
            if await self._held(f"locks/{name}/_/", own):
                raise Locked(name=name)
            await self._wait_gone(f"intents/{name}/_/", name)
            yield
        finally:
            renewing.cancel()
            await asyncio.gather(renewing, return_exceptions=True)
            await self._s3.delete(own)

    async def _renew(self, own: str) -> None:
        while True:
            await asyncio.sleep(self.TRUSTED / 6)
            await self._s3.put(own, b"")
