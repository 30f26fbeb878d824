"""Proving credentials to a registry: what ``docker login`` asks the engine to do."""

from __future__ import annotations

from barque.errors import BarqueError, InvalidArgument, Unauthenticated
from barque.image.client.auth import Credentials, parse_challenges
from barque.image.client.errors import RegistryRefused, RegistryUnreachable
from barque.image.client.hosts import Endpoint
from barque.image.client.token import Tokens
from barque.image.client.transport import Transport
from barque.oci.reference import DEFAULT_DOMAIN


class LoginFailed(Unauthenticated):
    """The registry does not take the credentials."""


def domain_of(address: str) -> str:
    """The registry that docker's ``serveraddress`` means; the index of Docker Hub is docker.io."""
    host = address.partition("://")[2] or address
    host = host.partition("/")[0]
    return DEFAULT_DOMAIN if host in ("", "index.docker.io", "registry-1.docker.io", DEFAULT_DOMAIN) else host


async def login(transport: Transport, credentials: Credentials) -> str:
    """The identity token that the registry gave for the password, often empty; raises :class:`LoginFailed`."""
    domain = domain_of(credentials.serveraddress)
    failure: BarqueError = InvalidArgument(f"no endpoints found for {domain}")
    for endpoint in await transport.hosts.endpoints(domain, push=True):
        try:
            return await _login(transport, endpoint, credentials)
        except RegistryUnreachable as error:
            failure = error
    raise failure


async def _login(transport: Transport, endpoint: Endpoint, credentials: Credentials) -> str:
    url = f"{endpoint.url}/v2/"
    async with transport.send(endpoint, "GET", url, {}) as response:
        if response.status == 200:
            return ""
        challenges = parse_challenges(response.headers.getall("WWW-Authenticate", []))
    tokens = Tokens(transport, endpoint, credentials)
    authorization = credentials.basic
    for challenge in challenges:
        if challenge.scheme == "bearer":
            try:
                authorization = "Bearer " + await tokens.fetch(challenge, challenge.parameters.get("scope", ""),
                                                               offline=True)
            except RegistryRefused as error:
                raise LoginFailed(f'Get "{url}": {error.message}') from error
    async with transport.send(endpoint, "GET", url, {"Authorization": authorization}) as response:
        if response.status == 401:
            raise LoginFailed(f'Get "{url}": unauthorized: incorrect username or password')
        if response.status != 200:
            raise RegistryRefused(f"login attempt to {url} failed with status: {response.status} {response.reason}",
                                  "", response.status)
    return tokens.identity_token
