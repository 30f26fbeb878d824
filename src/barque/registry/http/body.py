"""The body of a request, read into the memory of whoever wants it; chunks (RFC 9112, 7.1) are taken apart."""

from __future__ import annotations

import re
from typing import Protocol

from barque.registry.http.head import BadRequest

_SIZE = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;[\t\x20-\x7e]*)?\Z")
_MAX_LINE = 1024
_MAX_TRAILER = 8 << 10
_STEP = 64 << 10


class TooLarge(Exception):
    """A body of more bytes than its reader takes."""


class Source(Protocol):
    """The connection's end for reading."""

    arrived: bytearray

    async def more(self, into: memoryview | None = None) -> int:
        """Wait for bytes, in ``into`` or at the end of ``arrived``; 0: none will come."""

    def write(self, data: bytes) -> None: ...


class Body:
    """``left``: bytes of the body, or of the chunk that is being read."""

    def __init__(self, source: Source, length: int | None, waits_for_consent: bool = False) -> None:
        self._source = source
        self._chunked = length is None
        self._left = length or 0
        self._consent = waits_for_consent
        self._ended = length == 0
        self._first = True
        self._broken: ConnectionError | BadRequest | None = None
        self.length = length

    async def fill(self, view: memoryview) -> int:
        """The number of bytes put into ``view``: all that fit, fewer at the end, 0 behind it.

        What arrived before a connection breaks is given first; then ConnectionResetError is raised, or
        :class:`BadRequest` for malformed chunks.
        """
        done = 0
        while done < len(view) and not self._ended and self._broken is None:
            try:
                if not self._left:
                    await self._next_chunk()
                    continue
                count = await self._take(view[done:done + self._left])
            except (ConnectionError, BadRequest) as error:
                self._broken = error
                break
            done += count
            self._left -= count
            self._ended = not self._chunked and not self._left
        if self._broken is not None and not done:
            raise self._broken
        return done

    async def read(self, most: int) -> bytes:
        """All of it; raises :class:`TooLarge`."""
        if self.length is not None and self.length > most:
            raise TooLarge
        data = bytearray()
        step = memoryview(bytearray(_STEP if self.length is None else min(self.length, _STEP)))
        while count := await self.fill(step):
            data += step[:count]
            if len(data) > most:
                raise TooLarge
        return bytes(data)

    def skip_arrived(self) -> bool:
        """Drop what is left of the body if it is here already; whether a further request may follow."""
        arrived = self._source.arrived
        if self._chunked and self._first and arrived.startswith(b"0\r\n\r\n"):
            del arrived[:5]
            self._ended = True
        elif not self._chunked and self._left <= len(arrived):
            del arrived[:self._left]
            self._ended = True
        return self._ended

    async def _take(self, view: memoryview) -> int:
        arrived = self._source.arrived
        if not arrived:
            count = await self._more(view if not self._chunked else None)
            if not self._chunked:
                return count
        count = min(len(view), len(arrived))
        view[:count] = memoryview(arrived)[:count]
        del arrived[:count]
        return count

    async def _more(self, into: memoryview | None = None) -> int:
        if self._consent:
            self._consent = False
            self._source.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        count = await self._source.more(into)
        if not count:
            raise ConnectionResetError("the connection ended within a body")
        return count

    async def _next_chunk(self) -> None:
        if not self._first and await self._line(0):
            raise BadRequest("malformed end of a chunk")
        self._first = False
        match = _SIZE.match(await self._line(_MAX_LINE))
        if match is None:
            raise BadRequest("malformed size of a chunk")
        self._left = int(match[1], 16)
        if self._left:
            return
        trailer = 0
        while line := await self._line(_MAX_LINE):
            trailer += len(line)
            if trailer > _MAX_TRAILER:
                raise BadRequest("trailer too long", 431)
        self._ended = True

    async def _line(self, most: int) -> bytes:
        arrived = self._source.arrived
        while (end := arrived.find(b"\n", 0, most + 2)) < 0:
            if len(arrived) >= most + 2:
                raise BadRequest("malformed chunk")
            await self._more()
        line = bytes(arrived[:end])
        del arrived[:end + 1]
        if not line.endswith(b"\r"):
            raise BadRequest("malformed chunk")
        return line[:-1]
