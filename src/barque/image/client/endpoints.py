"""Trying the endpoints of a registry in order: mirrors, the registry itself, plain HTTP where that is allowed."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import TypeVar

from barque.errors import BarqueError
from barque.image.client.auth import Credentials
from barque.image.client.errors import RegistryRefused, RegistryUnreachable
from barque.image.client.hosts import Endpoint
from barque.image.client.repository import Repository
from barque.image.client.transport import Transport
from barque.oci.reference import Reference

log = logging.getLogger("barque.image.client")
T = TypeVar("T")


class Registry:
    """Opens repositories; remembers which scheme an insecure registry turned out to speak."""

    def __init__(self, transport: Transport) -> None:
        self.transport = transport
        self._plain: set[str] = set()

    async def attempt(self, ref: Reference, credentials: Credentials | None, actions: str,
                      use: Callable[[Repository], Awaitable[T]]) -> T:
        """The first success of ``use`` over the endpoints.

        After a mirror any failure leads on to the next endpoint; after the registry itself only the lack of an
        answer does, so that plain HTTP is tried where HTTPS did not work.
        """
        endpoints = await self.transport.hosts.endpoints(ref.domain, push="push" in actions)
        failure: BarqueError | None = None
        for endpoint in self._ordered(endpoints):
            try:
                result = await use(Repository(self.transport, endpoint, ref.path, credentials, actions))
            except RegistryUnreachable as error:
                log.info("next endpoint after %s", error)
                failure = error
            except BarqueError as error:
                if isinstance(error, RegistryRefused):
                    self._remember(endpoint)
                if not endpoint.mirror:
                    raise
                log.info("mirror %s failed, next endpoint: %s", endpoint.url, error)
                failure = error
            else:
                self._remember(endpoint)
                return result
        assert failure is not None, "a registry has at least one endpoint"
        raise failure

    def _ordered(self, endpoints: list[Endpoint]) -> list[Endpoint]:
        """HTTPS first, unless this process has seen the host answer plain HTTP to it."""
        if len(endpoints) == 2 and endpoints[1].plain and endpoints[1].host in self._plain:
            return [endpoints[1], endpoints[0]]
        return endpoints

    def _remember(self, endpoint: Endpoint) -> None:
        if endpoint.plain and not endpoint.mirror:
            self._plain.add(endpoint.host)
