"""Challenges of ``WWW-Authenticate`` and the credentials that answer them (RFC 9110, docker's X-Registry-Auth)."""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass

import msgspec

from barque.errors import InvalidArgument
from barque.oci import go_json


class Credentials(msgspec.Struct, frozen=True):
    """At most one way is used: ``registry_token`` as it is, ``identity_token`` for a token server, or the password."""

    username: str = ""
    password: str = ""
    auth: str = ""
    email: str = ""
    serveraddress: str = ""
    identity_token: str = msgspec.field(default="", name="identitytoken")
    registry_token: str = msgspec.field(default="", name="registrytoken")

    def __repr__(self) -> str:
        return f"Credentials(username={self.username!r}, serveraddress={self.serveraddress!r})"

    @property
    def has_password(self) -> bool:
        return bool(self.username or self.password)

    @property
    def basic(self) -> str:
        """The value of an Authorization header."""
        return "Basic " + base64.b64encode(f"{self.username}:{self.password}".encode()).decode("ascii")


def decode_header(value: str | None) -> Credentials | None:
    """An ``X-Registry-Auth`` header: base64url of JSON, padding optional. Empty or ``{}``: none.

    Raises InvalidArgument. ``auth`` (base64 of user:password) is unpacked as in docker's configuration files.
    """
    if not value:
        return None
    try:
        plain = value.rstrip("=").replace("-", "+").replace("_", "/")
        data = base64.b64decode(plain + "=" * (-len(plain) % 4), validate=True)
    except (binascii.Error, ValueError):
        raise InvalidArgument("invalid X-Registry-Auth header: not base64") from None
    return decode_body(data)


def decode_body(data: bytes) -> Credentials | None:
    """The JSON of an AuthConfig; raises InvalidArgument. Some clients say ``null`` for none."""
    if data.strip() == b"null":
        return None
    found = go_json.decode(data or b"{}", Credentials)
    if found.auth and not found.has_password:
        try:
            username, _, password = base64.b64decode(found.auth).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError):
            raise InvalidArgument("invalid auth configuration: auth is not base64 of user:password") from None
        found = msgspec.structs.replace(found, username=username, password=password.rstrip("\0"), auth="")
    return found if found.has_password or found.identity_token or found.registry_token else None


@dataclass(frozen=True)
class Challenge:
    """``scheme`` is lower case; ``parameters`` have lower-case names."""

    scheme: str
    parameters: dict[str, str]


_TOKEN = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_PARAMETER = re.compile(rf'\s*({_TOKEN})\s*=\s*(?:"((?:[^"\\]|\\.)*)"|({_TOKEN}))\s*(?:,|$)')
_SCHEME = re.compile(rf"\s*,?\s*({_TOKEN})(?:\s+|$)")


def parse_challenges(headers: list[str]) -> list[Challenge]:
    """Every challenge of the given header lines; what makes no sense ends the line it stands in."""
    found = []
    for header in headers:
        position = 0
        while scheme := _SCHEME.match(header, position):
            position = scheme.end()
            parameters: dict[str, str] = {}
            while parameter := _PARAMETER.match(header, position):
                quoted, plain = parameter[2], parameter[3]
                parameters[parameter[1].lower()] = re.sub(r"\\(.)", r"\1", quoted) if quoted is not None else plain
                position = parameter.end()
            found.append(Challenge(scheme[1].lower(), parameters))
    return found
