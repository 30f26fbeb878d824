"""JSON for the hot path: the C scanner and encoder of the interpreter without the ``re`` import of the json package.

Importing ``json`` costs about 7 ms (it compiles regular expressions that only its pure-Python half uses),
half of what the whole client may take. Where an interpreter lacks the C module, ``json`` itself serves.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

try:
    from _json import encode_basestring, make_encoder, make_scanner
except ImportError:  # an interpreter without the accelerator
    make_scanner = None  # type: ignore[assignment,misc]


class BadJSON(ValueError):
    """The text is no JSON document."""


class _Settings:
    """What the C scanner reads from json.JSONDecoder."""

    strict = True
    object_hook = None
    object_pairs_hook = None
    parse_float = float
    parse_int = int
    memo: dict[str, str]

    def __init__(self) -> None:
        self.memo = {}

    @staticmethod
    def parse_constant(text: str) -> float:
        raise BadJSON(f"{text} is no JSON")


def _refuse(value: object) -> object:
    raise TypeError(f"{type(value).__name__} has no JSON form")


def loads(data: bytes | str) -> Any:
    """Decode one document; raises :class:`BadJSON`."""
    text = data.decode("utf-8", "replace") if isinstance(data, bytes) else data
    if make_scanner is None:
        import json

        try:
            return json.loads(text)
        except ValueError as error:
            raise BadJSON(str(error)) from None
    text = text.strip()
    try:
        value, end = make_scanner(_Settings())(text, 0)  # type: ignore[arg-type]
    except StopIteration:
        raise BadJSON("invalid JSON") from None
    except (ValueError, RecursionError) as error:
        raise BadJSON(str(error)) from None
    if end != len(text):
        raise BadJSON(f"extra data at character {end}")
    return value


def dumps(value: object, *, sort_keys: bool = False) -> str:
    """Encode compactly, as Go does: no spaces, characters beyond ASCII as they are."""
    if make_scanner is None:
        import json

        return json.dumps(value, separators=(",", ":"), sort_keys=sort_keys, ensure_ascii=False)
    encode = make_encoder(None, _refuse, encode_basestring, None, ":", ",", sort_keys, False, False)
    return "".join(encode(value, 0))


def documents(chunks: Any) -> Any:
    """The documents of a stream of JSON values, one per line as every engine sends them."""
    rest = b""
    for chunk in chunks:
        rest += chunk
        if b"\n" not in rest:
            continue
        *lines, rest = rest.split(b"\n")
        for line in lines:
            if line.strip():
                yield from _values(line)
    if rest.strip():
        yield from _values(rest)


def _values(line: bytes) -> Any:
    """Documents that stand on one line without anything between them are legal too."""
    try:
        yield loads(line)
        return
    except BadJSON:
        import json
    text, position = line.decode("utf-8", "replace").strip(), 0
    decoder = json.JSONDecoder()
    while position < len(text):
        try:
            value, position = decoder.raw_decode(text, position)
        except ValueError as error:
            raise BadJSON(str(error)) from None
        yield value
        while position < len(text) and text[position].isspace():
            position += 1
