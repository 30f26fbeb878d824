"""The registry as an aiohttp application: routes, authorisation and the specification's error bodies."""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from aiohttp import hdrs, web

from barque.registry.auth import Access, Authenticator
from barque.registry.blobs import BlobRoutes
from barque.registry.errors import RegistryError
from barque.registry.lists import ListRoutes
from barque.registry.manifests import ManifestRoutes
from barque.registry.storage.base import Storage
from barque.registry.uploads import UploadRoutes

log = logging.getLogger("barque.registry")
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
_READING = (hdrs.METH_GET, hdrs.METH_HEAD)


def make_app(storage: Storage, *, authenticator: Authenticator | None = None,
             read_only: bool = False) -> web.Application:
    """Everybody may do everything without an ``authenticator``; ``read_only`` answers 405 to every change."""

    @web.middleware
    async def edge(request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            if read_only and request.method not in _READING:
                raise RegistryError("UNSUPPORTED")
            if authenticator is not None:
                await authenticator.check(request, _wanted(request))
            response = await handler(request)
        except RegistryError as error:
            response = error.response()
        except web.HTTPNotFound:
            response = RegistryError("NAME_INVALID", status=404).response()
        except web.HTTPMethodNotAllowed as error:
            response = RegistryError("UNSUPPORTED", headers={hdrs.ALLOW: error.headers[hdrs.ALLOW]}).response()
        except (ConnectionError, asyncio.CancelledError):
            raise  # the client is gone: there is nobody to answer
        except Exception:  # boundary of a request: a bug or a full disk must not take the connection down silently
            log.exception("%s %s failed", request.method, request.path)
            response = RegistryError("UNKNOWN").response()
        if not response.prepared:
            response.headers["Docker-Distribution-Api-Version"] = "registry/2.0"
        return response

    app = web.Application(middlewares=[edge])
    app.add_routes([web.get("/v2/", _version)])
    app.add_routes(ListRoutes(storage.manifests).routes())
    app.add_routes(ManifestRoutes(storage).routes())
    app.add_routes(BlobRoutes(storage.blobs).routes())
    app.add_routes(UploadRoutes(storage.blobs).routes())
    return app


async def _version(_request: web.Request) -> web.Response:
    return web.json_response({})


def _wanted(request: web.Request) -> tuple[Access, ...]:
    """The rights that a request needs, by docker's scope rules."""
    if request.path == "/v2/_catalog":
        return (Access("registry", "catalog", "*"),)
    name = request.match_info.get("name")
    if name is None:
        return ()
    if request.method in _READING:
        return (Access("repository", name, "pull"),)
    if request.method == hdrs.METH_DELETE:
        return (Access("repository", name, "delete"),)
    wanted: tuple[Access, ...] = (Access("repository", name, "pull"), Access("repository", name, "push"))
    source = request.query.get("from")
    if source and "mount" in request.query:
        wanted += (Access("repository", source, "pull"),)
    return wanted


@asynccontextmanager
async def serving(app: web.Application, host: str, port: int,
                  tls: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    """Serve ``app`` inside the context, which yields the port (``port`` 0: a free one)."""
    # Blobs travel as they are: a body with Content-Encoding must keep the bytes that its digest names.
    runner = web.AppRunner(app, access_log=None, auto_decompress=False, read_bufsize=1 << 19)
    await runner.setup()
    try:
        site = web.TCPSite(runner, host, port, ssl_context=tls, reuse_address=True)
        await site.start()
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


async def serve(storage: Storage, host: str, port: int, *, tls: ssl.SSLContext | None = None,
                authenticator: Authenticator | None = None, read_only: bool = False,
                ready: Callable[[int], None]) -> None:
    """Serve until cancelled; ``ready`` is called with the port once connections are accepted."""
    app = make_app(storage, authenticator=authenticator, read_only=read_only)
    async with serving(app, host, port, tls) as bound:
        ready(bound)
        await asyncio.Event().wait()
