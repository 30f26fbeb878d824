"""What is in images: attestations as docker's API has them, and, beyond docker, layers, differences and flattening."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Protocol

from aiohttp import web

from barque.api.requests import flag, integer, json
from barque.errors import InvalidArgument
from barque.oci import go_json
from barque.oci.platform import Platform
from barque.oci.reference import Reference, parse

_MAX_FILES = 1000


class AttestationsBackend(Protocol):
    async def statements(self, text: str, platform: Platform | None, types: Collection[str], *,
                         bodies: bool) -> list[dict[str, Any]]: ...


class ExplorerBackend(Protocol):
    async def layers(self, text: str, platform: Platform | None, files: int) -> list[dict[str, Any]]: ...
    async def diff(self, one: str, other: str) -> list[dict[str, Any]]: ...


class FlattenBackend(Protocol):
    async def flatten(self, text: str, platform: Platform | None, ref: Reference | None) -> str: ...


def routes(attestations: AttestationsBackend, explorer: ExplorerBackend, flattener: FlattenBackend) \
        -> list[web.RouteDef]:
    async def statements(request: web.Request) -> web.StreamResponse:
        return json(await attestations.statements(_name(request), _platform(request), request.query.getall("type", []),
                                                  bodies=flag(request, "statement")))

    async def layers(request: web.Request) -> web.StreamResponse:
        files = integer(request, "files", 0) or 0
        if not 0 <= files <= _MAX_FILES:
            raise InvalidArgument(f"files {files} is outside the range of [0, {_MAX_FILES}]")
        return json(await explorer.layers(_name(request), _platform(request), files))

    async def diff(request: web.Request) -> web.StreamResponse:
        other = request.query.get("to", "")
        if not other:
            raise InvalidArgument("the image to compare with is missing: to=IMAGE")
        return json(await explorer.diff(_name(request), other))

    async def flatten(request: web.Request) -> web.StreamResponse:
        name = request.query.get("name", "")
        ref = parse(name).with_default_tag() if name else None
        if ref is not None and ref.digest is not None:
            raise InvalidArgument("refusing to create a tag with a digest reference")
        return json({"Id": await flattener.flatten(_name(request), _platform(request), ref)}, 201)

    return [web.get("/images/{name:.+}/attestations", statements), web.get("/images/{name:.+}/layers", layers),
            web.get("/images/{name:.+}/diff", diff), web.post("/images/{name:.+}/flatten", flatten)]


def _name(request: web.Request) -> str:
    return request.match_info["name"]


def _platform(request: web.Request) -> Platform | None:
    texts = request.query.getall("platform", [])
    if len(texts) > 1:
        raise InvalidArgument("multiple platform parameters are not supported")
    return go_json.decode(texts[0], Platform) if texts else None
