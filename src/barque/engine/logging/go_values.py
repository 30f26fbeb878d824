"""Values of log options as Go's parsers read them; the errors are Go's, since dockerd passes them on."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import SplitResult, urlsplit

from barque.build.dockerfile.durations import parse_duration
from barque.build.dockerfile.errors import SyntaxProblem
from barque.errors import InvalidArgument

_SIZE = re.compile(r"(\d+(?:\.\d+)?) ?([kmgtp]?)i?b?\Z", re.IGNORECASE | re.ASCII)
_TRUE, _FALSE = ("1", "t", "T", "TRUE", "true", "True"), ("0", "f", "F", "FALSE", "false", "False")


def size(text: str, unit: int = 1000) -> int:
    """Bytes of ``10m``: go-units' FromHumanSize, or with 1024 its RAMInBytes."""
    match = _SIZE.match(text)
    if not match:
        raise InvalidArgument(f"invalid size: '{text}'")
    return int(float(match[1]) * unit ** " kmgtp".index(match[2].lower() or " "))


def boolean(text: str) -> bool:
    if text not in _TRUE + _FALSE:
        raise InvalidArgument(f'strconv.ParseBool: parsing "{text}": invalid syntax')
    return text in _TRUE


def integer(text: str, function: str = "Atoi") -> int:
    if not re.fullmatch(r"\d+" if function == "ParseUint" else r"[+-]?\d+", text, re.ASCII):
        raise InvalidArgument(f'strconv.{function}: parsing "{text}": invalid syntax')
    return int(text)


def seconds(text: str) -> float:
    """Of a duration such as ``1m30s``."""
    try:
        return parse_duration(text) / 1e9
    except SyntaxProblem as problem:
        raise InvalidArgument(str(problem)) from None


def url(text: str) -> SplitResult:
    """An address with a scheme."""
    try:
        parts = urlsplit(text)
        _ = parts.port    # raises for a port that is no number
    except ValueError as error:
        raise InvalidArgument(f'parse "{text}": {error}') from None
    return parts


@contextmanager
def prefixed(prefix: str) -> Iterator[None]:
    """Say what an error is about."""
    try:
        yield
    except InvalidArgument as error:
        raise InvalidArgument(prefix + error.message) from None
