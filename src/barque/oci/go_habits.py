"""Reading a document as Go would, whatever spelling and nulls it has: a part of :mod:`barque.oci.go_json`.

Apart from it because few documents need this, and inspecting types takes msgspec some milliseconds in a new process.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from msgspec import inspect as mi

from barque.oci.go_json import MAX_DEPTH, InvalidJSON


def fold(tree: Any, kind: Any) -> Any:
    """Drop nulls and respell keys as the struct types that ``kind`` is made of spell them; raises InvalidJSON."""
    return _fold(tree, _info(kind), MAX_DEPTH)


@cache
def _info(kind: Any) -> mi.Type:
    return mi.type_info(kind)


def _fold(tree: Any, info: mi.Type, depth: int) -> Any:
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
