"""Listening sockets, which several processes may share, and an application that serves them."""

from __future__ import annotations

import socket
import ssl
from collections.abc import AsyncIterator, Sequence
from contextlib import ExitStack, asynccontextmanager

from aiohttp import web

#: Connections that the kernel keeps until a process takes them.
_BACKLOG = 1024


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
async def serving_on(app: web.Application, sockets: Sequence[socket.socket],
                     tls: ssl.SSLContext | None = None) -> AsyncIterator[None]:
    """Serve ``app`` on listening sockets inside the context."""
    # Blobs travel as they are: a body with Content-Encoding must keep the bytes that its digest names.
    runner = web.AppRunner(app, access_log=None, auto_decompress=False, read_bufsize=1 << 17)
    await runner.setup()
    try:
        for sock in sockets:
            # asyncio takes as many connections at a time as its backlog is long. One, so that processes which share
            # the socket share its connections too; then the kernel's own queue is made long again.
            await web.SockSite(runner, sock, ssl_context=tls, backlog=1).start()
            sock.listen(_BACKLOG)
        yield
    finally:
        await runner.cleanup()


@asynccontextmanager
async def serving(app: web.Application, host: str, port: int,
                  tls: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    """Serve ``app`` inside the context, which yields the port (``port`` 0: a free one)."""
    sockets = listeners(host, port)
    async with serving_on(app, sockets, tls):
        yield sockets[0].getsockname()[1]
