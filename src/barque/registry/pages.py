"""The web page: one file that asks the registry's own API from the browser, with the rights of who looks at it."""

from __future__ import annotations

import secrets
from importlib import resources

from aiohttp import hdrs, web


def page_routes() -> list[web.RouteDef]:
    text = resources.files("barque.registry").joinpath("browse.html").read_text(encoding="utf-8")

    async def page(_request: web.Request) -> web.Response:
        nonce = secrets.token_urlsafe(16)
        policy = (f"default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; connect-src 'self'; "
                  "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'")
        return web.Response(text=text.replace("NONCE", nonce), content_type="text/html", charset="utf-8", headers={
            "Content-Security-Policy": policy, hdrs.CACHE_CONTROL: "no-store", "X-Content-Type-Options": "nosniff",
            "Referrer-Policy": "no-referrer"})

    async def home(_request: web.Request) -> web.Response:
        return web.Response(status=302, headers={hdrs.LOCATION: "/ui/"})

    return [web.get("/ui/", page), web.get("/", home), web.get("/ui", home)]
