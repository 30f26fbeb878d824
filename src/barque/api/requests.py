"""Read what a request says: query parameters in docker's notation, and JSON bodies."""

from __future__ import annotations

from typing import TypeVar

from aiohttp import web

from barque.errors import InvalidArgument
from barque.oci import go_json

T = TypeVar("T")
_FALSE = frozenset({"", "0", "no", "false", "none"})


def flag(request: web.Request, name: str, default: bool = False) -> bool:
    """A boolean as dockerd reads it: anything but "", 0, no, false, none is true."""
    value = request.query.get(name)
    return default if value is None else value.strip().lower() not in _FALSE


def integer(request: web.Request, name: str, default: int | None = None) -> int | None:
    """Raises InvalidArgument in the words of Go's strconv."""
    text = request.query.get(name, "")
    if not text:
        return default
    digits = text.removeprefix("-")
    if not (digits.isascii() and digits.isdecimal()):
        raise InvalidArgument(f'strconv.Atoi: parsing "{text}": invalid syntax')
    return int(text)


async def body(request: web.Request, kind: type[T]) -> T:
    """The JSON body; raises InvalidArgument in dockerd's words for a missing, mistyped or malformed one."""
    data = await request.read()
    check_content_type(request, data)
    if not data:
        raise InvalidArgument("invalid JSON: got EOF while reading request body")
    try:
        return go_json.decode(data, kind)
    except go_json.InvalidJSON as error:
        raise InvalidArgument(f"invalid JSON: {error.message}") from None


async def optional_body(request: web.Request, kind: type[T]) -> T | None:
    """As :func:`body`, None where there is none."""
    return await body(request, kind) if await request.read() else None


def check_content_type(request: web.Request, data: bytes) -> None:
    kind = request.headers.get("Content-Type", "")
    if (data or kind) and kind.partition(";")[0].strip().lower() != "application/json":
        raise InvalidArgument(f"unsupported Content-Type header ({kind}): must be 'application/json'")


def json(value: object, status: int = 200) -> web.Response:
    return web.Response(status=status, body=go_json.encode(value) + b"\n", content_type="application/json")
