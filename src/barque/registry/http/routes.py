"""Which handler a path leads to. A pattern's ``{name}`` spans slashes, its other names stand for one part each."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass

from barque.registry.http.messages import Request, Response

Handler = Callable[[Request], Awaitable[Response]]


@dataclass(frozen=True, slots=True)
class Route:
    """``method`` GET also answers HEAD, but for those that say that they do not."""

    method: str
    pattern: str
    handler: Handler
    head: bool = True


class NoRoute(Exception):
    """``allowed``: the methods that the path knows; empty if it is none of ours."""

    def __init__(self, allowed: list[str]) -> None:
        super().__init__("no such path" if not allowed else "no such method")
        self.allowed = allowed


def _compiled(pattern: str) -> re.Pattern[str]:
    parts = re.split(r"\{(\w+)\}", pattern)
    names = [f"(?P<{name}>{'.+' if name == 'name' else '[^/]+'})" for name in parts[1::2]]
    return re.compile("".join(text for pair in zip(map(re.escape, parts[::2]), [*names, ""], strict=True)
                              for text in pair) + r"\Z", re.DOTALL)


class Router:
    def __init__(self, routes: Iterable[Route]) -> None:
        self._known: dict[str, tuple[re.Pattern[str], dict[str, Handler]]] = {}
        for route in routes:
            _, methods = self._known.setdefault(route.pattern, (_compiled(route.pattern), {}))
            methods.setdefault(route.method, route.handler)
            if route.method == "GET" and route.head:
                methods.setdefault("HEAD", route.handler)

    def find(self, request: Request) -> Handler:
        """The handler; ``request`` knows its route then. Where there is none, one that raises :class:`NoRoute`."""
        allowed: set[str] = set()
        for pattern, (compiled, methods) in self._known.items():
            match = compiled.match(request.path)
            if match is None:
                continue
            request.route, request.values = pattern, match.groupdict()
            handler = methods.get(request.method)
            if handler is not None:
                return handler
            allowed.update(methods)

        async def refuse(_request: Request) -> Response:
            raise NoRoute(sorted(allowed))

        return refuse
