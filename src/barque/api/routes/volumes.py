"""``/volumes``: docker's API for volumes, over :class:`VolumesBackend`."""

from __future__ import annotations

import builtins
from collections.abc import Mapping
from typing import Any, Protocol

import msgspec
from aiohttp import web

from barque.engine import filters
from barque.engine.filters import Filters
from barque.engine.volumes import LIST_FILTERS, PRUNE_FILTERS, Volume
from barque.errors import InvalidArgument, Unavailable
from barque.oci import go_json

#: From here on prune spares named volumes unless told otherwise.
_PRUNES_ANONYMOUS = (1, 42)


class VolumesBackend(Protocol):
    async def ensure(self, name: str | None, *, driver: str = "local", options: Mapping[str, str] | None = None,
                     labels: Mapping[str, str] | None = None) -> Volume: ...
    async def get(self, name: str) -> Volume: ...
    async def list(self, wanted: Filters) -> builtins.list[Volume]: ...
    async def remove(self, name: str, force: bool = False) -> None: ...
    async def prune(self, wanted: Filters, everything: bool) -> tuple[builtins.list[str], int]: ...


class VolumeCreate(msgspec.Struct, rename="pascal"):
    name: str = ""
    driver: str = ""
    driver_opts: dict[str, str] | None = None
    labels: dict[str, str] | None = None
    cluster_volume_spec: Any = None


def routes(volumes: VolumesBackend) -> list[web.RouteDef]:
    """The routes, without the version prefix."""
    handlers = _Handlers(volumes)
    return [
        web.get("/volumes", handlers.list),
        web.post("/volumes/create", handlers.create),
        web.post("/volumes/prune", handlers.prune),
        web.get("/volumes/{name}", handlers.inspect),
        web.put("/volumes/{name}", handlers.update),
        web.delete("/volumes/{name}", handlers.remove),
    ]


class _Handlers:
    def __init__(self, volumes: VolumesBackend) -> None:
        self._volumes = volumes

    async def list(self, request: web.Request) -> web.StreamResponse:
        found = await self._volumes.list(filters.parse(request.query.get("filters"), LIST_FILTERS))
        return _json({"Volumes": found, "Warnings": None})

    async def create(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        if not body:
            raise InvalidArgument("invalid JSON: got EOF while reading request body")
        asked = go_json.decode(body, VolumeCreate)
        if asked.cluster_volume_spec is not None:
            raise Unavailable("cluster volumes need swarm mode, which this engine does not have")
        volume = await self._volumes.ensure(asked.name or None, driver=asked.driver or "local",
                                            options=asked.driver_opts, labels=asked.labels)
        return _json(volume, 201)

    async def inspect(self, request: web.Request) -> web.StreamResponse:
        return _json(await self._volumes.get(request.match_info["name"]))

    async def update(self, request: web.Request) -> web.StreamResponse:
        raise Unavailable("volume update only valid for cluster volumes, but swarm is unavailable")

    async def remove(self, request: web.Request) -> web.StreamResponse:
        force = request.query.get("force", "").lower() not in ("", "0", "no", "false", "none")
        await self._volumes.remove(request.match_info["name"], force)
        return web.Response(status=204)

    async def prune(self, request: web.Request) -> web.StreamResponse:
        wanted = filters.parse(request.query.get("filters"), PRUNE_FILTERS)
        removed, reclaimed = await self._volumes.prune(wanted, request["api_version"] < _PRUNES_ANONYMOUS)
        return _json({"VolumesDeleted": removed, "SpaceReclaimed": reclaimed})


def _json(value: Any, status: int = 200) -> web.Response:
    return web.Response(body=msgspec.json.encode(value) + b"\n", status=status, content_type="application/json")
