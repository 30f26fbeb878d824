"""The registry as an application: routes, authorisation and the specification's error bodies."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from barque.errors import BarqueError
from barque.registry.blobs import BlobRoutes
from barque.registry.errors import RegistryError
from barque.registry.events import Notifier, Receiver
from barque.registry.http.head import BadRequest
from barque.registry.http.messages import Request, Response, json_response
from barque.registry.http.routes import NoRoute, Route, Router
from barque.registry.limits import RateLimiter
from barque.registry.lists import ListRoutes
from barque.registry.manifests import ManifestRoutes
from barque.registry.metrics import Metrics
from barque.registry.pages import page_routes
from barque.registry.quotas import Quota, Quotas
from barque.registry.storage.base import Storage, UploadGone
from barque.registry.uploads import UploadRoutes

if TYPE_CHECKING:
    from barque.registry.auth import Access, Authenticator, PasswordFile
    from barque.registry.tokens import TokenServer

log = logging.getLogger("barque.registry")
access_log = logging.getLogger("barque.registry.access")
#: How clients that hang up are counted, as nginx does.
_CLIENT_GONE = 499
_READING = ("GET", "HEAD")


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


class Registry:
    """What happens around every request; the one place where errors become answers."""

    def __init__(self, routes: list[Route], settings: Settings, quotas: Quotas, notifier: Notifier) -> None:
        self._router = Router(routes)
        self._settings = settings
        self._quotas = quotas
        self._notifier = notifier
        self._metrics = settings.metrics

    async def start(self) -> None:
        self._notifier.start()

    async def close(self) -> None:
        await self._notifier.close()

    async def __call__(self, request: Request) -> Response:
        began = time.perf_counter()
        self._metrics.in_flight += 1
        status = _CLIENT_GONE
        try:
            response = await self._answer(request)
            status = response.status
        finally:
            self._metrics.in_flight -= 1
            self._account(request, status, time.perf_counter() - began)
        response.headers.append(("Docker-Distribution-Api-Version", "registry/2.0"))
        return response

    async def _answer(self, request: Request) -> Response:
        try:
            return await self._handle(request)
        except RegistryError as error:
            return error.response()
        except UploadGone:
            return RegistryError("BLOB_UPLOAD_UNKNOWN").response()
        except NoRoute as error:
            if error.allowed:
                return RegistryError("UNSUPPORTED", headers={"Allow": ",".join(error.allowed)}).response()
            return RegistryError("NAME_INVALID", status=404).response()
        except BadRequest as error:
            return RegistryError("SIZE_INVALID", str(error), status=error.status).response()
        except asyncio.CancelledError:
            raise
        except ConnectionError:
            return Response(_CLIENT_GONE)  # nobody reads it
        except (BarqueError, TimeoutError) as error:
            log.error("%s %s: %s", request.method, request.path, str(error) or "it took too long")
            return RegistryError("UNAVAILABLE", str(error) or None).response()
        except Exception:  # boundary of a request: a bug or a full disk must not take the connection down silently
            log.exception("%s %s failed", request.method, request.path)
            return RegistryError("UNKNOWN").response()

    async def _handle(self, request: Request) -> Response:
        settings = self._settings
        # Before the password is looked at: guessing is what a limit is for.
        if settings.limiter is not None:
            settings.limiter.spend(request.remote)
        handler = self._router.find(request)
        if request.path.startswith("/v2/") or request.path == "/v2":
            if settings.read_only and request.method not in _READING:
                raise RegistryError("UNSUPPORTED")
            if settings.authenticator is not None:
                await settings.authenticator.check(request, wanted(request))
        return await handler(request)

    def _account(self, request: Request, status: int, seconds: float) -> None:
        self._metrics.observe(request.method, request.route, status, seconds)
        for happened in request.happened if status < 400 else ():
            self._metrics.add(f"{happened.action}_events")
            if happened.action == "delete":
                self._quotas.forget()
        if status < 400:
            self._notifier.tell(request, status)
        if self._settings.log_requests:
            access_log.info('%s %s "%s %s" %d %.4f "%s"', request.remote or "-", request.user or "-",
                            request.method, request.target, status, seconds, request.headers.get("user-agent", "-"))


class PlainApp:
    """Routes with nothing around them."""

    def __init__(self, routes: list[Route]) -> None:
        self._router = Router(routes)

    async def start(self) -> None:
        """Nothing to do."""

    async def close(self) -> None:
        """Nothing to do."""

    async def __call__(self, request: Request) -> Response:
        try:
            return await self._router.find(request)(request)
        except NoRoute as error:
            return Response(405 if error.allowed else 404)


def make_app(storage: Storage, settings: Settings | None = None, *, authenticator: Authenticator | None = None,
             read_only: bool = False) -> Registry:
    """``authenticator`` and ``read_only`` stand for settings that have nothing else."""
    settings = settings or Settings(authenticator=authenticator, read_only=read_only)
    quotas = Quotas(storage, settings.quotas)
    routes = [
        *ManifestRoutes(storage, sparse=settings.sparse).routes(),
        *BlobRoutes(storage.blobs, redirect=settings.redirect).routes(),
        *UploadRoutes(storage.blobs, quotas, mount_any=settings.authenticator is None).routes(),
        *ListRoutes(storage.manifests).routes(),
        Route("GET", "/v2/", _version), Route("GET", "/v2", _version), _health(storage),
        *(settings.token_server.routes() if settings.token_server is not None else ()),
        *(page_routes() if settings.pages else ())]
    return Registry(routes, settings, quotas, Notifier(settings.receivers, settings.metrics))


def make_status_app(storage: Storage, metrics: Metrics,
                    others: Callable[[], Awaitable[list[bytes]]] | None = None) -> PlainApp:
    """Health and metrics alone, for an address that clients do not reach. ``others``: what other workers counted."""
    async def show(_request: Request) -> Response:
        total = metrics.merged(await others()) if others is not None else metrics
        return Response(200, {"Content-Type": "text/plain; version=0.0.4"}, total.text().encode())

    return PlainApp([_health(storage), Route("GET", "/metrics", show)])


def _health(storage: Storage) -> Route:
    async def health(_request: Request) -> Response:
        try:
            await storage.probe()
        except (BarqueError, OSError) as error:
            return json_response({"status": "unavailable", "reason": str(error)}, 503)
        return json_response({"status": "ok"})

    return Route("GET", "/healthz", health)


async def _version(_request: Request) -> Response:
    return json_response({})


def wanted(request: Request) -> tuple[Access, ...]:
    """The rights that a request needs, by docker's scope rules."""
    from barque.registry.auth import Access

    if request.path == "/v2/_catalog":
        return (Access("registry", "catalog", "*"),)
    name = request.values.get("name")
    if name is None:
        return ()
    if request.method in _READING and not request.values.get("id"):
        return (Access("repository", name, "pull"),)
    if request.method == "DELETE" and not request.values.get("id"):
        return (Access("repository", name, "delete"),)
    needed: tuple[Access, ...] = (Access("repository", name, "pull"), Access("repository", name, "push"))
    source = request.query.get("from")
    if source and "mount" in request.query:
        needed += (Access("repository", source, "pull"),)
    return needed
