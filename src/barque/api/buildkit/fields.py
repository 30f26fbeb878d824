"""Messages of Protocol Buffers that are dataclasses.

A field says its number and kind where it is declared::

    @dataclass
    class Stat:
        path: str = text(1)
        xattrs: dict[str, bytes] = mapping(10, TEXT, BYTES)

As in proto3 a field with its default is not sent, and one that is not known is passed over.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from barque.protobuf import LENGTH, VARINT, InvalidMessage, parts
from barque.protobuf import field as put

M = TypeVar("M")

_NEGATIVE = 1 << 63
_KEY = "protobuf"


@dataclass(frozen=True)
class Kind:
    """``wire``: how a value is laid out; ``pack`` makes bytes (or the number) of it, ``unpack`` the reverse."""

    wire: int
    pack: Callable[[Any], Any]
    unpack: Callable[[Any], Any]


def _signed(value: int) -> int:
    return value - (1 << 64) if value & _NEGATIVE else value


def _utf8(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")


INTEGER = Kind(VARINT, lambda value: value & (1 << 64) - 1, _signed)
FLAG = Kind(VARINT, int, bool)
TEXT = Kind(LENGTH, lambda value: value.encode("utf-8", "surrogateescape"), _utf8)
BYTES = Kind(LENGTH, bytes, bytes)


def kind_of(inner: type[Any]) -> Kind:
    """A message within a message."""
    return Kind(LENGTH, encode, lambda data: decode(inner, data))


@dataclass(frozen=True)
class _Field:
    number: int
    kind: Kind
    repeated: bool = False
    key: Kind | None = None  # of a map


def text(number: int) -> Any:
    return dataclasses.field(default="", metadata={_KEY: _Field(number, TEXT)})


def integer(number: int) -> Any:
    return dataclasses.field(default=0, metadata={_KEY: _Field(number, INTEGER)})


def flag(number: int) -> Any:
    return dataclasses.field(default=False, metadata={_KEY: _Field(number, FLAG)})


def blob(number: int) -> Any:
    return dataclasses.field(default=b"", metadata={_KEY: _Field(number, BYTES)})


def nested(number: int, inner: type[Any]) -> Any:
    """None where it is absent."""
    return dataclasses.field(default=None, metadata={_KEY: _Field(number, kind_of(inner))})


def many(number: int, kind: Kind) -> Any:
    return dataclasses.field(default_factory=list, metadata={_KEY: _Field(number, kind, repeated=True)})


def mapping(number: int, key: Kind, kind: Kind) -> Any:
    return dataclasses.field(default_factory=dict, metadata={_KEY: _Field(number, kind, key=key)})


_tables: dict[type[Any], dict[int, tuple[str, _Field]]] = {}


def _table(kind: type[Any]) -> dict[int, tuple[str, _Field]]:
    """The fields of a kind of message, by number, with their names."""
    found = _tables.get(kind)
    if found is None:
        declared = ((item.name, item.metadata[_KEY]) for item in dataclasses.fields(kind))
        found = _tables[kind] = {field.number: (name, field) for name, field in declared}
    return found


def encode(sent: Any) -> bytes:
    """The bytes of a message, its fields in the order of their declaration."""
    out = bytearray()
    for name, field in _table(type(sent)).values():
        value = getattr(sent, name)
        if field.key is not None:
            for key, item in value.items():
                out += put(field.number, _pair(field, key, item))
        elif field.repeated:
            for item in value:
                out += put(field.number, field.kind.pack(item))
        elif value:
            out += put(field.number, field.kind.pack(value))
    return bytes(out)


def _pair(field: _Field, key: Any, value: Any) -> bytes:
    assert field.key is not None
    return put(1, field.key.pack(key)) + put(2, field.kind.pack(value))


def decode(kind: type[M], data: bytes) -> M:
    """Raises :class:`InvalidMessage`."""
    found = kind()
    fields = _table(kind)
    for number, wire, raw in parts(data):
        if number not in fields:
            continue
        name, field = fields[number]
        expected = LENGTH if field.key is not None else field.kind.wire
        if wire != expected:
            raise InvalidMessage(f"{kind.__name__}: field {number} has wire type {wire}")
        if field.key is not None:
            key, value = _unpaired(field, raw)
            getattr(found, name)[key] = value
        elif field.repeated:
            getattr(found, name).append(field.kind.unpack(raw))
        else:
            setattr(found, name, field.kind.unpack(raw))
    return found


def _unpaired(field: _Field, data: Any) -> tuple[Any, Any]:
    assert field.key is not None
    kinds = {1: field.key, 2: field.kind}
    given = {number: raw for number, wire, raw in parts(data) if number in kinds and wire == kinds[number].wire}
    key, value = (kind.unpack(given.get(number, 0 if kind.wire == VARINT else b"")) for number, kind in kinds.items())
    return key, value
