"""Who may do what: nobody asked, htpasswd over HTTP basic, or bearer tokens that a hook verifies."""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import hmac
import secrets
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Protocol

from barque.errors import InvalidArgument
from barque.registry.errors import RegistryError
from barque.registry.http.messages import Request
from barque.sys import crypt


class InvalidPasswordFile(InvalidArgument):
    text = "password file line {line}: {reason}"


@dataclass(frozen=True, slots=True)
class Access:
    """One right, spelled as in a token scope: ``repository:NAME:pull`` or ``registry:catalog:*``."""

    type: str
    name: str
    action: str

    def __str__(self) -> str:
        return f"{self.type}:{self.name}:{self.action}"


@dataclass(frozen=True, slots=True)
class Grant:
    """``user``: a pattern, ``anonymous`` for everybody; ``repositories``: a pattern whose ``*`` spans slashes."""

    user: str
    repositories: str
    actions: frozenset[str]


class Permissions:
    """What users may do: all, if there are no grants; else what some grant says. The catalog shows every name, so it
    needs pull on ``*``."""

    def __init__(self, grants: tuple[Grant, ...] = (), *, anonymous_pull: bool = False) -> None:
        anonymous = (Grant("anonymous", "*", frozenset({"pull"})),) if anonymous_pull else ()
        self._grants = (*(grants or (Grant("?*", "*", frozenset({"*"})),)), *anonymous)

    def allow(self, user: str, access: Access) -> bool:
        """``user`` is empty for anonymous requests."""
        action = "pull" if access.type == "registry" else access.action
        for grant in self._grants:
            if grant.user == "anonymous" or (user and fnmatchcase(user, grant.user)):
                named = grant.repositories == "*" if access.type == "registry" \
                    else fnmatchcase(access.name, grant.repositories)
                if named and ("*" in grant.actions or action in grant.actions):
                    return True
        return False


class Authenticator(Protocol):
    async def check(self, request: Request, wanted: tuple[Access, ...]) -> None:
        """Return if the request may have all of ``wanted`` (none: any valid identity will do); ``request.user`` is
        its name then.

        Else raise UNAUTHORIZED with a WWW-Authenticate challenge, or DENIED.
        """


def _credentials(request: Request, scheme: str) -> str | None:
    found, _, value = request.headers.get("authorization", "").partition(" ")
    return value.strip() if found.lower() == scheme else None


def _users_of(text: str) -> dict[str, str]:
    users = {}
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        user, colon, hashed = line.strip().partition(":")
        if not colon or not user:
            raise InvalidPasswordFile(line=number, reason="want user:hash")
        if not hashed.startswith(("$2", "$5$", "$6$", "$y$")):
            raise InvalidPasswordFile(line=number, reason="weak or unknown hash, use bcrypt (htpasswd -B)")
        users[user] = hashed
    return users


class PasswordFile:
    """An Apache htpasswd file with crypt(3) hashes (bcrypt: ``htpasswd -B``)."""

    def __init__(self, text: str, realm: str = "Registry", permissions: Permissions | None = None) -> None:
        self._permissions = permissions or Permissions()
        self._users = _users_of(text)
        self._realm = realm
        # A bcrypt check takes some 50 ms on purpose; a password that passed once is known by its keyed hash.
        self._key = secrets.token_bytes(32)
        self._passed: dict[str, bytes] = {}

    def replace(self, text: str) -> None:
        """Take the users of ``text`` instead; raises InvalidPasswordFile and keeps the old ones."""
        self._users = _users_of(text)
        self._passed.clear()

    def stamp(self, user: str) -> str:
        """What changes with the user's password; empty if there is no such user."""
        hashed = self._users.get(user)
        return hashlib.sha256(hashed.encode()).hexdigest() if hashed else ""

    async def check(self, request: Request, wanted: tuple[Access, ...]) -> None:
        user = request.user = await self.user_of(request)
        if not user and not wanted:
            raise self.refused(wanted)  # the ping of a login wants to be told whether the name is known
        if not all(self._permissions.allow(user, access) for access in wanted):
            if user:
                raise RegistryError("DENIED", [_detail(access) for access in wanted])
            raise self.refused(wanted)

    def refused(self, wanted: tuple[Access, ...]) -> RegistryError:
        return RegistryError("UNAUTHORIZED", [_detail(access) for access in wanted] or None,
                             headers={"WWW-Authenticate": f'Basic realm="{self._realm}"'})

    async def user_of(self, request: Request) -> str:
        """The name that the request proves, empty if it gives none; raises UNAUTHORIZED if it proves it wrongly."""
        value = _credentials(request, "basic")
        if value is None:
            return ""
        try:
            user, _, password = base64.b64decode(value, validate=True).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError):
            raise self.refused(()) from None
        if not user and not password:
            return ""  # containers/image sends an empty name where it has none
        if not await self.matches(user, password):
            raise self.refused(())
        return user

    async def matches(self, user: str, password: str) -> bool:
        # An unknown user costs as much as a wrong password: names cannot be told by the time taken.
        hashed = self._users.get(user) or next(iter(self._users.values()), None)
        if hashed is None or "\0" in password:
            return False
        fingerprint = hmac.digest(self._key, password.encode(), hashlib.sha256)
        if user in self._users and hmac.compare_digest(self._passed.get(user, b""), fingerprint):
            return True
        if not await asyncio.to_thread(crypt.verify, password, hashed) or user not in self._users:
            return False
        self._passed[user] = fingerprint
        return True


def _detail(access: Access) -> dict[str, str]:
    return {"Type": access.type, "Name": access.name, "Action": access.action}


class TokenAuthority:
    """Bearer tokens of the docker token flow; ``verify`` says what a token allows, ``None`` if it is no good.

    ``realm``: the URL of the token server; empty: ``/token`` of the address that the client asked.
    """

    def __init__(self, realm: str, service: str, verify: Callable[[str], Iterable[Access] | None]) -> None:
        self._realm = realm
        self._service = service
        self._verify = verify

    async def check(self, request: Request, wanted: tuple[Access, ...]) -> None:
        token = _credentials(request, "bearer")
        granted = None if token is None else self._verify(token)
        if granted is not None:
            held = set(granted)
            request.user = getattr(granted, "user", "")
            if all(access in held for access in wanted):
                return
        raise RegistryError("UNAUTHORIZED", [_detail(access) for access in wanted] or None,
                            headers={"WWW-Authenticate": self._challenge(request, wanted, token, granted is None)})

    def _challenge(self, request: Request, wanted: tuple[Access, ...], token: str | None, invalid: bool) -> str:
        realm = self._realm or f"{request.scheme}://{request.host}/token"
        text = f'Bearer realm="{realm}",service="{self._service}"'
        if wanted:
            text += f',scope="{_scope(wanted)}"'
        if token is not None:
            text += ',error="invalid_token"' if invalid else ',error="insufficient_scope"'
        return text


def _scope(wanted: tuple[Access, ...]) -> str:
    """Rights on one resource are joined: ``repository:NAME:pull,push``."""
    joined: dict[tuple[str, str], list[str]] = {}
    for access in wanted:
        joined.setdefault((access.type, access.name), []).append(access.action)
    return " ".join(f"{kind}:{name}:{','.join(actions)}" for (kind, name), actions in joined.items())
