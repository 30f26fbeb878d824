"""What a build tells those who watch it: BuildKit's vertices, made of the builder's events."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager

from barque.api.buildkit.messages import StatusResponse, Timestamp, Vertex, VertexLog, VertexStatus
from barque.errors import BarqueError

#: Of one vertex, in bytes: what is kept for watchers is held in memory.
LOG_LIMIT = 2 << 20


class Board:
    """The statuses of one build, from its beginning, for any number of watchers."""

    def __init__(self, ref: str) -> None:
        self._ref = ref
        self._said: list[StatusResponse] = []
        self._more = asyncio.Event()
        self._ended = False
        self._sizes: dict[str, int] = {}
        self._count = 0

    def say(self, response: StatusResponse) -> None:
        self._said.append(response)
        self._more.set()

    def end(self) -> None:
        self._ended = True
        self._more.set()

    async def watch(self) -> AsyncIterator[StatusResponse]:
        """Ends with the build."""
        at = 0
        while True:
            while at < len(self._said):
                yield self._said[at]
                at += 1
            if self._ended:
                return
            self._more.clear()
            await self._more.wait()

    def begin(self, name: str, started: int | None = None) -> Line:
        """A new vertex; times are nanoseconds since 1970."""
        self._count += 1
        digest = "sha256:" + hashlib.sha256(f"{self._ref} {self._count}".encode()).hexdigest()
        line = Line(self, digest, name, started or time.time_ns())
        line.show()
        return line

    @contextmanager
    def step(self, name: str) -> Iterator[Line]:
        """A vertex for the time of the block; ended by its failure, too."""
        line = self.begin(name)
        try:
            yield line
        except BarqueError as error:
            line.end(error=error.message)
            raise
        except asyncio.CancelledError:
            line.end(error="context canceled")
            raise
        line.end()

    def room(self, vertex: str, size: int) -> int:
        """How many bytes more of ``size`` the log of ``vertex`` takes; -1 once it was clipped."""
        taken = self._sizes.get(vertex, 0)
        if taken > LOG_LIMIT:
            return -1
        self._sizes[vertex] = taken + size
        return min(size, LOG_LIMIT - taken)


class Line:
    """One vertex."""

    def __init__(self, board: Board, digest: str, name: str, started: int) -> None:
        self._board = board
        self._vertex = Vertex(digest=digest, name=name, started=Timestamp.at(started))
        self._begun: dict[str, int] = {}

    def show(self) -> None:
        self._board.say(StatusResponse(vertexes=[self._vertex]))

    def end(self, moment: int | None = None, *, cached: bool = False, error: str = "") -> None:
        before = self._vertex
        self._vertex = Vertex(digest=before.digest, name=before.name, cached=cached, started=before.started,
                              completed=Timestamp.at(moment or time.time_ns()), error=error)
        self.show()

    def log(self, stream: int, text: str) -> None:
        data = text.encode("utf-8", "surrogateescape")
        room = self._board.room(self._vertex.digest, len(data))
        if room < 0:
            return
        clipped = room < len(data)
        data = data[:room] + (f"\n[output clipped, log limit {LOG_LIMIT >> 20}MiB reached]\n".encode() if clipped
                              else b"")
        self._board.say(StatusResponse(logs=[
            VertexLog(self._vertex.digest, Timestamp.at(time.time_ns()), stream, data)]))

    def status(self, id: str, current: int = 0, total: int = 0, *, done: bool = False) -> None:
        """Something under way in the vertex, named by ``id``; ``current`` and ``total`` are bytes."""
        now = time.time_ns()
        started = self._begun.setdefault(id, now)
        self._board.say(StatusResponse(statuses=[VertexStatus(
            id, self._vertex.digest, "", current, total, Timestamp.at(now), Timestamp.at(started),
            Timestamp.at(now) if done else None)]))
