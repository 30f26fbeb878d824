"""Serve the application on listening sockets."""

from __future__ import annotations

import asyncio
import errno
import logging
import ssl
from collections.abc import Sequence
from typing import Any

from aiohttp import web

from barque.api.hijack import server_factory
from barque.api.listeners import Listener

log = logging.getLogger("barque.api")
_NO_ROOM = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
#: So many connections may wait to be accepted.
BACKLOG = 1024
#: Requests get so long to end at shutdown (seconds); streams are cut.
GRACE = 1.0


class ApiServer:
    def __init__(self, app: web.Application) -> None:
        # No access log, and no signal handlers of aiohttp's: the daemon has its own. A client that goes away cancels
        # its handler; what must not be cut short is shielded where it is done.
        self._runner = web.AppRunner(app, handle_signals=False, access_log=None, handler_cancellation=True,
                                     keepalive_timeout=60.0,
                                     shutdown_timeout=GRACE)
        self._servers: list[asyncio.Server] = []

    async def start(self, listeners: Sequence[Listener], context: ssl.SSLContext | None) -> None:
        await self._runner.setup()
        server = self._runner.server
        assert server is not None
        factory = server_factory(server)
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(_report)
        for listener in listeners:
            # Where no descriptor is left, asyncio goes on trying as often as ``backlog`` says, and sets a timer each
            # time. What the kernel is to hold is said afterwards.
            self._servers.append(await loop.create_server(factory, sock=listener.sock, backlog=1,
                                                          ssl=context if listener.tls else None))
            listener.sock.listen(BACKLOG)

    async def stop_accepting(self) -> None:
        for server in self._servers:
            server.close()

    async def close(self) -> None:
        await self.stop_accepting()
        await self._runner.cleanup()


def _report(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """What asyncio has to say; that a connection cannot be accepted now, which it tries again, is one line."""
    error = context.get("exception")
    if isinstance(error, OSError) and error.errno in _NO_ROOM and "socket" in context:
        log.error("cannot accept connections, they have to wait: %s", error.strerror)
    else:
        loop.default_exception_handler(context)
