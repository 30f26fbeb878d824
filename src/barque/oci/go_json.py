"""JSON with the habits of Go's encoding/json, which every docker client and image builder relies on.

Decoding: keys match case-insensitively (an exact match wins), ``null`` means absent, unknown keys are ignored, maps get
their keys in order; NaN and Infinity are refused, as Go does. Encoding: absent and empty fields are left out where the
type says ``omit_defaults``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

import msgspec

from barque.errors import InvalidArgument

T = TypeVar("T")
V = TypeVar("V")
#: Deeper documents are refused before they can exhaust the interpreter's stack.
MAX_DEPTH = 100


class InvalidJSON(InvalidArgument):
    """Not JSON, or a value of the wrong type; the message says where (``$.HostConfig.Memory``)."""


def decode(data: bytes | str, kind: type[T], spelled: Mapping[str, str] | None = None) -> T:
    """Decode ``data`` as ``kind`` (any type that msgspec knows); raises :class:`InvalidJSON`.

    With ``spelled``, the :func:`spellings` of all structs that ``kind`` is made of, a document that has Go's habits
    nowhere, as most have not, is spared their inspection: 10 ms in a new process.
    """
    try:
        tree = msgspec.json.decode(data)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise InvalidJSON(str(error)) from None
    return convert(tree, kind, spelled)


def convert(tree: Any, kind: type[T], spelled: Mapping[str, str] | None = None) -> T:
    """As :func:`decode`, for a document that is already a tree of dicts and lists."""
    try:
        if spelled is None or not _is_plain(tree, spelled, MAX_DEPTH):
            from barque.oci.go_habits import fold

            tree = fold(tree, kind)
        return msgspec.convert(tree, kind)
    except (msgspec.ValidationError, RecursionError) as error:
        raise InvalidJSON(str(error)) from None


def merged(*maps: Mapping[str, V] | None) -> dict[str, V]:
    """One map of several, the later ones first in rank, with its keys in Go's order."""
    result: dict[str, V] = {}
    for each in maps:
        result.update(each or {})
    return {key: result[key] for key in sorted(result)}


def encode(value: Any) -> bytes:
    """Compact JSON, keys in declaration order."""
    return msgspec.json.encode(value, enc_hook=_plain)


def _plain(value: Any) -> Any:
    """A digest is a string, which msgspec sees in exact strings only."""
    if isinstance(value, str):
        return str(value)
    raise TypeError(f"{type(value).__name__} has no JSON form")


def spellings(structs: Iterable[type[msgspec.Struct]]) -> dict[str, str]:
    """The keys of all ``structs`` as they are spelled, by their lower case."""
    return {name.lower(): name for struct in structs for name in struct.__struct_encode_fields__}


def _is_plain(tree: Any, spelled: Mapping[str, str], depth: int) -> bool:
    """Whether folding would leave ``tree`` as it is but for unknown keys; when in doubt it is not."""
    if isinstance(tree, dict):
        return depth > 0 and all(spelled.get(key.lower(), key) == key and _is_plain(value, spelled, depth - 1)
                                 for key, value in tree.items())
    if isinstance(tree, list):
        return depth > 0 and all(_is_plain(item, spelled, depth - 1) for item in tree)
    return tree is not None and (type(tree) is not int or -1 << 63 <= tree < 1 << 64)
