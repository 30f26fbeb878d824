"""Reading one table of an SQLite database that a stranger made (sqlite.org/fileformat2.html), from its bytes.

SQLite itself would be more code in the process that reads strangers' files than this is. What a journal holds beside
the file is not seen.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

MAGIC = b"SQLite format 3\0"
_LEAF, _INTERIOR = 13, 5
_INTEGERS = {1: 1, 2: 2, 3: 3, 4: 4, 5: 6, 6: 8}
_FLOAT, _FIRST_BLOB = 7, 12
_U16, _U32 = struct.Struct(">H"), struct.Struct(">I")
Value = int | bytes | None


class Damaged(ValueError):
    """The bytes are no sound database."""


def rows(data: bytes, table: str) -> Iterator[list[Value]]:
    """The records of ``table``, numbers as int and texts as bytes; none where there is no such table.

    Raises :class:`Damaged`, in the middle of the rows too.
    """
    try:
        database = _Database(data)
        for record in database.records(1):
            if record[:2] == [b"table", table.encode()] and isinstance(record[3], int):
                yield from database.records(record[3])
    except (struct.error, IndexError) as error:
        raise Damaged(str(error)) from None


class _Database:
    def __init__(self, data: bytes) -> None:
        if not data.startswith(MAGIC):
            raise Damaged("no SQLite database")
        size = _U16.unpack_from(data, 16)[0]
        self._size = 65536 if size == 1 else size
        self._usable = self._size - data[20]
        if self._size < 512 or self._usable < 480:
            raise Damaged(f"pages of {self._size} bytes")
        self._data = data
        self._pages = len(data) // self._size

    def _page(self, number: int) -> bytes:
        if not 1 <= number <= self._pages:
            raise Damaged(f"there is no page {number}")
        return self._data[(number - 1) * self._size:number * self._size]

    def records(self, root: int) -> Iterator[list[Value]]:
        """In the order of their keys."""
        pending, seen = [root], set[int]()
        while pending:
            number = pending.pop()
            if number in seen:
                raise Damaged(f"page {number} comes twice")
            seen.add(number)
            page = self._page(number)
            head = 100 if number == 1 else 0
            kind, count = page[head], _U16.unpack_from(page, head + 3)[0]
            first = head + (8 if kind == _LEAF else 12)
            cells = [_U16.unpack_from(page, first + 2 * index)[0] for index in range(count)]
            if kind == _LEAF:
                yield from (_record(self._payload(page, cell)) for cell in cells)
            elif kind == _INTERIOR:
                children = [_U32.unpack_from(page, cell)[0] for cell in cells]
                pending += [*children, _U32.unpack_from(page, head + 8)[0]][::-1]
            else:
                raise Damaged(f"page {number} is no part of a table")

    def _payload(self, page: bytes, cell: int) -> bytes:
        length, position = _varint(page, cell)
        _, position = _varint(page, position)
        most, least = self._usable - 35, (self._usable - 12) * 32 // 255 - 23
        if length <= most:
            return page[position:position + length]
        fitting = least + (length - least) % (self._usable - 4)
        local = fitting if fitting <= most else least
        pieces, missing = [page[position:position + local]], length - local
        following = _U32.unpack_from(page, position + local)[0]
        while missing > 0:
            overflow = self._page(following)
            following = _U32.unpack_from(overflow)[0]
            pieces.append(overflow[4:4 + min(missing, self._usable - 4)])
            missing -= self._usable - 4
        return b"".join(pieces)


def _varint(data: bytes, position: int) -> tuple[int, int]:
    """A number of at most nine bytes, and where the next one is."""
    value = 0
    for index in range(8):
        byte = data[position + index]
        value = value << 7 | byte & 0x7F
        if byte < 0x80:
            return value, position + index + 1
    return value << 8 | data[position + 8], position + 9


def _record(payload: bytes) -> list[Value]:
    end, position = _varint(payload, 0)
    kinds = []
    while position < end:
        kind, position = _varint(payload, position)
        kinds.append(kind)
    found: list[Value] = []
    for kind in kinds:
        if kind in _INTEGERS:
            size = _INTEGERS[kind]
            found.append(int.from_bytes(payload[position:position + size], "big", signed=True))
        elif kind >= _FIRST_BLOB:
            size = (kind - _FIRST_BLOB) // 2
            found.append(payload[position:position + size])
        else:
            size = 8 if kind == _FLOAT else 0
            found.append({8: 0, 9: 1}.get(kind))
        position += size
    return found
