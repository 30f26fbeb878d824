"""Bearer tokens of docker's token flow (distribution: auth/token, auth/oauth)."""

from __future__ import annotations

import time
from collections.abc import Callable
from urllib.parse import urlencode, urlsplit

import msgspec

from barque.image.client.auth import Challenge, Credentials
from barque.image.client.errors import NotAuthorized, RegistryRefused, UnsafeRealm, from_answer
from barque.image.client.hosts import Endpoint
from barque.image.client.transport import ERROR_BODY, Transport
from barque.oci import go_json

CLIENT_ID = "docker"
#: What a token lives if its server does not say, in seconds (distribution: "minimum 60").
_DEFAULT_LIFE = 60
#: A token is renewed before its end, after this part of its life: a slow request must not see it die.
_USED_LIFE = 0.8
_MAX_BODY = 1 << 20


class _Answer(msgspec.Struct):
    token: str = ""
    access_token: str = ""
    refresh_token: str = ""
    expires_in: int = 0


class Tokens:
    """Tokens of one set of credentials at one registry, by scope."""

    def __init__(self, transport: Transport, registry: Endpoint, credentials: Credentials | None,
                 clock: Callable[[], float] = time.monotonic) -> None:
        self._transport = transport
        self._registry = registry
        self._credentials = credentials
        self._clock = clock
        self._known: dict[str, tuple[str, float]] = {}
        #: The identity token that the server gave in exchange for the password, if any.
        self.identity_token = ""

    def cached(self, scope: str) -> str | None:
        token, until = self._known.get(scope, ("", 0.0))
        return token if token and self._clock() < until else None

    def forget(self, scope: str) -> None:
        self._known.pop(scope, None)

    async def fetch(self, challenge: Challenge, scope: str, *, offline: bool = False) -> str:
        """A new token for ``scope`` (may be empty: login); raises NotAuthorized, RegistryRefused, UnsafeRealm."""
        realm = challenge.parameters.get("realm", "")
        endpoint = await self._realm_endpoint(realm)
        answer = await self._ask(endpoint, realm, challenge.parameters.get("service", ""), scope, offline)
        token = answer.token or answer.access_token
        if not token:
            raise NotAuthorized("authorization server did not include a token in the response")
        self.identity_token = answer.refresh_token or self.identity_token
        life = max(answer.expires_in, _DEFAULT_LIFE) if answer.expires_in <= 0 else answer.expires_in
        self._known[scope] = (token, self._clock() + life * _USED_LIFE)
        return token

    async def _realm_endpoint(self, realm: str) -> Endpoint:
        parts = urlsplit(realm)
        if parts.scheme not in ("http", "https") or not parts.netloc:
            raise NotAuthorized(f"invalid token server {realm!r}")
        insecure = await self._transport.hosts.is_insecure(parts.netloc)
        if parts.scheme == "http" and self._credentials is not None and not insecure \
                and not (self._registry.plain and parts.netloc == self._registry.host):
            raise UnsafeRealm(registry=self._registry.host, realm=realm)
        return Endpoint(f"{parts.scheme}://{parts.netloc}", parts.netloc, verify=not insecure)

    async def _ask(self, endpoint: Endpoint, realm: str, service: str, scope: str, offline: bool) -> _Answer:
        credentials = self._credentials
        if credentials is not None and credentials.identity_token:
            return await self._post(endpoint, realm, {
                "grant_type": "refresh_token", "refresh_token": credentials.identity_token, "service": service,
                "client_id": CLIENT_ID, "scope": scope})
        query = [("service", service)] if service else []
        query += [("scope", part) for part in scope.split()]
        headers = {}
        if credentials is not None and credentials.has_password:
            headers["Authorization"] = credentials.basic
            query.append(("account", credentials.username))
        if offline:
            query += [("offline_token", "true"), ("client_id", CLIENT_ID)]
        url = realm + ("&" if urlsplit(realm).query else "?") + urlencode(query) if query else realm
        async with self._transport.send(endpoint, "GET", url, headers) as response:
            return _decode("GET", url, response.status, await response.content.read(_MAX_BODY))

    async def _post(self, endpoint: Endpoint, realm: str, form: dict[str, str]) -> _Answer:
        body = urlencode({name: value for name, value in form.items() if value}).encode()
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        async with self._transport.send(endpoint, "POST", realm, headers, lambda: body) as response:
            return _decode("POST", realm, response.status, await response.content.read(_MAX_BODY))


def _decode(method: str, url: str, status: int, body: bytes) -> _Answer:
    if status in (401, 403):
        refused = from_answer(method, url, status, body[:ERROR_BODY])
        raise RegistryRefused(refused.message if refused.code else "unauthorized: incorrect username or password",
                              "UNAUTHORIZED", status)
    if status != 200:
        raise from_answer(method, url.partition("?")[0], status, body[:ERROR_BODY])
    try:
        return go_json.decode(body, _Answer)
    except go_json.InvalidJSON as error:
        raise NotAuthorized(f"unable to decode token response: {error.message}") from None
