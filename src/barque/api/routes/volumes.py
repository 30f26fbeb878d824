"""``/volumes``: docker's API for volumes, over :class:`VolumesBackend`.

Ours alone are ``POST /volumes/{name}/rename?name=NEW``, ``POST /volumes/{name}/clone`` (body: ``Name``, ``Labels``),
``GET /volumes/{name}/export`` and ``POST /volumes/{name}/import`` (tar archives).
"""

from __future__ import annotations

import builtins
from collections.abc import AsyncIterator, Mapping
from typing import Any, Protocol

import msgspec
from aiohttp import web

from barque.api import requests, streams
from barque.engine import filters
from barque.engine.filters import Filters
from barque.engine.volumes import LIST_FILTERS, PRUNE_FILTERS, Volume
from barque.errors import Unavailable

#: From here on prune spares named volumes unless told otherwise.
_PRUNES_ANONYMOUS = (1, 42)


class VolumesBackend(Protocol):
    async def ensure(self, name: str | None, *, driver: str = "local", options: Mapping[str, str] | None = None,
                     labels: Mapping[str, str] | None = None) -> Volume: ...
    async def get(self, name: str) -> Volume: ...
    async def list(self, wanted: Filters) -> builtins.list[Volume]: ...
    async def rename(self, name: str, new: str) -> Volume: ...
    async def remove(self, name: str, force: bool = False) -> None: ...
    async def prune(self, wanted: Filters, everything: bool) -> tuple[builtins.list[str], int]: ...


class CopiesBackend(Protocol):
    async def clone(self, name: str, new: str, labels: Mapping[str, str] | None) -> Volume: ...
    def export(self, name: str) -> AsyncIterator[bytes]: ...
    async def bring_in(self, name: str, archive: AsyncIterator[bytes]) -> Volume: ...


class VolumeClone(msgspec.Struct, rename="pascal"):
    name: str = ""
    labels: dict[str, str] | None = None


class VolumeCreate(msgspec.Struct, rename="pascal"):
    name: str = ""
    driver: str = ""
    driver_opts: dict[str, str] | None = None
    labels: dict[str, str] | None = None
    cluster_volume_spec: Any = None


def routes(volumes: VolumesBackend, copies: CopiesBackend) -> list[web.RouteDef]:
    """The routes, without the version prefix."""
    handlers = _Handlers(volumes, copies)
    return [
        web.get("/volumes", handlers.list),
        web.post("/volumes/create", handlers.create),
        web.post("/volumes/prune", handlers.prune),
        web.get("/volumes/{name}", handlers.inspect),
        web.put("/volumes/{name}", handlers.update),
        web.delete("/volumes/{name}", handlers.remove),
        web.post("/volumes/{name}/rename", handlers.rename),
        web.post("/volumes/{name}/clone", handlers.clone),
        web.get("/volumes/{name}/export", handlers.export),
        web.post("/volumes/{name}/import", handlers.bring_in),
    ]


class _Handlers:
    def __init__(self, volumes: VolumesBackend, copies: CopiesBackend) -> None:
        self._volumes = volumes
        self._copies = copies

    async def list(self, request: web.Request) -> web.StreamResponse:
        found = await self._volumes.list(filters.parse(request.query.get("filters"), LIST_FILTERS))
        return requests.json({"Volumes": found, "Warnings": None})

    async def create(self, request: web.Request) -> web.StreamResponse:
        asked = await requests.body(request, VolumeCreate)
        if asked.cluster_volume_spec is not None:
            raise Unavailable("cluster volumes need swarm mode, which this engine does not have")
        volume = await self._volumes.ensure(asked.name or None, driver=asked.driver or "local",
                                            options=asked.driver_opts, labels=asked.labels)
        return requests.json(volume, 201)

    async def inspect(self, request: web.Request) -> web.StreamResponse:
        return requests.json(await self._volumes.get(request.match_info["name"]))

    async def update(self, request: web.Request) -> web.StreamResponse:
        raise Unavailable("volume update only valid for cluster volumes, but swarm is unavailable")

    async def remove(self, request: web.Request) -> web.StreamResponse:
        await self._volumes.remove(request.match_info["name"], requests.flag(request, "force"))
        return web.Response(status=204)

    async def rename(self, request: web.Request) -> web.StreamResponse:
        await self._volumes.rename(request.match_info["name"], request.query.get("name", ""))
        return web.Response(status=204)

    async def clone(self, request: web.Request) -> web.StreamResponse:
        asked = await requests.body(request, VolumeClone)
        return requests.json(await self._copies.clone(request.match_info["name"], asked.name, asked.labels), 201)

    async def export(self, request: web.Request) -> web.StreamResponse:
        name = request.match_info["name"]
        await self._volumes.get(name)
        return await streams.send_bytes(request, self._copies.export(name), "application/x-tar")

    async def bring_in(self, request: web.Request) -> web.StreamResponse:
        archive = request.content.iter_chunked(256 << 10)
        return requests.json(await self._copies.bring_in(request.match_info["name"], archive))

    async def prune(self, request: web.Request) -> web.StreamResponse:
        wanted = filters.parse(request.query.get("filters"), PRUNE_FILTERS)
        removed, reclaimed = await self._volumes.prune(wanted, request["api_version"] < _PRUNES_ANONYMOUS)
        return requests.json({"VolumesDeleted": removed, "SpaceReclaimed": reclaimed})
