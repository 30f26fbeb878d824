"""/networks: decode, ask the service, encode."""

from __future__ import annotations

import builtins
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import msgspec
from aiohttp import web

from barque.api import requests
from barque.engine import filters
from barque.engine.containers.options import EndpointSettings
from barque.engine.network_options import CreateNetwork


class NetworksBackend(Protocol):
    def list(self, wanted: Mapping[str, Sequence[str]]) -> builtins.list[dict[str, Any]]: ...
    def inspect(self, ref: str) -> dict[str, Any]: ...
    async def explain(self, ref: str) -> dict[str, Any]: ...
    async def create(self, body: CreateNetwork) -> tuple[str, str]: ...
    async def remove(self, ref: str) -> None: ...
    async def prune(self, wanted: Mapping[str, Sequence[str]]) -> builtins.list[str]: ...


class MembershipsBackend(Protocol):
    async def connect(self, network: str, container: str, settings: EndpointSettings) -> None: ...
    async def disconnect(self, network: str, container: str, *, force: bool) -> None: ...


class _Connect(msgspec.Struct, rename="pascal"):
    container: str = ""
    endpoint_config: EndpointSettings | None = None


class _Disconnect(msgspec.Struct, rename="pascal"):
    container: str = ""
    force: bool = False


def routes(backend: NetworksBackend, memberships: MembershipsBackend) -> list[web.RouteDef]:
    """The routes of networks, without the version prefix."""

    async def listing(request: web.Request) -> web.StreamResponse:
        return requests.json(backend.list(filters.parse(request.query.get("filters"))))

    async def inspect(request: web.Request) -> web.StreamResponse:
        return requests.json(backend.inspect(request.match_info["id"]))

    async def firewall(request: web.Request) -> web.StreamResponse:
        return requests.json(await backend.explain(request.match_info["id"]))

    async def create(request: web.Request) -> web.StreamResponse:
        network_id, warning = await backend.create(await requests.body(request, CreateNetwork))
        return requests.json({"Id": network_id, "Warning": warning}, 201)

    async def connect(request: web.Request) -> web.StreamResponse:
        body = await requests.body(request, _Connect)
        await memberships.connect(request.match_info["id"], body.container, body.endpoint_config or EndpointSettings())
        return web.Response()

    async def disconnect(request: web.Request) -> web.StreamResponse:
        body = await requests.body(request, _Disconnect)
        await memberships.disconnect(request.match_info["id"], body.container, force=body.force)
        return web.Response()

    async def remove(request: web.Request) -> web.StreamResponse:
        await backend.remove(request.match_info["id"])
        return web.Response(status=204)

    async def prune(request: web.Request) -> web.StreamResponse:
        removed = await backend.prune(filters.parse(request.query.get("filters")))
        return requests.json({"NetworksDeleted": removed or None})

    return [
        web.get("/networks", listing), web.get("/networks/{id}", inspect), web.post("/networks/create", create),
        web.get("/networks/{id}/firewall", firewall), web.post("/networks/prune", prune),
        web.post("/networks/{id}/connect", connect), web.post("/networks/{id}/disconnect", disconnect),
        web.delete("/networks/{id}", remove),
    ]
