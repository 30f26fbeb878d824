"""Containers: start, stop and everything else that changes the state of one."""

from __future__ import annotations

from typing import Any

from aiohttp import web

from barque.api import streams
from barque.api.requests import flag, integer
from barque.engine.containers import attach, remove, rename, restart, start, stop, wait
from barque.engine.containers.context import Context
from barque.errors import InvalidArgument
from barque.oci import go_json

_DONE = 204


def routes(ctx: Context) -> list[web.RouteDef]:
    async def start_container(request: web.Request) -> web.StreamResponse:
        if (await request.read()).strip() not in (b"", b"{}", b"null"):
            raise InvalidArgument("starting container with non-empty request body was deprecated since API v1.22 and "
                                  "removed in v1.24")
        await start.start(ctx, request.match_info["id"], request.query.get("checkpoint", ""),
                          request.query.get("checkpoint-dir", ""))
        return web.Response(status=_DONE)

    async def stop_container(request: web.Request) -> web.StreamResponse:
        await stop.stop(ctx, request.match_info["id"], integer(request, "t"), request.query.get("signal", ""))
        return web.Response(status=_DONE)

    async def restart_container(request: web.Request) -> web.StreamResponse:
        await restart.restart(ctx, request.match_info["id"], integer(request, "t"), request.query.get("signal", ""))
        return web.Response(status=_DONE)

    async def kill_container(request: web.Request) -> web.StreamResponse:
        await stop.kill(ctx, request.match_info["id"], request.query.get("signal", ""))
        return web.Response(status=_DONE)

    async def pause_container(request: web.Request) -> web.StreamResponse:
        await stop.pause(ctx, request.match_info["id"])
        return web.Response(status=_DONE)

    async def unpause_container(request: web.Request) -> web.StreamResponse:
        await stop.unpause(ctx, request.match_info["id"])
        return web.Response(status=_DONE)

    return [web.post("/containers/{id}/start", start_container), web.post("/containers/{id}/stop", stop_container),
            web.post("/containers/{id}/restart", restart_container), web.post("/containers/{id}/kill", kill_container),
            web.post("/containers/{id}/pause", pause_container),
            web.post("/containers/{id}/unpause", unpause_container),
            *_others(ctx)]


def _others(ctx: Context) -> list[web.RouteDef]:
    async def rename_container(request: web.Request) -> web.StreamResponse:
        await rename.rename(ctx, request.match_info["id"], request.query.get("name", ""))
        return web.Response(status=_DONE)

    async def remove_container(request: web.Request) -> web.StreamResponse:
        await remove.remove(ctx, request.match_info["id"], force=flag(request, "force"), volumes=flag(request, "v"),
                            link=flag(request, "link"))
        return web.Response(status=_DONE)

    async def wait_container(request: web.Request) -> web.StreamResponse:
        """The header goes out at once: a client starts the container when it has it."""
        outcome = wait.wait(ctx, request.match_info["id"], request.query.get("condition", ""))
        try:
            response = await streams.begin(request)
            ended = await outcome
        finally:
            outcome.cancel()
        answer: dict[str, Any] = {"StatusCode": ended.exit_code}
        if ended.error:
            answer["Error"] = {"Message": ended.error}
        await response.write(go_json.encode(answer) + b"\n")
        return response

    async def resize_container(request: web.Request) -> web.StreamResponse:
        height, width = size(request)
        await attach.resize(ctx, request.match_info["id"], height, width)
        return web.Response(status=200)

    return [web.post("/containers/{id}/rename", rename_container), web.delete("/containers/{id:.+}", remove_container),
            web.post("/containers/{id}/wait", wait_container), web.post("/containers/{id}/resize", resize_container)]


def size(request: web.Request) -> tuple[int, int]:
    """Height and width of a terminal; raises InvalidArgument."""
    height, width = integer(request, "h"), integer(request, "w")
    if height is None or width is None or not (0 <= height < 65536 and 0 <= width < 65536):
        raise InvalidArgument("invalid resize: height and width must be numbers from 0 to 65535")
    return height, width
