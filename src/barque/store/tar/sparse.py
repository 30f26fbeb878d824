"""Sparse files: the old GNU header and PAX formats 0.0, 0.1 and 1.0 (GNU tar manual, "Sparse Formats")."""

from __future__ import annotations

from typing import TYPE_CHECKING

from barque.store.tar.errors import FieldTooLong, InvalidHeader, Truncated
from barque.store.tar.messages import Limits
from barque.store.tar.numbers import decimal, numeric

if TYPE_CHECKING:
    from barque.store.tar.pax import Records
    from barque.store.tar.reader import Entry, Stream

_BLOCK = 512
_PAIR = 24  # offset and length, twelve octal digits each
_HEADER_PAIRS, _EXTENSION_PAIRS = 4, 21
_HEADER_MAP, _HEADER_EXTENDED, _HEADER_REAL_SIZE = 386, 482, 483
_EXTENSION_EXTENDED = 504


def old_gnu(stream: Stream, header: bytes, entry: Entry, limits: Limits) -> None:
    """Type ``S``: four pairs in the header, more in extension blocks before the content."""
    if header[257:265] != b"ustar  \0":
        raise InvalidHeader
    segments = _pairs(header[_HEADER_MAP:_HEADER_MAP + _HEADER_PAIRS * _PAIR])
    extended = header[_HEADER_EXTENDED]
    while extended:
        block = stream.take(_BLOCK)
        if not block:
            raise Truncated
        segments += _pairs(block[:_EXTENSION_PAIRS * _PAIR])
        if len(segments) > limits.sparse_entries:
            raise FieldTooLong
        extended = block[_EXTENSION_EXTENDED]
    _set(entry, segments, numeric(header[_HEADER_REAL_SIZE:_HEADER_REAL_SIZE + 12]))


def _pairs(area: bytes) -> list[tuple[int, int]]:
    found = []
    for start in range(0, len(area), _PAIR):
        if area[start] == 0:
            break
        found.append((numeric(area[start:start + 12]), numeric(area[start + 12:start + _PAIR])))
    return found


def pax(stream: Stream, entry: Entry, records: Records, limits: Limits) -> None:
    """Formats 0.x keep the map in the records; 1.0 keeps it as decimal lines in front of the content."""
    values = records.values
    name = values.get("GNU.sparse.name")
    if name:
        entry.name = name
    real = values.get("GNU.sparse.realsize") or values.get("GNU.sparse.size")
    version = values.get("GNU.sparse.major"), values.get("GNU.sparse.minor")
    if version == (b"1", b"0"):
        segments = _leading_map(stream, entry, limits)
    elif "GNU.sparse.map" in values:
        segments = _inline_map(values["GNU.sparse.map"], limits)
    elif records.sparse or "GNU.sparse.numblocks" in values:
        segments = _repeated(records)
    elif version == (None, None):
        return  # only a name or a size: an ordinary file
    else:
        raise InvalidHeader
    if "GNU.sparse.numblocks" in values and decimal(values["GNU.sparse.numblocks"]) != len(segments):
        raise InvalidHeader
    if real is None:
        raise InvalidHeader
    _set(entry, segments, decimal(real))


def _inline_map(text: bytes, limits: Limits) -> list[tuple[int, int]]:
    numbers = text.split(b",") if text else []
    if len(numbers) > 2 * limits.sparse_entries:
        raise FieldTooLong
    if len(numbers) % 2:
        raise InvalidHeader
    return [(decimal(numbers[i]), decimal(numbers[i + 1])) for i in range(0, len(numbers), 2)]


def _repeated(records: Records) -> list[tuple[int, int]]:
    keys = [key for key, _ in records.sparse]
    if keys != ["GNU.sparse.offset", "GNU.sparse.numbytes"] * (len(keys) // 2):
        raise InvalidHeader
    numbers = [decimal(value) for _, value in records.sparse]
    return list(zip(numbers[::2], numbers[1::2], strict=True))


def _leading_map(stream: Stream, entry: Entry, limits: Limits) -> list[tuple[int, int]]:
    """The map is the number of pairs, then the pairs, one number a line, padded to a whole block."""
    text = b""
    lines, wanted = 0, 1
    while lines < wanted:
        block = stream.take(_BLOCK)
        if not block or entry.data < _BLOCK:
            raise Truncated
        entry.data -= _BLOCK
        text += block
        lines += block.count(b"\n")
        if wanted == 1 and b"\n" in text:
            count = decimal(text.partition(b"\n")[0])
            if count > limits.sparse_entries:
                raise FieldTooLong
            wanted = 1 + 2 * count
        if len(text) > limits.header:
            raise FieldTooLong
    numbers = [decimal(line) for line in text.split(b"\n")[1:wanted]]
    return list(zip(numbers[::2], numbers[1::2], strict=True))


def _set(entry: Entry, segments: list[tuple[int, int]], real_size: int) -> None:
    """Check that the map is in order, within the file, and accounts for each byte of content."""
    end = 0
    for offset, length in segments:
        if offset < end or length < 0 or offset + length > real_size:
            raise InvalidHeader
        end = offset + length
    if sum(length for _, length in segments) != entry.data:
        raise InvalidHeader
    entry.segments = [(offset, length) for offset, length in segments if length]
    entry.size = real_size
