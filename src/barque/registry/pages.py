"""The web page: one file that asks the registry's own API from the browser, with the rights of who looks at it."""

from __future__ import annotations

import os
import pkgutil
from functools import cache

from barque.registry.http.messages import Request, Response
from barque.registry.http.routes import Route


@cache
def _text() -> str:
    data = pkgutil.get_data("barque.registry", "browse.html")
    assert data is not None
    return data.decode()


def page_routes() -> list[Route]:
    async def page(_request: Request) -> Response:
        nonce = os.urandom(16).hex()
        policy = (f"default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; connect-src 'self'; "
                  "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'")
        return Response(200, {
            "Content-Type": "text/html; charset=utf-8", "Content-Security-Policy": policy, "Cache-Control": "no-store",
            "X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer",
        }, _text().replace("NONCE", nonce).encode())

    async def home(_request: Request) -> Response:
        return Response(302, {"Location": "/ui/"})

    return [Route("GET", "/ui/", page), Route("GET", "/", home), Route("GET", "/ui", home)]
