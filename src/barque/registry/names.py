"""Repository names, tags and digests of a request path, checked: what passes is safe as a path of directories."""

from __future__ import annotations

import bisect
import re

from barque.oci.digest import Digest, InvalidDigest
from barque.oci.reference import valid_tag
from barque.registry.errors import RegistryError
from barque.registry.http.messages import Request

_COMPONENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_NAME = re.compile(rf"{_COMPONENT}(?:/{_COMPONENT})*\Z", re.ASCII)
_MAX_NAME = 255


def valid_name(name: str) -> bool:
    return len(name) <= _MAX_NAME and bool(_NAME.match(name))


def checked_name(name: str) -> str:
    """Raises NAME_INVALID for what the specification's grammar does not allow."""
    if not valid_name(name):
        raise RegistryError("NAME_INVALID", {"name": name})
    return name


def repository_of(request: Request) -> str:
    return checked_name(request.values["name"])


def digest_of(text: str) -> Digest:
    try:
        return Digest.parse(text)
    except InvalidDigest:
        raise RegistryError("DIGEST_INVALID", {"digest": text}) from None


def reference_of(request: Request) -> Digest | str:
    """The tag or digest of a manifest path; a tag is a plain ``str``."""
    text = request.values["reference"]
    if ":" in text:
        return digest_of(text)
    if not valid_tag(text):
        raise RegistryError("TAG_INVALID", {"tag": text})
    return text


def page(request: Request, names: list[str]) -> tuple[list[str], str | None]:
    """The part of the sorted ``names`` that ``?n=&last=`` ask for, and ``last`` for the next page if there is one."""
    first = bisect.bisect_right(names, request.query.get("last"))
    if "n" not in request.query:
        return names[first:], None
    text = request.query["n"]
    if not text.isascii() or not text.isdigit():
        raise RegistryError("PAGINATION_NUMBER_INVALID", {"n": text})
    chosen = names[first:first + int(text)]
    return chosen, chosen[-1] if chosen and first + len(chosen) < len(names) else None
