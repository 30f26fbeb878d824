"""Searching a registry by the old index protocol (``/v1/search``): Docker Hub and some others still speak it."""

from __future__ import annotations

from urllib.parse import urlencode

import msgspec

from barque.errors import InvalidArgument
from barque.image.client.auth import Credentials
from barque.image.client.errors import RegistryRefused, RegistryUnreachable
from barque.image.client.repository import MAX_CONFIG
from barque.image.client.transport import Transport
from barque.oci import go_json

_HUB = "index.docker.io"


class SearchResult(msgspec.Struct, frozen=True):
    """One repository; the names are those of the protocol and of docker's API."""

    star_count: int = 0
    is_official: bool = False
    name: str = ""
    is_automated: bool = False
    description: str = ""


class _Answer(msgspec.Struct):
    results: list[SearchResult] = []


class BadSearchTerm(InvalidArgument):
    text = "invalid repository name ({term}), must not contain a scheme"


async def search(transport: Transport, term: str, limit: int, credentials: Credentials | None) -> list[SearchResult]:
    """Repositories that fit ``term``, which may begin with a registry's host.

    Raises :class:`BadSearchTerm`, RegistryUnreachable, RegistryRefused (also where the registry has no search).
    """
    if "://" in term:
        raise BadSearchTerm(term=term)
    host, query = _split(term)
    failure = RegistryUnreachable(f"no endpoint for {host}")
    for endpoint in await transport.hosts.endpoints(host, push=True):
        url = f"{endpoint.url}/v1/search?{urlencode({'q': query, 'n': limit})}"
        authorization = credentials.basic if credentials is not None and credentials.has_password else None
        headers = {"Authorization": authorization} if authorization else {}
        try:
            async with transport.send(endpoint, "GET", url, headers) as response:
                if response.status != 200:
                    raise RegistryRefused(f"Unexpected status code {response.status}", "", response.status)
                return go_json.decode(await response.content.read(MAX_CONFIG), _Answer).results
        except RegistryUnreachable as error:
            failure = error
    raise failure


def _split(term: str) -> tuple[str, str]:
    first, slash, rest = term.partition("/")
    if slash and ("." in first or ":" in first or first == "localhost"):
        return (_HUB if first in ("docker.io", _HUB) else first), rest.removeprefix("library/")
    return _HUB, term.removeprefix("library/")
