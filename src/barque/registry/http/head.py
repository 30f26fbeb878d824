"""The head of a request (RFC 9112), read strictly: what two servers could understand differently is refused."""

from __future__ import annotations

import re
from dataclasses import dataclass

#: In bytes; tokens make heads of some kilobytes.
MAX_HEAD = 64 << 10
_MAX_FIELDS = 100
_MAX_TARGET = 8 << 10
_LINE = re.compile(r"([!#$%&'*+.^_`|~0-9A-Za-z-]{1,32}) ([\x21-\x7e]+) HTTP/([0-9])\.([0-9])\Z")
_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+\Z")
_BARE = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
_HOST = re.compile(r"[A-Za-z0-9._:\[\]%~-]*\Z")
_ORIGIN = re.compile(r"https?://[^/?#]+", re.IGNORECASE)
#: Fields that say one thing; all others may come several times and are joined (RFC 9110, 5.3).
_SINGLE = frozenset({"authorization", "content-length", "content-range", "content-type", "host", "range",
                     "transfer-encoding"})


class BadRequest(Exception):
    """What came is no request; ``status`` of the answer, after which the connection ends."""

    def __init__(self, reason: str, status: int = 400) -> None:
        super().__init__(reason)
        self.status = status


@dataclass(slots=True)
class Head:
    """``target``: path and query as they came; ``headers``: by lower-case name; ``length`` of the body in bytes, with
    ``None`` for one in chunks."""

    method: str
    target: str
    headers: dict[str, str]
    length: int | None
    keep_alive: bool

    @property
    def waits_for_consent(self) -> bool:
        return self.headers.get("expect", "").lower() == "100-continue"


def parse(data: bytes) -> Head:
    """``data``: all lines with the empty one at the end. Raises :class:`BadRequest`."""
    first, *lines = data[:-4].decode("latin-1").split("\r\n")
    match = _LINE.match(first)
    if match is None:
        raise BadRequest("malformed request line")
    method, target, major, minor = match.groups()
    if major != "1":
        raise BadRequest("only HTTP/1.0 and HTTP/1.1 are spoken here", 505)
    headers = _fields(lines)
    modern = minor != "0"
    if modern and "host" not in headers:
        raise BadRequest("no Host")
    if not _HOST.match(headers.get("host", "")):
        raise BadRequest("malformed Host")
    connection = headers.get("connection", "").lower()
    keep_alive = "close" not in connection and (modern or "keep-alive" in connection)
    return Head(method, _origin_form(target), headers, _length(headers, modern), keep_alive)


def _origin_form(target: str) -> str:
    if len(target) > _MAX_TARGET:
        raise BadRequest("target too long", 414)
    if target.startswith("/"):
        return target
    absolute = _ORIGIN.match(target)
    if absolute is None:
        raise BadRequest("the target is no path")
    path = target[absolute.end():]
    return path if path.startswith("/") else "/" + path


def _fields(lines: list[str]) -> dict[str, str]:
    if len(lines) > _MAX_FIELDS:
        raise BadRequest("too many header fields", 431)
    headers: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if not colon or not _NAME.match(name) or _BARE.search(value):
            raise BadRequest("malformed header field")
        name, value = name.lower(), value.strip(" \t")
        if name not in headers:
            headers[name] = value
        elif name in _SINGLE:
            raise BadRequest(f"{name} comes twice")
        else:
            headers[name] += ", " + value
    return headers


def _length(headers: dict[str, str], modern: bool) -> int | None:
    """Two ways to say where a body ends are how requests are smuggled past a proxy: one alone is taken."""
    length, encoding = headers.get("content-length"), headers.get("transfer-encoding")
    if encoding is not None:
        if length is not None or not modern:
            raise BadRequest("Transfer-Encoding beside Content-Length, or of HTTP/1.0")
        if encoding.lower() != "chunked":
            raise BadRequest("no other transfer coding than chunked is known", 501)
        return None
    if length is None:
        return 0
    if not length.isascii() or not length.isdigit() or len(length) > 18:
        raise BadRequest("malformed Content-Length")
    return int(length)
