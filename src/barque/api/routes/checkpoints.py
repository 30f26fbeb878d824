"""Checkpoints of containers, which docker has as an experiment."""

from __future__ import annotations

from aiohttp import web

from barque.api import requests
from barque.api.errors import Handler
from barque.engine.containers import checkpoints
from barque.engine.containers.context import Context
from barque.errors import Unsupported

_DISABLED = ("This experimental feature is disabled by default. Start the Docker daemon in experimental mode in order "
             "to enable it.")


def routes(ctx: Context, *, experimental: bool) -> list[web.RouteDef]:
    async def create(request: web.Request) -> web.StreamResponse:
        options = await requests.body(request, checkpoints.CheckpointOptions)
        await checkpoints.create(ctx, request.match_info["id"], options)
        return web.Response(status=201)

    async def names(request: web.Request) -> web.StreamResponse:
        found = checkpoints.names(ctx, request.match_info["id"], request.query.get("dir", ""))
        return requests.json([{"Name": name} for name in found])

    async def remove(request: web.Request) -> web.StreamResponse:
        await checkpoints.remove(ctx, request.match_info["id"], request.match_info["name"],
                                 request.query.get("dir", ""))
        return web.Response(status=204)

    async def refuse(_: web.Request) -> web.StreamResponse:
        raise Unsupported(_DISABLED)

    def if_enabled(handler: Handler) -> Handler:
        return handler if experimental else refuse

    return [web.post("/containers/{id}/checkpoints", if_enabled(create)),
            web.get("/containers/{id}/checkpoints", if_enabled(names)),
            web.delete("/containers/{id}/checkpoints/{name}", if_enabled(remove))]
