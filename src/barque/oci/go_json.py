"""JSON with the habits of Go's encoding/json, which every docker client and image builder relies on.

Decoding: keys match case-insensitively (an exact match wins), ``null`` means absent, unknown keys are ignored, maps get
their keys in order; NaN and Infinity are refused, as Go does. Encoding: absent and empty fields are left out where the
type says ``omit_defaults``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any, TypeVar, cast

import msgspec
from msgspec import inspect as mi

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
            tree = _fold(tree, _info(cast(Any, kind)), MAX_DEPTH)
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
    """Whether :func:`_fold` would leave ``tree`` as it is but for unknown keys; when in doubt it is not."""
    if isinstance(tree, dict):
        return depth > 0 and all(spelled.get(key.lower(), key) == key and _is_plain(value, spelled, depth - 1)
                                 for key, value in tree.items())
    if isinstance(tree, list):
        return depth > 0 and all(_is_plain(item, spelled, depth - 1) for item in tree)
    return tree is not None and (type(tree) is not int or -1 << 63 <= tree < 1 << 64)


@cache
def _info(kind: Any) -> mi.Type:
    return mi.type_info(kind)


def _fold(tree: Any, info: mi.Type, depth: int) -> Any:
    """Drop nulls and respell keys as the struct types below ``info`` spell them."""
    if depth <= 0:
        raise InvalidJSON(f"exceeded the maximum depth of {MAX_DEPTH}")
    if isinstance(info, mi.UnionType):
        if tree is None:
            return None
        info = _branch(tree, info)
    if isinstance(tree, dict):
        if isinstance(info, mi.StructType):
            return _fold_struct(tree, info, depth)
        if isinstance(info, mi.DictType):
            # Go writes maps with their keys in order: kept so from here on, they need no sorting when written.
            return {key: _fold(tree[key], info.value_type, depth - 1) for key in sorted(tree)}
    elif isinstance(tree, list) and isinstance(info, (mi.ListType, mi.VarTupleType, mi.SetType, mi.FrozenSetType)):
        return [_fold(item, info.item_type, depth - 1) for item in tree]
    elif type(tree) is int and not -1 << 63 <= tree < 1 << 64:
        raise InvalidJSON(f"cannot unmarshal number {tree} into a 64 bit integer")
    return tree


def _branch(tree: Any, info: mi.UnionType) -> mi.Type:
    wanted: tuple[type, ...] = ()
    if isinstance(tree, dict):
        wanted = (mi.StructType, mi.DictType)
    elif isinstance(tree, list):
        wanted = (mi.ListType, mi.VarTupleType)
    return next((branch for branch in info.types if isinstance(branch, wanted)), info)


@cache
def _names(cls: type) -> dict[str, tuple[str, Any]]:
    info = mi.type_info(cls)
    assert isinstance(info, mi.StructType)
    return {field.encode_name.lower(): (field.encode_name, field.type) for field in info.fields}


def _fold_struct(tree: dict[str, Any], info: mi.StructType, depth: int) -> dict[str, Any]:
    names = _names(info.cls)
    result: dict[str, Any] = {}
    for key, value in tree.items():
        known = names.get(key.lower())
        if known is None or value is None:
            continue
        name, field_type = known
        if key == name or name not in result:
            result[name] = _fold(value, field_type, depth - 1)
    return result
