"""Further processes in a container."""

from __future__ import annotations

from aiohttp import web

from barque.api import app, relay, requests
from barque.api.hijack import Hijacked, keep
from barque.api.routes.attach import content_type
from barque.api.routes.lifecycle import size
from barque.api.schema.containers import ExecStartBody
from barque.engine.containers.execs import Exec, ExecOptions, Execs, ExecStarted
from barque.engine.containers.start_errors import ExecRefused


def routes(execs: Execs, *, experimental: bool) -> list[web.RouteDef]:
    async def create_exec(request: web.Request) -> web.StreamResponse:
        options = await requests.body(request, ExecOptions)
        if options.detach_keys:
            relay.parse_detach_keys(options.detach_keys)
        return requests.json({"Id": execs.create(request.match_info["id"], options)}, 201)

    async def start_exec(request: web.Request) -> web.StreamResponse:
        body = await requests.optional_body(request, ExecStartBody) or ExecStartBody()
        item = execs.startable(request.match_info["id"])
        options = item.options
        attached = not body.detach and (options.attach_stdin or options.attach_stdout or options.attach_stderr)
        tty = options.tty
        dimensions = body.console_size or options.console_size
        console = (dimensions[0], dimensions[1]) if dimensions and len(dimensions) == 2 else None
        if not attached:
            await execs.start(item, attached=False, tty=tty, console_size=console)
            return web.Response(status=200)
        # Whether there are frames says the client that starts it, not the one that made it.
        hijacked = Hijacked(request, content_type(tty=body.tty, version=request["api_version"]),
                            app.headers(experimental))
        keep(request, "response", hijacked)
        await _run(execs, item, hijacked, console, raw=body.tty)
        return hijacked

    async def resize_exec(request: web.Request) -> web.StreamResponse:
        height, width = size(request)
        await execs.resize(request.match_info["id"], height, width)
        return web.Response(status=200)

    async def inspect_exec(request: web.Request) -> web.StreamResponse:
        return requests.json(execs.inspect(request.match_info["id"]))

    return [web.post("/containers/{id}/exec", create_exec), web.post("/exec/{id}/start", start_exec),
            web.post("/exec/{id}/resize", resize_exec), web.get("/exec/{id}/json", inspect_exec)]


async def _run(execs: Execs, item: Exec, hijacked: Hijacked, console: tuple[int, int] | None, *, raw: bool) -> None:
    tty = item.options.tty
    keys = relay.parse_detach_keys(item.options.detach_keys or relay.DEFAULT_DETACH_KEYS)
    try:
        streams = await execs.start(item, attached=True, tty=tty, console_size=console)
    except (ExecRefused, ExecStarted) as error:
        # The answer has begun: docker says it on the stream, and clients take the code from inspect.
        text = error.message.encode() + b"\r\n"
        await hijacked.head_read()
        hijacked.writer.write(text if raw else relay.framed(text))
        return
    if streams is not None:
        escape = relay.Escape(keys) if tty and item.options.attach_stdin else None
        client = (hijacked.reader, hijacked.writer)
        change = None if raw == tty else relay.Unframer() if raw else relay.framed
        if await relay.relay(client, streams, stdin=item.options.attach_stdin, escape=escape,
                             ready=hijacked.head_read, ending=item.wait_ended, change=change):
            execs.detached(item)
