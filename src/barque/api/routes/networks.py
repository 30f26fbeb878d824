"""/networks: decode, ask the service, encode."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import msgspec
from aiohttp import web

from barque.errors import InvalidArgument


class NetworksBackend(Protocol):
    def list(self, filters: Mapping[str, Sequence[str]]) -> list[dict[str, Any]]: ...
    def inspect(self, ref: str) -> dict[str, Any]: ...
    def create(self, name: str) -> None: ...
    def remove(self, ref: str) -> None: ...
    def connect(self, ref: str) -> None: ...


class _Create(msgspec.Struct):
    name: str = msgspec.field(name="Name", default="")


def routes(backend: NetworksBackend) -> list[web.RouteDef]:
    """The routes of networks, without the version prefix."""

    async def listing(request: web.Request) -> web.StreamResponse:
        return _json(backend.list(_filters(request)))

    async def inspect(request: web.Request) -> web.StreamResponse:
        return _json(backend.inspect(request.match_info["id"]))

    async def create(request: web.Request) -> web.StreamResponse:
        try:
            body = msgspec.json.decode(await request.read(), type=_Create)
        except msgspec.DecodeError as error:
            raise InvalidArgument(f"invalid JSON: {error}") from error
        backend.create(body.name)
        return web.Response(status=201)

    async def connect(request: web.Request) -> web.StreamResponse:
        backend.connect(request.match_info["id"])
        return web.Response()

    async def remove(request: web.Request) -> web.StreamResponse:
        backend.remove(request.match_info["id"])
        return web.Response(status=204)

    async def prune(request: web.Request) -> web.StreamResponse:
        _filters(request)
        return _json({"NetworksDeleted": None})  # predefined networks are never unused

    return [
        web.get("/networks", listing), web.get("/networks/{id}", inspect), web.post("/networks/create", create),
        web.post("/networks/prune", prune), web.post("/networks/{id}/connect", connect),
        web.post("/networks/{id}/disconnect", connect), web.delete("/networks/{id}", remove),
    ]


def _filters(request: web.Request) -> dict[str, list[str]]:
    """``filters={"name":["a"]}``, or with a map of booleans in the place of the list, as old clients send it."""
    text = request.query.get("filters") or "{}"
    try:
        found = msgspec.json.decode(text, type=dict[str, list[str] | dict[str, bool]])
    except msgspec.DecodeError as error:
        raise InvalidArgument(f"invalid filters: {error}") from error
    return {key: list(values) if isinstance(values, list) else [name for name, on in values.items() if on]
            for key, values in found.items()}


def _json(value: object) -> web.Response:
    return web.Response(body=msgspec.json.encode(value), content_type="application/json")
