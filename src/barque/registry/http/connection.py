"""One connection of a client: requests one after the other, each answered before the next one is read.

Bytes of a body go from the socket right into the memory that its reader offers; all else passes through one buffer
that the connections share, so that one that is idle costs next to nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import cast

from barque.registry.http.body import Body
from barque.registry.http.head import MAX_HEAD, BadRequest, Head, parse
from barque.registry.http.messages import FilePart, Request, Response
from barque.registry.http.transfer import receive, send_file

log = logging.getLogger("barque.registry")
App = Callable[[Request], Awaitable[Response]]
#: A client that takes nothing of an answer for so long is gone, in milliseconds.
_STALLED = 120_000
_MAX_ARRIVED = MAX_HEAD + 1
_SHARED = 128 << 10
#: Files that are sent at the same time; the others wait for a turn.
_SENDERS = 8


@dataclass(frozen=True)
class Patience:
    """How many seconds a client may take: from one request to the next, for a whole head, between two bytes of a body;
    and how long the rest of a body that nobody reads is taken from it."""

    idle: float = 120.0
    head: float = 30.0
    body: float = 60.0
    linger: float = 10.0


class Peers:
    """The connections of one application in one process."""

    def __init__(self, app: App, patience: Patience, *, tls: bool = False) -> None:
        self.app = app
        self.patience = patience
        self.tls = tls
        self.open: set[Connection] = set()
        self.closing = False
        self.buffer = memoryview(bytearray(_SHARED))
        self.senders = ThreadPoolExecutor(_SENDERS, thread_name_prefix="sender")
        self._date = (0, "")

    def date(self) -> str:
        """Of now, for the Date field."""
        now = int(time.time())
        if self._date[0] != now:
            self._date = (now, time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(now)))
        return self._date[1]

    async def watch(self) -> None:
        """For ever: end those connections whose time is over."""
        pause = min(self.patience.idle, self.patience.head, self.patience.body) / 6
        while True:
            await asyncio.sleep(pause)
            now = time.monotonic()
            for connection in [each for each in self.open if 0 < each.deadline < now]:
                connection.expire()

    async def close(self, grace: float) -> None:
        """Let the requests that are under way end within ``grace`` seconds."""
        self.closing = True
        for connection in list(self.open):
            connection.close_if_idle()
        tasks = [connection.task for connection in self.open]
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=grace)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)
        self.senders.shutdown()


class Connection(asyncio.BufferedProtocol):
    """``deadline``: on the monotonic clock, when to give the client up; 0 while it is not waited for.

    Meets :class:`barque.registry.http.body.Source`.
    """

    def __init__(self, peers: Peers) -> None:
        self._peers = peers
        self._loop = asyncio.get_running_loop()
        self._into: memoryview | None = None
        self._news: asyncio.Future[int] | None = None
        self._room: asyncio.Future[None] | None = None
        self._ended = self._lost = self._paused = self._asked = False
        self.arrived = bytearray()
        self.lends = not peers.tls
        self.deadline = 0.0
        self.remote = ""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        peer, sock = transport.get_extra_info("peername"), transport.get_extra_info("socket")
        self._fd = sock.fileno()
        if isinstance(peer, tuple):
            self.remote = peer[0]
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _STALLED)
        self._peers.open.add(self)
        self.task = self._loop.create_task(self._serve())

    def get_buffer(self, _hint: int) -> memoryview:
        return self._peers.buffer if self._into is None else self._into

    def buffer_updated(self, count: int) -> None:
        if self._into is None:
            self.arrived += self._peers.buffer[:count]
        if self._news is not None:
            self._tell(count)
        elif len(self.arrived) >= _MAX_ARRIVED:
            self._pause_reading()

    def _pause_reading(self) -> None:
        self._paused = True
        self._transport.pause_reading()  # which may be said again

    def eof_received(self) -> bool:
        self._ended = True
        self._tell(0)
        return not self._peers.tls  # the answer may still be wanted

    def connection_lost(self, _error: Exception | None) -> None:
        self._ended = self._lost = True
        self._tell(0)
        self.resume_writing()
        self._peers.open.discard(self)

    def pause_writing(self) -> None:
        self._room = self._loop.create_future()

    def resume_writing(self) -> None:
        if self._room is not None and not self._room.done():
            self._room.set_result(None)
        self._room = None

    def _tell(self, count: int) -> None:
        self._into = None
        if self._news is not None and not self._news.done():
            self._news.set_result(count)
        self._news = None

    async def more(self, into: memoryview | None = None) -> int:
        return await self._wait(into, time.monotonic() + self._peers.patience.body)

    async def _wait(self, into: memoryview | None, deadline: float) -> int:
        if self._ended:
            return 0
        self._into, self.deadline = into, deadline
        news: asyncio.Future[int] = self._loop.create_future()
        self._news = news
        if self._paused:
            self._paused = False
            self._transport.resume_reading()
        try:
            count = await news
        finally:
            self._into, self._news, self.deadline = None, None, 0.0
        return count

    def lend(self) -> None:
        self._pause_reading()

    def receive(self, view: memoryview) -> int:
        return receive(self._fd, view)

    def write(self, data: bytes) -> None:
        if self._lost or self._transport.is_closing():
            raise ConnectionResetError("the client is gone")
        self._transport.write(data)

    async def _written(self) -> None:
        """Wait until there is room again for what comes next."""
        if self._room is not None:
            await self._room
        if self._lost:
            raise ConnectionResetError("the client is gone")

    def expire(self) -> None:
        if self._asked or not self.arrived:
            self._transport.abort()
            return
        with contextlib.suppress(ConnectionError):
            self.write(Response(408).head(self._peers.date(), keep_alive=False))
        self._transport.close()

    def close_if_idle(self) -> None:
        if not self._asked:
            self._transport.close()

    async def _serve(self) -> None:
        try:
            while not self._peers.closing and await self._exchange():
                pass
        except (ConnectionError, TimeoutError):  # the latter from TCP, for a client that takes nothing
            self._transport.abort()
        except Exception:  # boundary of a connection: a bug in here ends this one alone
            log.exception("connection of %s", self.remote)
            self._transport.abort()
        finally:
            self._transport.close()

    async def _exchange(self) -> bool:
        """One request and its answer; whether a further one may follow."""
        self._asked = False
        try:
            head = await self._head()
        except BadRequest as error:
            text = f"{error}\n".encode()
            answer = Response(error.status, {"Content-Type": "text/plain"}, text)
            self.write(answer.head(self._peers.date(), keep_alive=False) + text)
            await self._linger()
            return False
        if head is None:
            return False
        self._asked = True
        body = Body(self, head.length, head.waits_for_consent)
        request = Request(head, body, self.remote, "https" if self._peers.tls else "http")
        answer = await self._peers.app(request)
        ended = body.skip_arrived()
        keep_alive = ended and head.keep_alive and not self._peers.closing
        await self._send(answer, keep_alive, without_body=head.method == "HEAD")
        if not ended:
            await self._linger()
        return keep_alive

    async def _head(self) -> Head | None:
        """``None`` if the client has nothing more to ask."""
        deadline, arrived = time.monotonic() + self._peers.patience.idle, self.arrived
        while True:
            while arrived.startswith(b"\r\n"):
                del arrived[:2]  # some clients end a body with one that is not announced (RFC 9112, 2.2)
            end = arrived.find(b"\r\n\r\n", 0, MAX_HEAD)
            if end >= 0:
                data = bytes(arrived[:end + 4])
                del arrived[:end + 4]
                return parse(data)
            if arrived and not arrived[:1].isalpha():
                raise BadRequest("malformed request line")  # TLS, most often: its client waits for an answer
            if len(arrived) >= MAX_HEAD:
                raise BadRequest("header too large", 431)
            if arrived:
                deadline = min(deadline, time.monotonic() + self._peers.patience.head)
            if not await self._wait(None, deadline):
                return None

    async def _send(self, answer: Response, keep_alive: bool, without_body: bool) -> None:
        body = answer.body
        head = answer.head(self._peers.date(), keep_alive)
        if without_body or not answer.has_body:
            self.write(head)
        elif isinstance(body, bytes):
            self.write(head + body)
        elif isinstance(body, FilePart):
            with body.file:
                self._transport.set_write_buffer_limits(0)
                self.write(head)
                await self._written()
                self._transport.set_write_buffer_limits()
                await self._send_file(body)
        else:
            async with contextlib.aclosing(body):
                self.write(head)
                left = answer.length
                async for chunk in body:
                    left -= len(chunk)
                    self.write(chunk)
                    await self._written()
            if left:
                raise ConnectionResetError("a body of another length than announced")
        await self._written()

    async def _send_file(self, part: FilePart) -> None:
        size = part.end - part.begin
        if not self._peers.tls:
            # The loop takes no second look at a socket that a transport has; its duplicate is another to it.
            with self._transport.get_extra_info("socket").dup() as sock:
                await send_file(self._peers.senders, sock, part)
        elif size and await self._loop.sendfile(self._transport, part.file, part.begin, size) < size:
            raise ConnectionResetError("the file has become shorter")

    async def _linger(self) -> None:
        """Read and drop what the client still sends: the end of the connection would overtake the answer."""
        if self._transport.can_write_eof():
            with contextlib.suppress(OSError):  # the client has reset the connection
                self._transport.write_eof()
        deadline = time.monotonic() + self._peers.patience.linger
        while await self._wait(None, deadline):
            self.arrived.clear()
