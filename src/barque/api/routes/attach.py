"""Attach to a container: the connection becomes its streams."""

from __future__ import annotations

from aiohttp import web

from barque.api import app, relay
from barque.api.hijack import MULTIPLEXED, RAW, Hijacked, keep
from barque.api.requests import flag
from barque.engine.containers import logs
from barque.engine.containers.attach import Attachment
from barque.engine.containers.context import Context
from barque.errors import InvalidArgument


def content_type(*, tty: bool, version: tuple[int, int]) -> str:
    """Frames have a type of their own since 1.42."""
    return MULTIPLEXED if not tty and version >= (1, 42) else RAW


def routes(ctx: Context, *, experimental: bool) -> list[web.RouteDef]:
    async def attach_container(request: web.Request) -> web.StreamResponse:
        keys = relay.parse_detach_keys(request.query.get("detachKeys") or relay.DEFAULT_DETACH_KEYS)
        ref = request.match_info["id"]
        stdout, stderr = flag(request, "stdout"), flag(request, "stderr")
        if flag(request, "logs") and not (stdout or stderr):
            raise InvalidArgument("Bad parameters: you must choose at least one stream")
        live = ctx.registry.find(ref)
        attachment = Attachment(ctx, ref, stdin=flag(request, "stdin"), stdout=stdout, stderr=stderr
                                ) if flag(request, "stream") else None
        hijacked = Hijacked(request, content_type(tty=live.container.config.tty, version=request["api_version"]),
                            app.headers(experimental))
        keep(request, "response", hijacked)
        if flag(request, "logs"):
            async for piece in logs.stream(live, logs.Query(stdout=stdout, stderr=stderr)):
                hijacked.writer.write(piece)
                await hijacked.writer.drain()
        if attachment is not None:
            await _stream(attachment, hijacked, keys)
        return hijacked

    return [web.post("/containers/{id}/attach", attach_container)]


async def _stream(attachment: Attachment, hijacked: Hijacked, keys: bytes) -> None:
    process = await attachment.streams()
    if process is None:
        return
    escape = relay.Escape(keys) if attachment.tty and attachment.stdin else None
    if await relay.relay((hijacked.reader, hijacked.writer), process, stdin=attachment.stdin, escape=escape):
        attachment.detached()
