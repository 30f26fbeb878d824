"""The registry as an aiohttp application: routes, authorisation and the specification's error bodies."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field

from aiohttp import hdrs, web
from aiohttp.typedefs import Middleware

from barque.errors import BarqueError
from barque.registry.auth import Access, Authenticator, PasswordFile
from barque.registry.blobs import BlobRoutes
from barque.registry.errors import RegistryError
from barque.registry.events import HAPPENED, Notifier, Receiver
from barque.registry.limits import RateLimiter
from barque.registry.lists import ListRoutes
from barque.registry.manifests import ManifestRoutes
from barque.registry.metrics import Metrics
from barque.registry.names import USER
from barque.registry.pages import page_routes
from barque.registry.quotas import Quota, Quotas
from barque.registry.storage.base import Storage, UploadGone
from barque.registry.tokens import TokenServer
from barque.registry.uploads import UploadRoutes

log = logging.getLogger("barque.registry")
access_log = logging.getLogger("barque.registry.access")
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
#: How clients that hang up are counted, as nginx does.
_CLIENT_GONE = 499
_READING = (hdrs.METH_GET, hdrs.METH_HEAD)


@dataclass(frozen=True)
class Settings:
    """Everybody may do everything without an ``authenticator``; ``users``: those whom it knows, if it has a file.

    ``read_only`` answers 405 to every change; ``sparse``: manifests may name what is not there; ``redirect``: blobs
    are fetched from the storage's own address where it has one.
    """

    authenticator: Authenticator | None = None
    users: PasswordFile | None = None
    token_server: TokenServer | None = None
    read_only: bool = False
    sparse: bool = False
    redirect: bool = False
    pages: bool = True
    log_requests: bool = False
    limiter: RateLimiter | None = None
    quotas: tuple[Quota, ...] = ()
    receivers: tuple[Receiver, ...] = ()
    metrics: Metrics = field(default_factory=Metrics)


class Edge:
    """What happens around every request; the one place where errors become answers."""

    def __init__(self, settings: Settings, quotas: Quotas, notifier: Notifier) -> None:
        self._settings = settings
        self._quotas = quotas
        self._notifier = notifier
        self._metrics = settings.metrics

    def middleware(self) -> Middleware:
        @web.middleware
        async def edge(request: web.Request, handler: Handler) -> web.StreamResponse:
            began = time.perf_counter()
            self._metrics.in_flight += 1
            status = _CLIENT_GONE
            try:
                response = await self._answer(request, handler)
                status = response.status
            finally:
                self._metrics.in_flight -= 1
                self._account(request, status, time.perf_counter() - began)
            if not response.prepared:
                response.headers["Docker-Distribution-Api-Version"] = "registry/2.0"
            return response

        return edge

    async def _answer(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        settings = self._settings
        try:
            # Before the password is looked at: guessing is what a limit is for.
            if settings.limiter is not None:
                settings.limiter.spend(request.remote or "")
            if request.path.startswith("/v2/") or request.path == "/v2":
                if settings.read_only and request.method not in _READING:
                    raise RegistryError("UNSUPPORTED")
                if settings.authenticator is not None:
                    await settings.authenticator.check(request, wanted(request))
            return await handler(request)
        except RegistryError as error:
            return error.response()
        except UploadGone:
            return RegistryError("BLOB_UPLOAD_UNKNOWN").response()
        except web.HTTPNotFound:
            return RegistryError("NAME_INVALID", status=404).response()
        except web.HTTPMethodNotAllowed as error:
            return RegistryError("UNSUPPORTED", headers={hdrs.ALLOW: error.headers[hdrs.ALLOW]}).response()
        except asyncio.CancelledError:
            raise
        except ConnectionError:
            return web.Response(status=_CLIENT_GONE)  # nobody reads it
        except (BarqueError, TimeoutError) as error:
            log.error("%s %s: %s", request.method, request.path, str(error) or "it took too long")
            return RegistryError("UNAVAILABLE", str(error) or None).response()
        except Exception:  # boundary of a request: a bug or a full disk must not take the connection down silently
            log.exception("%s %s failed", request.method, request.path)
            return RegistryError("UNKNOWN").response()

    def _account(self, request: web.Request, status: int, seconds: float) -> None:
        resource = request.match_info.route.resource
        route = resource.canonical if resource is not None else "none"
        self._metrics.observe(request.method, route, status, seconds)
        for happened in request.get(HAPPENED, ()) if status < 400 else ():
            self._metrics.add(f"{happened.action}_events")
            if happened.action == "delete":
                self._quotas.forget()
        if status < 400:
            self._notifier.tell(request, status)
        if self._settings.log_requests:
            access_log.info('%s %s "%s %s" %d %.4f "%s"', request.remote or "-", request.get(USER) or "-",
                            request.method, request.raw_path, status, seconds,
                            request.headers.get(hdrs.USER_AGENT, "-"))


def make_app(storage: Storage, settings: Settings | None = None, *, authenticator: Authenticator | None = None,
             read_only: bool = False) -> web.Application:
    """``authenticator`` and ``read_only`` stand for settings that have nothing else."""
    settings = settings or Settings(authenticator=authenticator, read_only=read_only)
    quotas = Quotas(storage, settings.quotas)
    notifier = Notifier(settings.receivers, settings.metrics)

    async def notifications(_app: web.Application) -> AsyncIterator[None]:
        notifier.start()
        yield
        await notifier.close()

    app = web.Application(middlewares=[Edge(settings, quotas, notifier).middleware()])
    app.cleanup_ctx.append(notifications)
    app.add_routes([web.get("/v2/", _version), web.get("/v2", _version)])
    app.add_routes(ListRoutes(storage.manifests).routes())
    app.add_routes(ManifestRoutes(storage, sparse=settings.sparse).routes())
    app.add_routes(BlobRoutes(storage.blobs, redirect=settings.redirect).routes())
    app.add_routes(UploadRoutes(storage.blobs, quotas, mount_any=settings.authenticator is None).routes())
    app.add_routes([_health(storage)])
    if settings.token_server is not None:
        app.add_routes(settings.token_server.routes())
    if settings.pages:
        app.add_routes(page_routes())
    return app


def make_status_app(storage: Storage, metrics: Metrics,
                    others: Callable[[], Awaitable[list[bytes]]] | None = None) -> web.Application:
    """Health and metrics alone, for an address that clients do not reach. ``others``: what other workers counted."""
    async def show(_request: web.Request) -> web.Response:
        total = metrics.merged(await others()) if others is not None else metrics
        return web.Response(text=total.text(), headers={hdrs.CONTENT_TYPE: "text/plain; version=0.0.4"})

    app = web.Application()
    app.add_routes([_health(storage), web.get("/metrics", show)])
    return app


def _health(storage: Storage) -> web.RouteDef:
    async def health(_request: web.Request) -> web.Response:
        try:
            await storage.probe()
        except (BarqueError, OSError) as error:
            return web.json_response({"status": "unavailable", "reason": str(error)}, status=503)
        return web.json_response({"status": "ok"})

    return web.get("/healthz", health)


async def _version(_request: web.Request) -> web.Response:
    return web.json_response({})


def wanted(request: web.Request) -> tuple[Access, ...]:
    """The rights that a request needs, by docker's scope rules."""
    if request.path == "/v2/_catalog":
        return (Access("registry", "catalog", "*"),)
    name = request.match_info.get("name")
    if name is None:
        return ()
    if request.method in _READING and not request.match_info.get("id"):
        return (Access("repository", name, "pull"),)
    if request.method == hdrs.METH_DELETE and not request.match_info.get("id"):
        return (Access("repository", name, "delete"),)
    needed: tuple[Access, ...] = (Access("repository", name, "pull"), Access("repository", name, "push"))
    source = request.query.get("from")
    if source and "mount" in request.query:
        needed += (Access("repository", source, "pull"),)
    return needed
