"""``/images``, ``/auth`` and ``/distribution``: docker's API for images, over :class:`ImagesBackend`."""

from __future__ import annotations

import builtins
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol

from aiohttp import web

from barque.api.progress import stream
from barque.api.requests import flag, integer, json
from barque.api.routes import image_archives
from barque.api.routes.image_archives import ArchivesBackend, bring_in
from barque.engine import filters
from barque.engine.filters import Filters
from barque.engine.images import LIST_FILTERS, PRUNE_FILTERS, SEARCH_FILTERS
from barque.errors import InvalidArgument
from barque.image.client import auth
from barque.image.client.auth import Credentials
from barque.image.client.search import SearchResult
from barque.image.progress import Report
from barque.oci import go_json
from barque.oci import platform as platforms
from barque.oci.platform import Platform
from barque.oci.reference import Reference, parse

Version = tuple[int, int]
_SEARCH_LIMIT, _MAX_SEARCH = 25, 100


class ImagesBackend(Protocol):
    async def list(self, version: Version, wanted: Filters, *, shared_size: bool = False,
                   manifests: bool = False, identity: bool = False) -> list[dict[str, Any]]: ...
    async def inspect(self, text: str, version: Version, platform: Platform | None = None, *,
                      manifests: bool = False) -> dict[str, Any]: ...
    async def history(self, text: str, platform: Platform | None = None) -> builtins.list[dict[str, Any]]: ...
    async def tag(self, text: str, ref: Reference) -> None: ...
    async def remove(self, text: str, platforms: Sequence[Platform] = (), *,
                     force: bool = False) -> builtins.list[dict[str, str]]: ...
    async def prune(self, wanted: Filters) -> dict[str, Any]: ...
    async def pull(self, ref: Reference, platform: Platform | None, credentials: Credentials | None,
                   report: Report) -> None: ...
    async def push(self, ref: Reference, credentials: Credentials | None, report: Report,
                   platform: Platform | None = None) -> None: ...
    async def distribution(self, ref: Reference, credentials: Credentials | None) -> dict[str, Any]: ...
    async def search(self, term: str, limit: int, wanted: Filters,
                     credentials: Credentials | None) -> builtins.list[SearchResult]: ...


#: Proves credentials to a registry and returns an identity token (often empty).
Login = Callable[[Credentials], Awaitable[str]]


def routes(images: ImagesBackend, archives: ArchivesBackend, login: Login) -> list[web.RouteDef]:
    """The routes, without the version prefix. Image names contain slashes."""
    handlers = _Handlers(images, archives, login)
    return [
        *image_archives.routes(archives),
        web.get("/images/json", handlers.list),
        web.post("/images/create", handlers.create),
        web.get("/images/search", handlers.search),
        web.post("/images/prune", handlers.prune),
        web.get("/images/{name:.+}/json", handlers.inspect),
        web.get("/images/{name:.+}/history", handlers.history),
        web.post("/images/{name:.+}/tag", handlers.tag),
        web.post("/images/{name:.+}/push", handlers.push),
        web.delete("/images/{name:.+}", handlers.remove),
        web.get("/distribution/{name:.+}/json", handlers.distribution),
        web.post("/auth", handlers.auth),
    ]


class _Handlers:
    def __init__(self, images: ImagesBackend, archives: ArchivesBackend, login: Login) -> None:
        self._images = images
        self._archives = archives
        self._login = login

    async def list(self, request: web.Request) -> web.StreamResponse:
        version = _version(request)
        wanted = filters.parse(request.query.get("filters"), LIST_FILTERS)
        if version < (1, 25) and "reference" not in wanted and request.query.get("filter"):
            wanted["reference"] = [request.query["filter"]]
        shared = version >= (1, 42) and flag(request, "shared-size")
        return json(await self._images.list(version, wanted, shared_size=shared,
                                            manifests=version >= (1, 47) and flag(request, "manifests"),
                                            identity=version >= (1, 54) and flag(request, "identity")))

    async def create(self, request: web.Request) -> web.StreamResponse:
        if request.query.get("fromSrc") and not request.query.get("fromImage"):
            return await bring_in(request, self._archives)
        name, tag = request.query.get("fromImage", ""), request.query.get("tag", "")
        if not name:
            raise InvalidArgument("neither fromImage nor fromSrc is given")
        ref = _reference(name.removesuffix(":"), tag)
        text = request.query.get("platform", "") if _version(request) >= (1, 32) else ""
        platform = platforms.parse(text) if text else None
        credentials = _credentials(request)
        return await stream(request, lambda report: self._images.pull(ref, platform, credentials, report))

    async def search(self, request: web.Request) -> web.StreamResponse:
        limit = integer(request, "limit") or _SEARCH_LIMIT
        if not 1 <= limit <= _MAX_SEARCH:
            raise InvalidArgument(f"limit {limit} is outside the range of [1, {_MAX_SEARCH}]")
        wanted = filters.parse(request.query.get("filters"), SEARCH_FILTERS)
        return json(await self._images.search(request.query.get("term", ""), limit, wanted, _credentials(request)))

    async def prune(self, request: web.Request) -> web.StreamResponse:
        return json(await self._images.prune(filters.parse(request.query.get("filters"), PRUNE_FILTERS)))

    async def inspect(self, request: web.Request) -> web.StreamResponse:
        version = _version(request)
        manifests = version >= (1, 48) and flag(request, "manifests")
        if manifests and request.query.get("platform"):
            raise InvalidArgument("conflicting options: manifests and platform options cannot both be set")
        return json(await self._images.inspect(_name(request), version, _platform(request, (1, 49)),
                                               manifests=manifests))

    async def history(self, request: web.Request) -> web.StreamResponse:
        return json(await self._images.history(_name(request), _platform(request, (1, 48))))

    async def tag(self, request: web.Request) -> web.StreamResponse:
        await self._images.tag(_name(request), _reference(request.query.get("repo", ""), request.query.get("tag", "")))
        return web.Response(status=201)

    async def push(self, request: web.Request) -> web.StreamResponse:
        ref = _reference(_name(request), request.query.get("tag", ""))
        platform = _platform(request, (1, 46))
        credentials = _credentials(request)
        return await stream(request, lambda report: self._images.push(ref, credentials, report, platform))

    async def remove(self, request: web.Request) -> web.StreamResponse:
        name = _name(request)
        if not name.strip():
            raise InvalidArgument("image name cannot be blank")
        texts = request.query.getall("platforms", []) if _version(request) >= (1, 50) else []
        chosen = [go_json.decode(text, Platform) for text in texts]
        # noprune spares untagged parents of classic builds; no image here has a parent.
        return json(await self._images.remove(name, chosen, force=flag(request, "force")))

    async def distribution(self, request: web.Request) -> web.StreamResponse:
        return json(await self._images.distribution(parse(_name(request)), _credentials(request)))

    async def auth(self, request: web.Request) -> web.StreamResponse:
        credentials = auth.decode_body(await request.read())
        if credentials is None:
            raise InvalidArgument("no credentials given")
        token = await self._login(credentials)
        return json({"Status": "Login Succeeded", "IdentityToken": token})


def _version(request: web.Request) -> Version:
    version: Version = request["api_version"]
    return version


def _name(request: web.Request) -> str:
    return request.match_info["name"]


def _credentials(request: web.Request) -> Credentials | None:
    return auth.decode_header(request.headers.get("X-Registry-Auth"))


def _reference(name: str, tag: str) -> Reference:
    """``name`` with ``tag``, which may be a digest; raises InvalidReference."""
    if not tag:
        return parse(name)
    if ":" in tag:
        return parse(f"{parse(name).name}@{tag}")
    found = parse(name)
    return parse(f"{found.name}:{tag}")


def _platform(request: web.Request, since: Version) -> Platform | None:
    """``platform`` as JSON, which the API knows since that version; raises InvalidArgument."""
    text = request.query.get("platform", "")
    return go_json.decode(text, Platform) if text and _version(request) >= since else None
