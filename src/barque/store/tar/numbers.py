"""Numbers in tar headers: octal text, or base-256 for what does not fit (GNU tar, star)."""

from __future__ import annotations

from functools import lru_cache

from barque.store.tar.errors import InvalidHeader


@lru_cache(4096)  # most members of an archive have the same few modes, owners and times
def numeric(field: bytes) -> int:
    """The value of a header field; empty is 0. Raises :class:`InvalidHeader`."""
    text = field.strip(b" \0")
    if text.isdigit():  # ASCII digits alone: int() would take signs, underscores and white space too
        try:
            return int(text, 8)
        except ValueError:
            raise InvalidHeader from None
    if field[0] & 0x80:
        return _base256(field)
    text = text.partition(b"\0")[0].rstrip(b" ")
    if not text:
        return 0
    if not text.isdigit():
        raise InvalidHeader
    return numeric(text)


def _base256(field: bytes) -> int:
    """Big-endian two's complement below the marker bit; more than 63 bits are refused."""
    value = int.from_bytes(field, "big")
    bits = 8 * len(field)
    value -= 1 << (bits - 1) if not field[0] & 0x40 else 1 << bits
    if not -(1 << 63) <= value < 1 << 63:
        raise InvalidHeader
    return value


def decimal(text: bytes) -> int:
    """A non-negative decimal number as PAX records have them. Raises :class:`InvalidHeader`."""
    if not text.isdigit() or len(text) > 19:
        raise InvalidHeader
    return int(text)
