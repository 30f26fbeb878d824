"""Containers: make, look at, read logs, measure."""

from __future__ import annotations

import time

import msgspec
from aiohttp import web

from barque.api import requests, streams
from barque.api.hijack import MULTIPLEXED, RAW
from barque.api.requests import flag, integer
from barque.api.schema.containers import NO_KERNEL_MEMORY, CreateBody, UpdateBody
from barque.engine import clock, filters
from barque.engine.containers import create, inspect, listing, logs, remove, stats, top, update
from barque.engine.containers.context import Context
from barque.errors import InvalidArgument

_PRUNE_FILTERS = frozenset({"label", "label!", "until"})


def routes(ctx: Context) -> list[web.RouteDef]:
    async def list_containers(request: web.Request) -> web.StreamResponse:
        wanted = filters.parse(request.query.get("filters"), listing.KEYS)
        return requests.json(await listing.containers(
            ctx, wanted, everything=flag(request, "all"), limit=integer(request, "limit") or 0,
            size=flag(request, "size")))

    async def create_container(request: web.Request) -> web.StreamResponse:
        body = await requests.body(request, CreateBody)
        made = await create.create(ctx, request.query.get("name", ""), body.config(), body.host(),
                                   body.networking_config, request.query.get("platform", ""))
        return requests.json({"Id": made.id, "Warnings": [*body.warnings(), *made.warnings]}, 201)

    async def inspect_container(request: web.Request) -> web.StreamResponse:
        return requests.json(await inspect.inspect(ctx, request.match_info["id"], size=flag(request, "size"),
                                                   version=request["api_version"]))

    async def show_top(request: web.Request) -> web.StreamResponse:
        return requests.json(await top.top(ctx, request.match_info["id"], request.query.get("ps_args", "")))

    async def prune(request: web.Request) -> web.StreamResponse:
        return requests.json(await remove.prune(ctx, filters.parse(request.query.get("filters"), _PRUNE_FILTERS)))

    async def change(request: web.Request) -> web.StreamResponse:
        body = await requests.body(request, UpdateBody)
        changes = {item.name: value for item in msgspec.structs.fields(UpdateBody)
                   if (value := getattr(body, item.name)) not in (0, "", None)
                   and not (item.name == "restart_policy" and not value.name)}
        warnings = [NO_KERNEL_MEMORY] if changes.pop("kernel_memory", 0) else []
        return requests.json({"Warnings": warnings + await update.update(ctx, request.match_info["id"], changes)})

    return [web.get("/containers/json", list_containers), web.post("/containers/create", create_container),
            web.get("/containers/{id}/json", inspect_container), web.get("/containers/{id}/top", show_top),
            web.post("/containers/prune", prune), web.post("/containers/{id}/update", change), *_reading(ctx)]


def _reading(ctx: Context) -> list[web.RouteDef]:
    async def read_logs(request: web.Request) -> web.StreamResponse:
        live = ctx.registry.find(request.match_info["id"])
        query = log_query(request)
        logs.check(live, query)
        kind = RAW if live.container.config.tty or request["api_version"] < (1, 42) else MULTIPLEXED
        return await streams.send_bytes(request, logs.stream(live, query), kind)

    async def read_stats(request: web.Request) -> web.StreamResponse:
        live = ctx.registry.find(request.match_info["id"])
        once = not flag(request, "stream", True)
        one_shot = flag(request, "one-shot")
        if one_shot and not once:
            raise InvalidArgument("cannot have stream=true and one-shot=true")
        return await streams.send_json(request, stats.stream(ctx, live, one_shot=one_shot, once=once))

    return [web.get("/containers/{id}/logs", read_logs), web.get("/containers/{id}/stats", read_stats)]


def log_query(request: web.Request) -> logs.Query:
    tail = request.query.get("tail", "all")
    return logs.Query(
        stdout=flag(request, "stdout"), stderr=flag(request, "stderr"), since=_moment(request, "since"),
        until=_moment(request, "until"), timestamps=flag(request, "timestamps"), details=flag(request, "details"),
        tail=int(tail) if tail.isascii() and tail.isdecimal() else None, follow=flag(request, "follow"))


def _moment(request: web.Request, name: str) -> int | None:
    text = request.query.get(name, "")
    if text in ("", "0"):
        return None
    moment = clock.parse_moment(text, time.time_ns())
    if moment is None:
        raise InvalidArgument(f"invalid value for \"{name}\": {text}")
    return moment
