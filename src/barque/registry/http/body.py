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
    #: Whether threads may ``receive``.
    lends: bool

    async def more(self, into: memoryview | None = None) -> int:
        """Wait for bytes, in ``into`` or at the end of ``arrived``; 0: none will come."""

    def lend(self) -> None:
        """Leave what comes to threads until somebody waits for ``more``."""

    def receive(self, view: memoryview) -> int:
        """In a thread: the number of bytes that come within a moment; 0: none do, which says nothing about later."""

    def write(self, data: bytes) -> None: ...


class Body:
    """``left``: bytes of the body, or of the chunk that is being read."""

    def __init__(self, source: Source, length: int | None, waits_for_consent: bool = False) -> None:
        self._source = source
        self._chunks = _Chunks() if length is None else None
        self._left = length or 0
        self._consent = waits_for_consent
        self._ended = length == 0
        self._broken: ConnectionError | BadRequest | None = None
        self.length = length

    async def fill(self, view: memoryview) -> int:
        """The number of bytes put into ``view``: all that fit, fewer at the end, 0 behind it.

        What arrived before a connection breaks is given first; then ConnectionResetError is raised, or
        :class:`BadRequest` for malformed chunks.
        """
        done = self._take(view)
        while done < len(view) and not self._finished:
            try:
                if self._chunks is None:
                    done += self._took(await self._more(view[done:done + self._left]))
                else:
                    await self._more()
                    done += self._take(view[done:])
            except ConnectionError as error:
                self._broken = error
        if self._broken is not None and not done:
            raise self._broken
        return done

    @property
    def lends(self) -> bool:
        """Whether threads may :meth:`pull`."""
        return self._source.lends

    def lend(self) -> None:
        """Let a thread :meth:`pull` until the next :meth:`fill`."""
        self._source.lend()

    def pull(self, view: memoryview) -> int:
        """In a thread: the number of bytes put into ``view``; 0 if nothing comes within a moment."""
        done = self._take(view)
        while not done and not self._finished:
            if self._chunks is None:
                return self._took(self._source.receive(view[:self._left]))
            if not (count := self._source.receive(view)):
                break
            self._source.arrived += view[:count]
            done = self._take(view)
        return done

    @property
    def _finished(self) -> bool:
        return self._ended or self._broken is not None

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
        if self._chunks is not None:
            if not self._finished and not self._left:
                self._next_chunk()
        elif self._left <= len(arrived):
            del arrived[:self._left]
            self._ended = True
        return self._ended

    def _take(self, view: memoryview) -> int:
        """The number of bytes put into ``view`` of those that arrived."""
        done, arrived = 0, self._source.arrived
        while done < len(view) and arrived and not self._finished:
            if not self._left and not self._next_chunk():
                break
            count = min(len(view) - done, self._left, len(arrived))
            view[done:done + count] = memoryview(arrived)[:count]
            del arrived[:count]
            done += self._took(count)
        return done

    def _took(self, count: int) -> int:
        self._left -= count
        self._ended = self._chunks is None and not self._left
        return count

    def _next_chunk(self) -> bool:
        """Whether all that stands before the next bytes has arrived."""
        assert self._chunks is not None
        try:
            size = self._chunks.next(self._source.arrived)
        except BadRequest as error:
            self._broken = error
            return False
        self._left, self._ended = size or 0, size == 0
        return bool(size)

    async def _more(self, into: memoryview | None = None) -> int:
        if self._consent:
            self._consent = False
            self._source.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        count = await self._source.more(into)
        if not count:
            raise ConnectionResetError("the connection ended within a body")
        return count


class _Chunks:
    """The lines around the bytes of chunks."""

    def __init__(self) -> None:
        self._behind_bytes = self._behind_last = False
        self._trailer = 0

    def next(self, arrived: bytearray) -> int | None:
        """The size of the next chunk, whose lines are taken from what arrived: 0 behind the last one and its trailer,
        ``None`` if more has to arrive. Raises :class:`BadRequest`."""
        while (line := self._line(arrived)) is not None:
            if self._behind_last:
                self._trailer += len(line)
                if self._trailer > _MAX_TRAILER:
                    raise BadRequest("trailer too long", 431)
                if not line:
                    return 0
            elif self._behind_bytes:
                self._behind_bytes = False
            else:
                match = _SIZE.match(line)
                if match is None:
                    raise BadRequest("malformed size of a chunk")
                size = int(match[1], 16)
                self._behind_bytes, self._behind_last = bool(size), not size
                if size:
                    return size
        return None

    def _line(self, arrived: bytearray) -> bytes | None:
        most = 0 if self._behind_bytes else _MAX_LINE
        end = arrived.find(b"\n", 0, most + 2)
        if end < 0 and len(arrived) < most + 2:
            return None
        line = bytes(arrived[:end + 1])
        if not line.endswith(b"\r\n"):
            raise BadRequest("malformed chunk")
        del arrived[:end + 1]
        return line[:-2]
