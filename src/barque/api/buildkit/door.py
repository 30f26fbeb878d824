"""``POST /grpc`` and ``POST /session``, the two ways in. What they need is loaded with the first client that comes."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from aiohttp import web

if TYPE_CHECKING:
    from barque.api.buildkit.control import Cache, Control
    from barque.api.buildkit.jobs import Builder


def routes(builder: Builder, cache: Cache, engine_id: str, gateway_ip: Callable[[], str]) -> list[web.RouteDef]:
    """``gateway_ip``: the host's address on the default bridge, for ``--add-host NAME:host-gateway``; "" for none."""
    opened: list[Control] = []

    def control() -> Control:
        if not opened:
            from barque.api.buildkit.control import Control

            opened.append(Control(builder, cache, engine_id, gateway_ip))
        return opened[0]

    async def grpc(request: web.Request) -> web.StreamResponse:
        return await control().accept(request)

    async def session(request: web.Request) -> web.StreamResponse:
        return await control().sessions.accept(request)

    return [web.post("/grpc", grpc), web.post("/session", session)]
