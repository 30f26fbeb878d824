"""``/metrics`` for Prometheus, on an address of its own: nothing else is to be had there."""

from __future__ import annotations

from collections.abc import Callable

from aiohttp import web


def build(text: Callable[[], str]) -> web.Application:
    async def metrics(_request: web.Request) -> web.Response:
        return web.Response(text=text(), headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"})

    application = web.Application()
    application.router.add_get("/metrics", metrics)
    return application
