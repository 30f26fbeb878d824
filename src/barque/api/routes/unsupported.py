"""What docker's API has and this engine has not: said so, by name, instead of "page not found"."""

from __future__ import annotations

from aiohttp import web

from barque.api.errors import Handler
from barque.errors import NotFound, Unavailable, Unsupported

_MISSING = (
    ("POST", "/plugins/pull", "plugins"), ("POST", "/plugins/create", "plugins"),
    ("GET", "/plugins/privileges", "plugins"),
)
_PLUGIN_ACTIONS = ("enable", "disable", "upgrade", "push", "set")
_SWARM = ("swarm", "nodes", "services", "tasks", "secrets", "configs")
_NO_SWARM = ('This node is not a swarm manager. Use "docker swarm init" or "docker swarm join" to connect this node to '
             "swarm and try again.")


def routes() -> list[web.RouteDef]:
    async def no_swarm(_: web.Request) -> web.StreamResponse:
        raise Unavailable(_NO_SWARM)

    async def never_swarm(_: web.Request) -> web.StreamResponse:
        raise Unsupported("swarm mode is not supported by this engine")

    async def not_part(_: web.Request) -> web.StreamResponse:
        raise Unavailable("This node is not part of a swarm")

    async def no_plugin(request: web.Request) -> web.StreamResponse:
        raise NotFound(f'plugin "{request.match_info["name"]}" not found')

    return [*(web.RouteDef(method, path, _refusal(what), {}) for method, path, what in _MISSING),
            web.get("/plugins/{name:.+}/json", no_plugin), web.delete("/plugins/{name:.+}", no_plugin),
            *(web.post("/plugins/{name:.+}/" + action, no_plugin) for action in _PLUGIN_ACTIONS),
            web.post("/swarm/leave", not_part), web.post("/swarm/init", never_swarm),
            web.post("/swarm/join", never_swarm),
            *(web.route("*", f"/{name}{rest}", no_swarm) for name in _SWARM for rest in ("", "/{rest:.+}"))]


def _refusal(what: str) -> Handler:
    async def refuse(_: web.Request) -> web.StreamResponse:
        raise Unsupported(f"{what} is not supported by this engine")
    return refuse
