"""Tokens with scopes: the built-in token server, and what a token of ours or of another issuer allows.

The flow and the claims are those of docker's registry: a JWT whose ``access`` lists ``{type, name, actions}``.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import msgspec

from barque.registry.auth import Access, PasswordFile, Permissions
from barque.registry.errors import RegistryError
from barque.registry.http.body import TooLarge
from barque.registry.http.messages import Query, Request, Response, json_response
from barque.registry.http.routes import Route
from barque.registry.jwt import InvalidToken, Key, Secret, verified_claims

#: How long a token of ours is good, in seconds; one that others are asked for with, likewise.
LIFE = 300
REFRESH_LIFE = 90 * 86400
_SCOPES = 100
#: The largest form, in bytes.
_FORM = 64 << 10


class _Granted(msgspec.Struct):
    type: str
    name: str
    actions: list[str] = []


class _Claims(msgspec.Struct):
    exp: float
    iss: str = ""
    sub: str = ""
    nbf: float = 0
    aud: str | list[str] = ""
    access: list[_Granted] | None = None


@dataclass(frozen=True)
class Holder:
    """Whom a valid token names, and what it allows; iterates over the latter."""

    user: str
    access: frozenset[Access]

    def __iter__(self) -> Iterator[Access]:
        return iter(self.access)


class TokenCheck:
    """Valid: signed by one of ``keys``, from ``issuer`` and for ``service`` (empty: any), within its time."""

    def __init__(self, keys: dict[str, Key], issuer: str, service: str,
                 clock: Callable[[], float] = time.time) -> None:
        self._keys = keys
        self._issuer = issuer
        self._service = service
        self._clock = clock

    def __call__(self, token: str) -> Holder | None:
        try:
            claims = msgspec.convert(verified_claims(token, self._keys), _Claims)
        except (InvalidToken, msgspec.ValidationError):
            return None
        audience = [claims.aud] if isinstance(claims.aud, str) else claims.aud
        if not claims.nbf - 60 <= self._clock() < claims.exp:
            return None
        if (self._issuer and claims.iss != self._issuer) or (self._service and self._service not in audience):
            return None
        return Holder(claims.sub, frozenset(
            access for granted in claims.access or () for action in granted.actions
            for access in _spread(Access(granted.type, granted.name, action))))


def _spread(access: Access) -> tuple[Access, ...]:
    if access.type == "repository" and access.action == "*":
        return tuple(Access(access.type, access.name, action) for action in ("pull", "push", "delete"))
    return (access,)


def parse_scope(text: str) -> list[Access]:
    """``repository:NAME:pull,push`` several times, separated by spaces. NAME may have a port's colon in it."""
    found = []
    for part in text.split():
        kind, _, rest = part.partition(":")
        name, colon, actions = rest.rpartition(":")
        if not colon:
            raise RegistryError("UNSUPPORTED", {"scope": part}, status=400)
        found += [access for action in actions.split(",") if action
                  for access in _spread(Access(kind.partition("(")[0], name, action))]
    if len(found) > _SCOPES:
        raise RegistryError("UNSUPPORTED", "too many scopes", status=400)
    return found


async def _form(request: Request) -> Query:
    try:
        return Query((await request.body.read(_FORM)).decode("latin-1"))
    except TooLarge:
        raise RegistryError("UNSUPPORTED", f"a form of more than {_FORM} bytes", status=413) from None


class _Refresh(msgspec.Struct):
    """``stamp``: of the password at the time; a new password is the end of the token."""

    sub: str
    aud: str
    exp: float
    stamp: str


class TokenServer:
    """``GET /token`` (basic authorisation or none) and ``POST /token`` (a form with a password or a refresh token).

    Who asks for ``offline_token=true``, or ``access_type=offline``, also gets a refresh token, which stands for the
    password until that is changed, and at most :data:`REFRESH_LIFE`.
    """

    def __init__(self, users: PasswordFile, permissions: Permissions, secret: Secret, issuer: str,
                 service: str) -> None:
        self._users = users
        self._permissions = permissions
        self._secret = secret
        self._issuer = issuer
        self._service = service
        # Another audience than that of access tokens: neither can be taken for the other.
        self._refresh_audience = f"{issuer}/token"

    def routes(self) -> list[Route]:
        return [Route("GET", "/token", self.get, head=False), Route("POST", "/token", self.post)]

    async def get(self, request: Request) -> Response:
        user = await self._users.user_of(request)
        answer = self._issue(user, request.query.get("service"), " ".join(request.query.getall("scope")))
        if user and request.query.get("offline_token") == "true":
            answer["refresh_token"] = self._refresh_token(user)
        return json_response(answer)

    async def post(self, request: Request) -> Response:
        form = await _form(request)
        kind = form.get("grant_type")
        if kind not in ("password", "refresh_token"):
            raise RegistryError("UNSUPPORTED", "grant_type must be password or refresh_token", status=400)
        if kind == "password":
            user = form.get("username")
            if not await self._users.matches(user, form.get("password")):
                raise self._users.refused(())
        else:
            user = self._refreshed(form.get("refresh_token"))
        answer = self._issue(user, form.get("service"), form.get("scope"))
        if kind == "refresh_token":
            answer["refresh_token"] = form["refresh_token"]
        elif form.get("access_type") == "offline":
            answer["refresh_token"] = self._refresh_token(user)
        return json_response(answer)

    def _refresh_token(self, user: str) -> str:
        return self._secret.token(msgspec.to_builtins(
            _Refresh(user, self._refresh_audience, time.time() + REFRESH_LIFE, self._users.stamp(user))))

    def _refreshed(self, token: str) -> str:
        """Whom the refresh token names; raises UNAUTHORIZED if it is no good."""
        try:
            claims = msgspec.convert(verified_claims(token, {"": self._secret}), _Refresh)
        except (InvalidToken, msgspec.ValidationError):
            raise self._users.refused(()) from None
        stamp = self._users.stamp(claims.sub)
        if claims.aud != self._refresh_audience or claims.exp < time.time() or not stamp or claims.stamp != stamp:
            raise self._users.refused(())
        return claims.sub

    def _issue(self, user: str, service: str, scope: str) -> dict[str, Any]:
        if service and service != self._service:
            raise RegistryError("UNSUPPORTED", {"service": service}, status=400)
        granted: dict[tuple[str, str], list[str]] = {}
        for access in parse_scope(scope):
            if self._permissions.allow(user, access):
                granted.setdefault((access.type, access.name), []).append(access.action)
        now = int(time.time())
        token = self._secret.token({
            "iss": self._issuer, "sub": user, "aud": self._service, "iat": now, "nbf": now, "exp": now + LIFE,
            "jti": secrets.token_hex(8),
            "access": [_Granted(kind, name, actions) for (kind, name), actions in granted.items()]})
        return {"token": token, "access_token": token, "expires_in": LIFE, "scope": scope,
                "issued_at": datetime.fromtimestamp(now, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")}
