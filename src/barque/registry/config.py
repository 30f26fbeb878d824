"""The registry's configuration: one TOML file, checked whole before anything starts."""

from __future__ import annotations

import re
from typing import Annotated, Any

import msgspec

from barque.errors import InvalidArgument

_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
_SIZES = {"": 1, "k": 1000, "m": 1000 ** 2, "g": 1000 ** 3, "t": 1000 ** 4, "ki": 1 << 10, "mi": 1 << 20, "gi": 1 << 30,
          "ti": 1 << 40}


class InvalidConfig(InvalidArgument):
    text = "registry configuration: {reason}"


def seconds(text: str) -> float:
    """``90s``, ``15m``, ``6h``, ``30d``, ``2w``."""
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)([smhdw])", text, re.ASCII)
    if match is None:
        raise InvalidConfig(reason=f"invalid duration {text!r}: want a number and one of s, m, h, d, w")
    return float(match[1]) * _UNITS[match[2]]


def size(text: str) -> int:
    """Bytes of ``500MB``, ``10GiB``, ``1000``."""
    match = re.fullmatch(r"([0-9]+)\s*(?:([kmgt]i?)?b?)", text.lower(), re.ASCII)
    if match is None:
        raise InvalidConfig(reason=f"invalid size {text!r}: want bytes or a unit such as MB or GiB")
    return int(match[1]) * _SIZES[match[2] or ""]


class Section(msgspec.Struct, forbid_unknown_fields=True, kw_only=True, frozen=True):
    """A misspelt key is an error, never ignored."""


class S3(Section, frozen=True, kw_only=True):
    """An S3-compatible object store. ``redirect``: clients fetch blobs from it by themselves."""

    endpoint: str
    bucket: str
    access_key: str
    secret_key: str
    region: str = "us-east-1"
    prefix: str = ""
    redirect: bool = False


class Storage(Section, frozen=True, kw_only=True):
    root: str = ""
    s3: S3 | None = None


class Tls(Section, frozen=True, kw_only=True):
    cert: str
    key: str
    client_ca: str = ""


class Tokens(Section, frozen=True, kw_only=True):
    """``secret_file``: at least 32 bytes, the same for all front ends; ``jwks``: accept another issuer's tokens."""

    service: str = "registry"
    issuer: str = "barque"
    realm: str = ""
    secret_file: str = ""
    jwks: str = ""


class Auth(Section, frozen=True, kw_only=True):
    htpasswd: str = ""
    realm: str = "Registry"
    anonymous_pull: bool = False
    tokens: Tokens | None = None


class AccessRule(Section, frozen=True, kw_only=True):
    user: str
    repositories: str = "*"
    actions: list[str]


class Retention(Section, frozen=True, kw_only=True):
    repositories: str = "*"
    untagged: str = ""
    tags: str = "*"
    keep_tags: int | None = None
    tag_age: str = ""


class QuotaRule(Section, frozen=True, kw_only=True):
    repositories: str
    size: str


class Webhook(Section, frozen=True, kw_only=True):
    url: str
    actions: list[str] = []
    headers: dict[str, str] = {}


class Upstream(Section, frozen=True, kw_only=True):
    """Repositories below ``prefix`` are a cache of ``host``; ``default``: also those names that are not found here.

    ``size``: of the blobs that are kept (empty: all).
    """

    prefix: str
    host: str
    username: str = ""
    password: str = ""
    insecure: bool = False
    default: bool = False
    tag_life: str = "1m"
    size: str = ""


class Limits(Section, frozen=True, kw_only=True):
    requests_per_second: float
    burst: int = 100


class Collection(Section, frozen=True, kw_only=True):
    interval: str = ""
    grace: str = "1h"
    uploads: str = "7d"


class Config(Section, frozen=True, kw_only=True):
    """``workers``: processes that serve; 0: one for four processors."""

    listen: str = "127.0.0.1:5000"
    workers: Annotated[int, msgspec.Meta(ge=0, le=256)] = 0
    status_listen: str = ""
    read_only: bool = False
    sparse_manifests: bool = False
    web_page: bool = True
    access_log: bool = False
    storage: Storage = Storage()
    tls: Tls | None = None
    auth: Auth | None = None
    access: list[AccessRule] = []
    retention: list[Retention] = []
    quota: list[QuotaRule] = []
    webhook: list[Webhook] = []
    upstream: list[Upstream] = []
    limits: Limits | None = None
    gc: Collection = Collection()


def read_text(path: str) -> str:
    with open(path, encoding="utf-8") as file:
        return file.read()


def load(text: str) -> Config:
    """Raises InvalidConfig, which says where (``$.storage.s3``)."""
    import tomllib

    try:
        return msgspec.convert(tomllib.loads(text), Config)
    except (tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise InvalidConfig(reason=error) from None


def changed(section: Any, **values: Any) -> Any:
    """A copy of ``section`` with those ``values`` that are given (not ``None``)."""
    return msgspec.structs.replace(section, **{name: value for name, value in values.items() if value is not None})
