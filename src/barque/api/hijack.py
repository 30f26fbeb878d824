"""Take a connection over from aiohttp and use it as a byte stream: attach, exec, and whatever upgrades later.

All that aiohttp does not promise is in this file, against the version that pyproject.toml pins; tests/api holds each
of it to its contract. How docker's clients do it::

    POST /containers/x/attach HTTP/1.1        101 UPGRADED             (with ``Upgrade: tcp``)
    Connection: Upgrade                  ->   Content-Type: application/vnd.docker.raw-stream | .multiplexed-stream
    Upgrade: tcp                              Connection: Upgrade, Upgrade: tcp

    the same without those headers       ->   200 OK, Content-Type as above, no length: what follows is data

Each side may half-close: the client at the end of its input, and it goes on reading. Bytes may arrive right behind the
request, even in the same segment, so the request is cut off the stream before the HTTP parser can take them for
another.
"""

from __future__ import annotations

import asyncio
import fcntl
import http
import logging
import re
import socket
import termios
from collections.abc import Callable
from typing import Any, cast

from aiohttp import web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.web_protocol import RequestHandler
from aiohttp.web_server import Server

log = logging.getLogger("barque.api")

RAW = "application/vnd.docker.raw-stream"
MULTIPLEXED = "application/vnd.docker.multiplexed-stream"
#: Taken from the client ahead of who reads here, twice; then the socket's own buffer fills.
READ_LIMIT = 256 << 10
WRITE_LIMIT = 256 << 10

#: How often, and after how many seconds each, it is looked whether a client has read the head of an answer.
HEAD_LOOKS, HEAD_LOOK_AFTER = 2000, 0.001
#: How long a client over TCP, where that cannot be seen, gets for it (seconds).
HEAD_PAUSE = 0.02

_MAX_HEAD = 64 << 10
_UPGRADE = re.compile(rb"\r\nupgrade:[ \t]*(?:tcp|h2c)[ \t]*\r\n", re.IGNORECASE)
_STREAMING = re.compile(rb"POST (?:/v[0-9.]+)?/(?:containers/[^/ ?]+/attach|exec/[^/ ?]+/start)[? ]")
_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*([0-9]{1,18})[ \t]*\r\n", re.IGNORECASE)
_CHUNKED = re.compile(rb"\r\ntransfer-encoding:", re.IGNORECASE)


class HijackableHandler(RequestHandler):
    """aiohttp's connection, but what follows a request that may be hijacked stays out of its parser."""

    __slots__ = ("_body_left", "_early", "_eof", "_head", "_holding")

    def __init__(self, manager: Any, **kwargs: Any) -> None:
        super().__init__(manager, **kwargs)
        self._head = b""
        self._early: list[bytes] = []
        self._body_left = 0
        self._holding = False
        self._eof = False

    def data_received(self, data: bytes) -> None:
        if self._holding:
            self._hold(data)
        elif self._head or self._idle():
            self._scan(self._head + data)
        else:
            super().data_received(data)

    def _idle(self) -> bool:
        """No request is under way: what comes now is the head of one."""
        return self._current_request is None and not self._messages and self._waiter is not None

    def _scan(self, data: bytes) -> None:
        end = data.find(b"\r\n\r\n")
        if end < 0 and len(data) < _MAX_HEAD:
            self._head = data
            return
        self._head = b""
        head = data[:end + 2] if end >= 0 else b""
        if not head or not (_STREAMING.match(head) or _UPGRADE.search(head)) or _CHUNKED.search(head):
            super().data_received(data)
            return
        lengths = _LENGTH.findall(head)
        size = end + 4 + (int(lengths[0]) if len(lengths) == 1 else 0)
        self._holding = True
        self._body_left = max(0, size - len(data))
        super().data_received(data[:size])
        if len(data) > size:
            self._early.append(data[size:])

    def _hold(self, data: bytes) -> None:
        body, rest = data[:self._body_left], data[self._body_left:]
        self._body_left -= len(body)
        if body:
            super().data_received(body)
        if rest:
            self._early.append(rest)
            if sum(map(len, self._early)) > READ_LIMIT and self.transport is not None:
                cast(asyncio.ReadTransport, self.transport).pause_reading()

    def eof_received(self) -> bool | None:  # type: ignore[override]
        """A client that has no input may end it before the answer: the answer is still to be delivered."""
        if self._holding:
            self._eof = True
            return True
        return super().eof_received()

    async def finish_response(self, request: web.BaseRequest, resp: web.StreamResponse,
                              start_time: float | None) -> tuple[web.StreamResponse, bool]:
        """A request that was not hijacked after all is answered as any other: what came behind it is the next one."""
        if self._holding and not isinstance(resp, TakenOver):
            self._release()
        return await super().finish_response(request, resp, start_time)

    def handle_error(self, request: web.BaseRequest, status: int = 500, exc: BaseException | None = None,
                     message: str | None = None) -> web.StreamResponse:
        """What is no HTTP is the client's mistake: told in the words of Go's server, without a traceback in our log."""
        if isinstance(exc, ConnectionError):
            raise exc  # cut on purpose, or by the client: nothing more can be said
        if status >= 500:
            return super().handle_error(request, status, exc, message)
        log.debug("bad request: %s", message)
        response = web.Response(status=status, text=f"{status} {http.HTTPStatus(status).phrase}")
        response.force_close()
        return response

    def _release(self) -> None:
        self._holding = False
        early, self._early = b"".join(self._early), []
        if self.transport is not None:
            cast(asyncio.ReadTransport, self.transport).resume_reading()
            if early:
                self.data_received(early)
            if self._eof:
                self.keep_alive(False)

    def take_early(self) -> tuple[bytes, bool]:
        """The bytes behind the request, and whether the client has ended its side already."""
        early, self._early = b"".join(self._early), []
        return early, self._eof


def server_factory(server: Server) -> Callable[[], HijackableHandler]:
    """For ``loop.create_server``: connections whose requests can be hijacked."""
    loop = asyncio.get_running_loop()
    return lambda: HijackableHandler(server, loop=loop, **server._kwargs)


class _HijackedProtocol(asyncio.StreamReaderProtocol):
    """The connection after the take-over; tells aiohttp's bookkeeping when it is gone."""

    def __init__(self, reader: asyncio.StreamReader, before: HijackableHandler) -> None:
        super().__init__(reader)
        self._before = before

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._before.connection_lost(exc)


class TakenOver(web.StreamResponse):
    """A connection that is aiohttp's no more. Return it from the handler: aiohttp adds nothing and closes."""

    def __init__(self, request: web.Request) -> None:
        """Raises ConnectionResetError when the client has gone."""
        super().__init__()
        handler = request.protocol
        if request.transport is None or not isinstance(handler, HijackableHandler):
            raise ConnectionResetError("the client has gone")
        self._handler = handler
        self._transport = request.transport

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        return None

    async def write_eof(self, data: bytes = b"") -> None:
        """The end of the handler: nothing is added, the connection closes once all is sent."""
        self._transport.close()
        self._handler.force_close()

    @property
    def prepared(self) -> bool:
        return True


class Upgraded(TakenOver):
    """The connection in the hands of another protocol, after ``101``; it speaks as soon as this is made."""

    def __init__(self, request: web.Request, protocol: asyncio.Protocol, name: str) -> None:
        """``name``: as in ``Upgrade``. Raises ConnectionResetError when the client has gone."""
        super().__init__(request)
        early, _ = self._handler.take_early()
        relay = _UpgradedProtocol(protocol, self._handler)
        self._transport.set_protocol(relay)
        self._transport.write(f"HTTP/1.1 101 UPGRADED\r\nConnection: Upgrade\r\nUpgrade: {name}\r\n\r\n".encode())
        protocol.connection_made(self._transport)
        self.closed = relay.closed
        if early:
            protocol.data_received(early)
        self._transport.resume_reading()


class _UpgradedProtocol(asyncio.Protocol):
    """Passes all on; tells aiohttp's bookkeeping when the connection is gone."""

    def __init__(self, protocol: asyncio.Protocol, before: HijackableHandler) -> None:
        self._before = before
        self._protocol = protocol
        self.data_received = protocol.data_received  # type: ignore[method-assign]
        self.pause_writing = protocol.pause_writing  # type: ignore[method-assign]
        self.resume_writing = protocol.resume_writing  # type: ignore[method-assign]
        self.closed = asyncio.Event()

    def connection_lost(self, exc: Exception | None) -> None:
        self._protocol.connection_lost(exc)
        self._before.connection_lost(exc)
        self.closed.set()


class Hijacked(TakenOver):
    """The connection as ``reader`` and ``writer``."""

    def __init__(self, request: web.Request, content_type: str, headers: dict[str, str]) -> None:
        """Answer ``request`` and take its connection; raises ConnectionResetError when the client has gone."""
        super().__init__(request)
        transport = self._transport
        loop = asyncio.get_running_loop()
        early, eof = self._handler.take_early()
        self.reader = asyncio.StreamReader(READ_LIMIT, loop)
        protocol = _HijackedProtocol(self.reader, self._handler)
        protocol.connection_made(transport)
        transport.set_protocol(protocol)
        transport.set_write_buffer_limits(WRITE_LIMIT)
        self.writer = asyncio.StreamWriter(transport, protocol, self.reader, loop)
        if early:
            self.reader.feed_data(early)
        if eof:
            self.reader.feed_eof()
        transport.resume_reading()
        self._upgraded_head(request, content_type, headers)

    def _upgraded_head(self, request: web.Request, content_type: str, headers: dict[str, str]) -> None:
        lines = [f"{name}: {value}" for name, value in headers.items()]
        if request.headers.get("Upgrade", "").lower() == "tcp":
            status = ["HTTP/1.1 101 UPGRADED", f"Content-Type: {content_type}", "Connection: Upgrade", "Upgrade: tcp"]
        else:
            status = ["HTTP/1.1 200 OK", f"Content-Type: {content_type}"]
        self.writer.write("\r\n".join([*status, *lines, "", ""]).encode("latin-1"))

    async def head_read(self) -> None:
        """Wait until the client has read the head of the answer, but never long.

        docker-py reads the head through a buffer, and loses what comes so soon that it gets in there too.
        """
        sock = self.writer.get_extra_info("socket")
        if sock.family != socket.AF_UNIX:
            await asyncio.sleep(HEAD_PAUSE)
            return
        for _ in range(HEAD_LOOKS):
            if self.writer.is_closing() or not any(fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, bytes(4))):
                return
            await asyncio.sleep(HEAD_LOOK_AFTER)


def keep(request: web.Request, key: str, value: object) -> None:
    """``request[key] = value``, without aiohttp's warning that it would rather see a typed key."""
    request._state[key] = value
