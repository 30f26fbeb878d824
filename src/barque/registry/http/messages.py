"""What a handler is given and what it gives back."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from functools import cached_property
from io import FileIO
from typing import TYPE_CHECKING, Any

import msgspec

from barque.registry.http.body import Body
from barque.registry.http.head import Head

if TYPE_CHECKING:
    from barque.registry.events import Happened

_ESCAPED = re.compile(rb"%([0-9A-Fa-f]{2})")
_REASONS = {
    200: "OK", 201: "Created", 202: "Accepted", 204: "No Content", 206: "Partial Content", 302: "Found",
    304: "Not Modified", 307: "Temporary Redirect", 400: "Bad Request", 401: "Unauthorized", 403: "Forbidden",
    404: "Not Found", 405: "Method Not Allowed", 408: "Request Timeout", 413: "Content Too Large",
    414: "URI Too Long", 416: "Range Not Satisfiable", 429: "Too Many Requests",
    431: "Request Header Fields Too Large", 500: "Internal Server Error", 501: "Not Implemented",
    503: "Service Unavailable", 505: "HTTP Version Not Supported"}
_WITHOUT_BODY = frozenset({204, 304})


def unquoted(text: str) -> str:
    """With ``%41`` as ``A``; bytes that are no UTF-8 become U+FFFD, which no name may contain."""
    if "%" not in text:
        return text
    data = _ESCAPED.sub(lambda match: bytes((int(match[1], 16),)), text.encode("latin-1"))
    return data.decode("utf-8", "replace")


class Query:
    """The pairs of a query or a form."""

    def __init__(self, text: str) -> None:
        self._values: dict[str, list[str]] = {}
        for pair in text.split("&") if text else ():
            name, _, value = pair.replace("+", " ").partition("=")
            self._values.setdefault(unquoted(name), []).append(unquoted(value))

    def __contains__(self, name: str) -> bool:
        return name in self._values

    def __getitem__(self, name: str) -> str:
        return self._values[name][0]

    def get(self, name: str, default: str = "") -> str:
        return self._values[name][0] if name in self._values else default

    def getall(self, name: str) -> list[str]:
        return self._values.get(name, [])


class Request:
    """``route``: the pattern that the path matched; ``values``: what stands in the places of its names.

    ``user``: who asks, once that is known; ``happened``: what the request did.
    """

    def __init__(self, head: Head, body: Body, remote: str = "", scheme: str = "http") -> None:
        self.method = head.method
        self.target = head.target
        self.headers = head.headers
        self.body = body
        self.remote = remote
        self.scheme = scheme
        path, _, self._query = head.target.partition("?")
        self.path = unquoted(path)
        self.route = "none"
        self.values: dict[str, str] = {}
        self.user = ""
        self.happened: list[Happened] = []

    @property
    def host(self) -> str:
        """The registry's own address as the client knows it."""
        return self.headers.get("host", "")

    def knows(self, etag: str) -> bool:
        """Whether the client has that already (RFC 9110, 13.1.2)."""
        told = self.headers.get("if-none-match", "")
        return etag in told or told == "*"

    @cached_property
    def query(self) -> Query:
        return Query(self._query)


@dataclass(frozen=True, slots=True)
class FilePart:
    """Bytes of an open file from ``begin`` up to ``end``; whoever sends them closes it."""

    file: FileIO
    begin: int
    end: int


class Response:
    """``length``: of a body that is made as it is sent, or that is left out as the request was a HEAD."""

    __slots__ = ("body", "headers", "length", "status")

    def __init__(self, status: int = 200, headers: Mapping[str, str] | None = None,
                 body: bytes | FilePart | AsyncGenerator[bytes, None] = b"", length: int | None = None) -> None:
        self.status = status
        self.headers = list(headers.items()) if headers else []
        self.body = body
        if length is None:
            assert isinstance(body, bytes | FilePart)
            length = len(body) if isinstance(body, bytes) else body.end - body.begin
        self.length = length

    @property
    def has_body(self) -> bool:
        return self.status not in _WITHOUT_BODY

    def head(self, date: str, keep_alive: bool) -> bytes:
        lines = [f"HTTP/1.1 {self.status} {_REASONS.get(self.status, '')}", f"Date: {date}"]
        if self.has_body:
            lines.append(f"Content-Length: {self.length}")
        lines += [f"{name}: {value}" for name, value in self.headers]
        if not keep_alive:
            lines.append("Connection: close")
        text = "\r\n".join(lines)
        if text.count("\n") != len(lines) - 1 or text.count("\r") != len(lines) - 1:
            raise ValueError("a header field has a line end in it")
        return text.encode() + b"\r\n\r\n"


def json_response(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return Response(status, {"Content-Type": "application/json", **(headers or {})}, msgspec.json.encode(value))
