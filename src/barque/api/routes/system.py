"""The engine itself: ping, version, info, events, disk usage."""

from __future__ import annotations

import time

from aiohttp import web

from barque.api import app, requests, streams
from barque.engine import clock, filters, system
from barque.engine.containers.context import Context
from barque.engine.events import EventBus
from barque.errors import InvalidArgument

_EVENT_FILTERS = frozenset({"config", "container", "daemon", "event", "image", "label", "network", "node", "plugin",
                            "scope",
                            "secret", "service", "type", "volume"})


def routes(ctx: Context, bus: EventBus, engine_id: str, images: system.Images, volumes: system.VolumeUsage,
           builds: system.BuildCacheUsage) -> list[web.RouteDef]:
    async def ping(request: web.Request) -> web.StreamResponse:
        headers = {"Cache-Control": "no-cache, no-store, must-revalidate", "Pragma": "no-cache", "Swarm": "inactive",
                   "Builder-Version": app.BUILDER_VERSION}
        return web.Response(text="" if request.method == "HEAD" else "OK", headers=headers, content_type="text/plain")

    async def version(_: web.Request) -> web.StreamResponse:
        return requests.json(system.version(ctx, app.dotted(app.MAX_VERSION), app.dotted(app.MIN_VERSION)))

    async def info(_: web.Request) -> web.StreamResponse:
        return requests.json(await system.info(ctx, engine_id, images, bus))

    async def events(request: web.Request) -> web.StreamResponse:
        wanted = filters.parse(request.query.get("filters"), _EVENT_FILTERS)
        since, until = _moment(request, "since"), _moment(request, "until")
        if since is not None and until is not None and until < since:
            raise InvalidArgument(f"`since` time ({request.query['since']}) cannot be after `until` time "
                                  f"({request.query['until']})")
        return await streams.send_json(request, bus.stream(wanted, since, until))

    async def disk_usage(request: web.Request) -> web.StreamResponse:
        kinds = request.query.getall("type", [])
        for kind in kinds:
            if kind not in ("container", "image", "volume", "build-cache"):
                raise InvalidArgument(f"unknown object type: {kind}")
        found = await system.disk_usage(ctx, images, volumes, builds, kinds)
        if request["api_version"] >= (1, 52):
            found = system.usage_summaries(found, kinds, verbose=requests.flag(request, "verbose"))
        return requests.json(found)

    async def plugins(_: web.Request) -> web.StreamResponse:
        return requests.json([])

    return [web.get("/_ping", ping), web.get("/version", version), web.get("/info", info), web.get("/events", events),
            web.get("/system/df", disk_usage), web.get("/plugins", plugins)]


def _moment(request: web.Request, name: str) -> int | None:
    text = request.query.get(name, "")
    if not text:
        return None
    moment = clock.parse_moment(text, time.time_ns())
    if moment is None:
        raise InvalidArgument(f'invalid value for "{name}": {text}')
    return moment
