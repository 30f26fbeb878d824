"""Serve the application on listening sockets."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Sequence

from aiohttp import web

from barque.api.hijack import server_factory
from barque.api.listeners import Listener

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
        for listener in listeners:
            self._servers.append(await loop.create_server(factory, sock=listener.sock, backlog=1024,
                                                          ssl=context if listener.tls else None))

    async def stop_accepting(self) -> None:
        for server in self._servers:
            server.close()

    async def close(self) -> None:
        await self.stop_accepting()
        await self._runner.cleanup()
