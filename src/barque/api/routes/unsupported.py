"""What docker's API has and this engine has not: said so, by name, instead of "page not found"."""

from __future__ import annotations

from aiohttp import web

from barque.api.errors import Handler
from barque.errors import Unavailable, Unsupported

_MISSING = (
    ("POST", "/build", "building images"), ("POST", "/build/prune", "a build cache"),
    ("POST", "/build/cancel", "building images"), ("POST", "/session", "BuildKit"), ("POST", "/grpc", "BuildKit"),
    ("GET", "/containers/{id}/export", "exporting containers"),
    ("GET", "/containers/{id}/changes", "listing changed files"), ("GET", "/containers/{id}/archive", "copying files"),
    ("PUT", "/containers/{id}/archive", "copying files"),
    ("GET", "/containers/{id}/attach/ws", "attaching by web socket"),
    ("POST", "/plugins/pull", "plugins"),
    ("POST", "/plugins/create", "plugins"),
    ("GET", "/plugins/privileges", "plugins"), ("GET", "/plugins/{name:.+}/json", "plugins"),
)
_SWARM = ("swarm", "nodes", "services", "tasks", "secrets", "configs")
_NO_SWARM = ('This node is not a swarm manager. Use "docker swarm init" or "docker swarm join" to connect this node to '
             "swarm and try again.")


def routes() -> list[web.RouteDef]:
    async def no_swarm(_: web.Request) -> web.StreamResponse:
        raise Unavailable(_NO_SWARM)

    async def never_swarm(_: web.Request) -> web.StreamResponse:
        raise Unsupported("swarm mode is not supported by this engine")

    return [*(web.RouteDef(method, path, _refusal(what), {}) for method, path, what in _MISSING),
            *(web.get(f"/{name}", no_swarm) for name in _SWARM),
            web.post("/swarm/{action}", never_swarm), *(web.post(f"/{name}/create", no_swarm) for name in _SWARM[2:])]


def _refusal(what: str) -> Handler:
    async def refuse(_: web.Request) -> web.StreamResponse:
        raise Unsupported(f"{what} is not supported by this engine")
    return refuse
