"""HTTP requests to registries: redirects, retries, proxies, TLS settings; errors in the words of Go's client."""

from __future__ import annotations

import asyncio
import random
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import aiohttp
from yarl import URL

from barque import __version__
from barque.image.client.errors import RegistryUnreachable, unreachable
from barque.image.client.hosts import Endpoint, HostConfig

_MAX_REDIRECTS = 10
_RETRIED = frozenset({429, 500, 502, 503, 504})
#: Error bodies are read up to here, in bytes.
ERROR_BODY = 64 << 10


@dataclass(frozen=True)
class RetryPolicy:
    """``attempts`` in all; the n-th pause is ``pause * 2**n`` seconds with jitter, or what Retry-After says.

    A server that asks for more than ``longest`` seconds is not waited for: its error is the answer.
    """

    attempts: int = 5
    pause: float = 0.25
    longest: float = 60.0

    def delay(self, attempt: int, retry_after: str | None) -> float | None:
        wanted = _seconds(retry_after)
        if wanted is None:
            return self.pause * float(2 ** attempt) * random.uniform(0.75, 1.25)
        return wanted if wanted <= self.longest else None


def _seconds(retry_after: str | None) -> float | None:
    if not retry_after:
        return None
    if retry_after.isascii() and retry_after.isdigit():
        return float(retry_after)
    try:
        return max(0.0, (parsedate_to_datetime(retry_after) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError):
        return None


class Transport:
    """One per engine: connections are shared by all pulls and pushes. Close with :meth:`close`."""

    def __init__(self, hosts: HostConfig, retry: RetryPolicy | None = None) -> None:
        self.hosts = hosts
        self.retry = retry or RetryPolicy()
        #: Which endpoint of a registry that may be insecure turned out to answer, by host.
        self.speaking: dict[str, Endpoint] = {}
        self._session: aiohttp.ClientSession | None = None
        self._tls: dict[tuple[str, bool], ssl.SSLContext] = {}

    def _opened(self) -> aiohttp.ClientSession:
        if self._session is None:
            # Environment proxies are not trusted: the daemon's configuration is the one place that names them.
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0), trust_env=False, auto_decompress=False, read_bufsize=1 << 19,
                cookie_jar=aiohttp.DummyCookieJar(), headers={"User-Agent": f"barque/{__version__}"},
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=15, sock_read=60))
        return self._session

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    def _tls_for(self, endpoint: Endpoint) -> ssl.SSLContext:
        key = (endpoint.host, endpoint.verify)
        if key not in self._tls:
            self._tls[key] = self.hosts.tls_context(endpoint)
        return self._tls[key]

    @asynccontextmanager
    async def send(self, endpoint: Endpoint, method: str, url: str, headers: dict[str, str],
                   body: Callable[[], Any] | None = None, *,
                   once: bool = False) -> AsyncIterator[aiohttp.ClientResponse]:
        """One request, followed through redirects, tried again on 429, 5xx and broken connections (not if ``once``).

        ``body`` makes the body anew for each try. Raises :class:`RegistryUnreachable`; error answers are returned.
        """
        response = await self._with_retries(endpoint, method, url, headers, body, 1 if once else self.retry.attempts)
        try:
            yield response
        finally:
            response.release()

    async def _with_retries(self, endpoint: Endpoint, method: str, url: str, headers: dict[str, str],
                            body: Callable[[], Any] | None, attempts: int) -> aiohttp.ClientResponse:
        for attempt in range(attempts):
            last = attempt + 1 == attempts
            try:
                response = await self._follow(endpoint, method, URL(url, encoded=True), headers, body)
            except (aiohttp.ClientConnectorError, ssl.SSLError) as error:
                # Nobody there, or no trust: trying again is no use. dockerd meets this at its ping of /v2/.
                raise unreachable("GET", f"{endpoint.url}/v2/", error) from error
            except (aiohttp.ClientError, OSError, TimeoutError) as error:
                if last:
                    raise unreachable(method, url, error) from error
                await asyncio.sleep(self.retry.delay(attempt, None) or 0)
                continue
            if response.status not in _RETRIED or last:
                return response
            delay = self.retry.delay(attempt, response.headers.get("Retry-After"))
            if delay is None:
                return response
            response.release()
            await asyncio.sleep(delay)
        raise AssertionError("a retry policy has at least one attempt")

    async def _follow(self, endpoint: Endpoint, method: str, url: URL, headers: dict[str, str],
                      body: Callable[[], Any] | None) -> aiohttp.ClientResponse:
        origin = url.origin()
        for _ in range(_MAX_REDIRECTS):
            response = await self._once(endpoint, method, url, headers, body)
            location = response.headers.get("Location")
            if response.status not in (301, 302, 303, 307, 308) or location is None or method not in ("GET", "HEAD"):
                return response
            response.release()
            target = url.join(URL(location, encoded=True))
            if target.scheme not in ("http", "https"):
                raise RegistryUnreachable(f'{method.capitalize()} "{url}": unsupported protocol scheme '
                                          f'"{target.scheme}"')
            if target.origin() != origin:
                # Another host, port or scheme must not learn what the registry was told.
                headers = {name: value for name, value in headers.items() if name.lower() != "authorization"}
                endpoint = Endpoint(str(target.origin()), target.authority,
                                    verify=not await self.hosts.is_insecure(target.authority))
            url = target
        raise RegistryUnreachable(f'{method.capitalize()} "{url}": stopped after {_MAX_REDIRECTS} redirects')

    async def _once(self, endpoint: Endpoint, method: str, url: URL, headers: dict[str, str],
                    body: Callable[[], Any] | None) -> aiohttp.ClientResponse:
        tls = self._tls_for(endpoint) if url.scheme == "https" else False
        request: Awaitable[aiohttp.ClientResponse] = self._opened().request(
            method, url, headers=headers, data=body() if body is not None else None, allow_redirects=False, ssl=tls,
            proxy=self.hosts.proxies.of(url.scheme, url.authority))
        return await request
