"""The parts of a message of Protocol Buffers (protobuf.dev/programming-guides/encoding)."""

from __future__ import annotations

VARINT, FIXED64, LENGTH, FIXED32 = 0, 1, 2, 5


class InvalidMessage(ValueError):
    """The bytes are no message."""


def varint(number: int) -> bytes:
    """``number`` is not negative: of 64 bits in two's complement where it may be."""
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def field(number: int, value: int | bytes) -> bytes:
    """One field: a number as a varint, bytes with their length."""
    if isinstance(value, int):
        return varint(number << 3 | VARINT) + varint(value)
    return varint(number << 3 | LENGTH) + varint(len(value)) + value


def parts(data: bytes) -> list[tuple[int, int, int | bytes]]:
    """The field, wire type and value of each part: a number for a varint, else bytes.

    Raises :class:`InvalidMessage`.
    """
    found: list[tuple[int, int, int | bytes]] = []
    at, end = 0, len(data)
    while at < end:
        tag, at = read_varint(data, at)
        wire = tag & 7
        if wire == VARINT:
            value, at = read_varint(data, at)
            found.append((tag >> 3, wire, value))
            continue
        size = {FIXED64: 8, FIXED32: 4}.get(wire, -1)
        if wire == LENGTH:
            size, at = read_varint(data, at)
        if size < 0 or at + size > end:
            raise InvalidMessage(f"a part of wire type {wire} does not fit")
        found.append((tag >> 3, wire, data[at:at + size]))
        at += size
    return found


def read_varint(data: bytes, at: int) -> tuple[int, int]:
    """The number at ``at``, and where it ends. Raises :class:`InvalidMessage`."""
    value = shift = 0
    while at < len(data) and shift < 70:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at += 1
        if byte < 0x80:
            return value & (1 << 64) - 1, at
        shift += 7
    raise InvalidMessage("a number does not end")
