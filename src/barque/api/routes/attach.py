"""Attach to a container: the connection becomes its streams."""

from __future__ import annotations

import asyncio

from aiohttp import WSMsgType, web

from barque.api import app, relay
from barque.api.hijack import MULTIPLEXED, RAW, Hijacked, keep
from barque.api.requests import flag
from barque.engine.containers import logs
from barque.engine.containers.attach import Attachment, check
from barque.engine.containers.context import Context
from barque.errors import InvalidArgument


def content_type(*, tty: bool, version: tuple[int, int]) -> str:
    """Frames have a type of their own since 1.42."""
    return MULTIPLEXED if not tty and version >= (1, 42) else RAW


def frame_kind(version: tuple[int, int]) -> WSMsgType:
    """Output on a web socket claimed to be text before 1.28, whatever it was."""
    return WSMsgType.BINARY if version >= (1, 28) else WSMsgType.TEXT


def routes(ctx: Context, *, experimental: bool) -> list[web.RouteDef]:
    async def attach_container(request: web.Request) -> web.StreamResponse:
        keys = relay.parse_detach_keys(request.query.get("detachKeys") or relay.DEFAULT_DETACH_KEYS)
        stdout, stderr = flag(request, "stdout"), flag(request, "stderr")
        if flag(request, "logs") and not (stdout or stderr):
            raise InvalidArgument("Bad parameters: you must choose at least one stream")
        live = ctx.registry.find(request.match_info["id"])
        check(live)
        hijacked = Hijacked(request, content_type(tty=live.container.config.tty, version=request["api_version"]),
                            app.headers(experimental))
        keep(request, "response", hijacked)
        # Nothing is awaited in between: the client cannot have started the container yet.
        attachment = Attachment(ctx, live, stdin=flag(request, "stdin"), stdout=stdout, stderr=stderr
                                ) if flag(request, "stream") else None
        try:
            if flag(request, "logs"):
                await hijacked.head_read()
                async for piece in logs.stream(live, logs.Query(stdout=stdout, stderr=stderr)):
                    hijacked.writer.write(piece)
                    await hijacked.writer.drain()
            if attachment is not None:
                await _stream(attachment, hijacked, keys)
        finally:
            if attachment is not None:
                attachment.close()
        return hijacked

    async def attach_by_socket(request: web.Request) -> web.StreamResponse:
        keys = relay.parse_detach_keys(request.query.get("detachKeys") or relay.DEFAULT_DETACH_KEYS)
        live = ctx.registry.find(request.match_info["id"])
        check(live)
        channel, kind = web.WebSocketResponse(), frame_kind(request["api_version"])
        keep(request, "response", channel)
        await channel.prepare(request)
        attachment = Attachment(ctx, live, stdin=flag(request, "stdin"), stdout=flag(request, "stdout"),
                                stderr=flag(request, "stderr")) if flag(request, "stream") else None
        try:
            if flag(request, "logs"):
                bare = relay.Unframer()
                query = logs.Query(stdout=flag(request, "stdout"), stderr=flag(request, "stderr"))
                async for piece in logs.stream(live, query):
                    await channel.send_frame(piece if live.container.config.tty else bare(piece), kind)
            if attachment is not None:
                await _talk(attachment, channel, kind, keys)
        finally:
            if attachment is not None:
                attachment.close()
        await channel.close()
        return channel

    return [web.post("/containers/{id}/attach", attach_container),
            web.get("/containers/{id}/attach/ws", attach_by_socket)]


async def _talk(attachment: Attachment, channel: web.WebSocketResponse, kind: WSMsgType, keys: bytes) -> None:
    """Carry messages: what the container says has no frames here, whatever stream it came from."""
    process = await attachment.streams()
    if process is None:
        return
    reader, writer = process
    escape = relay.Escape(keys) if attachment.tty and attachment.stdin else None
    bare = relay.Unframer()

    async def output() -> None:
        while data := await reader.read(relay.CHUNK):
            await channel.send_frame(data if attachment.tty else bare(data), kind)

    async def source() -> bool:
        async for message in channel:
            data = message.data.encode() if isinstance(message.data, str) else bytes(message.data)
            data, detached = escape.feed(data) if escape is not None else (data, False)
            if detached:
                return True
            if attachment.stdin:
                writer.write(data)
                await writer.drain()
        return False

    tasks = {asyncio.ensure_future(output()), asyncio.ensure_future(source())}
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        if any(task.result() for task in done):
            attachment.detached()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        writer.close()


async def _stream(attachment: Attachment, hijacked: Hijacked, keys: bytes) -> None:
    process = await attachment.streams()
    if process is None:
        return
    escape = relay.Escape(keys) if attachment.tty and attachment.stdin else None
    if await relay.relay((hijacked.reader, hijacked.writer), process, stdin=attachment.stdin, escape=escape,
                         ready=hijacked.head_read):
        attachment.detached()
