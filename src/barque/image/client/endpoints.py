"""Trying the endpoints of a registry in order: mirrors, the registry itself, plain HTTP where that is allowed."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import TypeVar

from barque.errors import BarqueError
from barque.image.client.auth import Credentials
from barque.image.client.errors import RegistryUnreachable
from barque.image.client.hosts import Endpoint
from barque.image.client.repository import Repository
from barque.image.client.transport import Transport
from barque.oci.reference import Reference

log = logging.getLogger("barque.image.client")
T = TypeVar("T")


class Registry:
    """Opens repositories at the endpoints of a registry."""

    def __init__(self, transport: Transport) -> None:
        self.transport = transport

    async def attempt(self, ref: Reference, credentials: Credentials | None, actions: str,
                      use: Callable[[Repository], Awaitable[T]]) -> T:
        """The first success of ``use``: over the mirrors in order, whatever goes wrong there, then the registry."""
        endpoints = await self.transport.hosts.endpoints(ref.domain, push="push" in actions)
        mirrors = [endpoint for endpoint in endpoints if endpoint.mirror]
        for endpoint in mirrors:
            try:
                return await use(Repository(self.transport, endpoint, endpoint.path(ref.path), credentials, actions))
            except BarqueError as error:
                log.info("mirror %s failed, next endpoint: %s", endpoint.url, error)
        endpoint = await self._speaking(endpoints[len(mirrors):])
        try:
            return await use(Repository(self.transport, endpoint, ref.path, credentials, actions))
        except RegistryUnreachable:
            self.transport.speaking.pop(endpoint.host, None)  # it may come back with the other scheme
            raise

    async def _speaking(self, endpoints: list[Endpoint]) -> Endpoint:
        """The endpoint of one registry that answers: HTTPS before plain HTTP. Raises RegistryUnreachable."""
        if len(endpoints) == 1:
            return endpoints[0]
        host = endpoints[0].host
        for endpoint in endpoints if host not in self.transport.speaking else []:
            last = endpoint is endpoints[-1]
            try:
                async with self.transport.send(endpoint, "GET", f"{endpoint.url}/v2/", {}, once=not last):
                    self.transport.speaking[host] = endpoint
                    break
            except RegistryUnreachable as error:
                if last:
                    raise
                log.info("next endpoint after %s", error)
        return self.transport.speaking[host]
