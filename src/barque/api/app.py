"""The HTTP application: versions, headers, errors, and the routes of all parts."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable

from aiohttp import web

from barque.api.errors import errors, failure
from barque.api.hijack import keep
from barque.config import VERSION

MIN_VERSION = (1, 24)
MAX_VERSION = (1, 55)
#: Which builder clients should use: "1" is the classic one.
BUILDER_VERSION = "1"

_PREFIX = r"/v{api_version:[0-9]+\.[0-9]+}"
#: For bodies that are read whole (JSON); archives are streamed and have no limit.
MAX_BODY = 16 << 20
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def dotted(version: tuple[int, int]) -> str:
    return f"{version[0]}.{version[1]}"


def headers(experimental: bool = False) -> dict[str, str]:
    """What every answer carries."""
    return {"Api-Version": dotted(MAX_VERSION), "Docker-Experimental": str(experimental).lower(), "Ostype": "linux",
            "Server": f"Barque/{VERSION} (linux)"}


def version_error(version: tuple[int, int]) -> str | None:
    """dockerd's words for a version that is not served."""
    if version > MAX_VERSION:
        return (f"client version {dotted(version)} is too new. Maximum supported API version is {dotted(MAX_VERSION)}")
    if version < MIN_VERSION:
        return (f"client version {dotted(version)} is too old. Minimum supported API version is {dotted(MIN_VERSION)}, "
                "please upgrade your client to a newer version")
    return None


@web.middleware
async def versions(request: web.Request, handler: Handler) -> web.StreamResponse:
    asked = request.match_info.get("api_version")
    if asked is None:
        keep(request, "api_version", MAX_VERSION)
        return await handler(request)
    major, _, minor = asked.partition(".")
    version = (int(major[:6]), int(minor[:6]))
    if (problem := version_error(version)) is not None:
        return failure(400, problem)
    keep(request, "api_version", version)
    return await handler(request)


def build(routes: Iterable[web.RouteDef], *, experimental: bool = False) -> web.Application:
    """All of ``routes``, each with and without a version in front."""
    app = web.Application(middlewares=[errors, versions], client_max_size=MAX_BODY)
    common = headers(experimental)

    async def add_headers(_: web.Request, response: web.StreamResponse) -> None:
        response.headers.update(common)

    app.on_response_prepare.append(add_headers)
    for route in routes:
        app.router.add_routes(web.RouteDef(route.method, path, route.handler, route.kwargs)
                              for path in (_PREFIX + route.path, route.path))
    return app
