"""What several workers count is shown as one: the first asks the others whenever somebody asks it."""

from __future__ import annotations

import asyncio
import socket

from barque.registry.metrics import Metrics

_LARGEST = 1 << 17
#: A worker that does not answer within so many seconds is left out: it has just died.
_PATIENCE = 2.0


class Siblings:
    """Made before the workers are forked; ``count`` of them, the one who asks included."""

    def __init__(self, count: int) -> None:
        # Datagrams: an answer that comes late cannot be taken for a part of the next one.
        self._pairs = [socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM) for _ in range(count - 1)]
        for pair in self._pairs:
            for end in pair:
                end.setblocking(False)
        self._serial = 0
        self._asking = asyncio.Lock()

    async def answer(self, number: int, metrics: Metrics) -> None:
        """For worker ``number``, from 1: tell what it counted, for ever."""
        loop = asyncio.get_running_loop()
        end = self._pairs[number - 1][1]
        while True:
            serial = await loop.sock_recv(end, 8)
            await loop.sock_sendall(end, serial + metrics.export())

    async def exports(self) -> list[bytes]:
        """For worker 0: what the others counted."""
        async with self._asking:
            self._serial += 1
            asked = await asyncio.gather(*(self._ask(pair[0]) for pair in self._pairs), return_exceptions=True)
        return [answer for answer in asked if isinstance(answer, bytes)]

    async def _ask(self, end: socket.socket) -> bytes:
        loop = asyncio.get_running_loop()
        serial = self._serial.to_bytes(8)
        async with asyncio.timeout(_PATIENCE):
            await loop.sock_sendall(end, serial)
            while True:
                answer = await loop.sock_recv(end, _LARGEST)
                if answer[:8] == serial:
                    return answer[8:]
