"""Listening sockets, which several processes may share, and an application that serves them."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import ExitStack, asynccontextmanager, suppress
from typing import TYPE_CHECKING, Protocol

from barque.registry.http.connection import Connection, Patience, Peers
from barque.registry.http.messages import Request, Response

if TYPE_CHECKING:
    import ssl

#: Connections that the kernel keeps until a process takes them.
_BACKLOG = 1024
#: Requests that are under way at the end have so many seconds.
_GRACE = 60.0


class App(Protocol):
    async def start(self) -> None: ...
    async def close(self) -> None: ...
    async def __call__(self, request: Request) -> Response: ...


def listeners(host: str, port: int) -> list[socket.socket]:
    """A listening socket for each address of ``host`` (empty: all of the machine). Raises OSError."""
    found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    with ExitStack() as opened:
        sockets: list[socket.socket] = []
        for family, _, _, _, where in dict.fromkeys(found):
            sock = opened.enter_context(socket.socket(family, socket.SOCK_STREAM))
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.bind((where[0], sockets[0].getsockname()[1], *where[2:]) if sockets else where)
            sock.listen(_BACKLOG)
            sock.setblocking(False)
            sockets.append(sock)
        opened.pop_all()
    return sockets


@asynccontextmanager
async def serving_on(app: App, sockets: Sequence[socket.socket], tls: ssl.SSLContext | None = None,
                     patience: Patience | None = None) -> AsyncIterator[None]:
    """Serve ``app`` on listening sockets inside the context."""
    loop = asyncio.get_running_loop()
    peers = Peers(app, patience or Patience(), tls=tls is not None)
    await app.start()
    watching = loop.create_task(peers.watch())
    servers = []
    try:
        for sock in sockets:
            # asyncio takes as many connections at a time as its backlog is long. One, so that processes which share
            # the socket share its connections too; then the kernel's own queue is made long again.
            servers.append(await loop.create_server(lambda: Connection(peers), sock=sock, ssl=tls, backlog=1))
            sock.listen(_BACKLOG)
        yield
    finally:
        for server in servers:
            server.close()
        await peers.close(_GRACE)
        watching.cancel()
        with suppress(asyncio.CancelledError):
            await watching
        await app.close()


@asynccontextmanager
async def serving(app: App, host: str, port: int, tls: ssl.SSLContext | None = None,
                  patience: Patience | None = None) -> AsyncIterator[int]:
    """Serve ``app`` inside the context, which yields the port (``port`` 0: a free one)."""
    sockets = listeners(host, port)
    async with serving_on(app, sockets, tls, patience):
        yield sockets[0].getsockname()[1]
