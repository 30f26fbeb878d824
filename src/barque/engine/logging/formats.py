"""The formats of log files, for who reads them back: how records are told apart, and what one says."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import BinaryIO, Protocol

import msgspec

from barque.engine import clock
from barque.supervise.local_log import LENGTH, whole

#: A record is never longer than this: a line is cut at 16 KiB, and attributes are small.
MAX_RECORD = 1 << 20


class Entry(Protocol):
    """One entry: ``data`` with its newline, ``moment`` in nanoseconds, ``stamp`` as RFC 3339 with nine decimals."""

    @property
    def stream(self) -> str: ...
    @property
    def data(self) -> bytes: ...
    @property
    def moment(self) -> int: ...
    @property
    def stamp(self) -> str: ...
    @property
    def attrs(self) -> Mapping[str, str]: ...


#: One record; raises ValueError for what is none.
Decode = Callable[[bytes], Entry]


class Format(Protocol):
    def split(self, data: bytes) -> tuple[list[bytes], bytes]:
        """The whole records in ``data``, and what follows them."""

    @property
    def decode(self) -> Decode: ...

    def tail_offset(self, file: BinaryIO, wanted: int) -> tuple[int, int]:
        """Where the last ``wanted`` complete records begin, and how many there are from there (fewer: offset 0)."""


class _JsonEntry(msgspec.Struct):
    log: str
    stream: str
    time: str
    attrs: dict[str, str] = {}

    @property
    def data(self) -> bytes:
        return self.log.encode(errors="surrogateescape")

    @property
    def moment(self) -> int:
        return clock.parse(self.time)

    @property
    def stamp(self) -> str:
        head, _, tail = self.time.removesuffix("Z").partition(".")
        return f"{head}.{tail.ljust(9, '0')}Z"


class JsonFile:
    """Lines of JSON."""

    def __init__(self) -> None:
        self.decode = msgspec.json.Decoder(_JsonEntry).decode

    def split(self, data: bytes) -> tuple[list[bytes], bytes]:
        lines = data.split(b"\n")
        return lines, lines.pop()

    def tail_offset(self, file: BinaryIO, wanted: int) -> tuple[int, int]:
        end = file.seek(0, os.SEEK_END)
        position, count, size = end, 0, 64 << 10
        if wanted == 0:
            return end, 0
        while position > 0:
            size = min(size, position)
            file.seek(position - size)
            block = file.read(size)
            at = len(block)
            while (at := block.rfind(b"\n", 0, at)) >= 0:
                if position - size + at + 1 < end:
                    count += 1
                    if count == wanted:
                        return position - size + at + 1, wanted
            position -= size
        return 0, count + (1 if end else 0)


_STREAMS = ("stdout", "stderr")


class _LocalEntry(msgspec.Struct):
    stream: str = ""
    moment: int = 0
    data: bytes = b""
    attrs: dict[str, str] = {}

    @property
    def stamp(self) -> str:
        return clock.render(self.moment)


class Local:
    """Protobuf messages, each between two copies of its length (:mod:`barque.supervise.local_log`)."""

    def __init__(self) -> None:
        #: How the last record began, up to its line, and the stream and moment that this says: the lines of one read
        #: differ in nothing else.
        self._recent = b"\0", "", 0

    def split(self, data: bytes) -> tuple[list[bytes], bytes]:
        records: list[bytes] = []
        end, total = 0, whole(data, len(data))
        while end < total:
            begin = end + LENGTH.size
            size = LENGTH.unpack_from(data, end)[0]
            records.append(data[begin:begin + size])
            end = begin + size + LENGTH.size
        return records, data[total:]

    def decode(self, record: bytes) -> Entry:
        head, stream, moment = self._recent
        if record.startswith(head) and record[len(head):len(head) + 1] == b"\x1a":
            size, begin = _varint(record, len(head) + 1)
            if begin + size == len(record):
                return _LocalEntry(stream, moment, record[begin:] + b"\n")
        entry = self._decode(record)
        name = b"\x0a%c%b\x10" % (len(entry.stream), entry.stream.encode()) if entry.stream in _STREAMS else b""
        if name and record.startswith(name):
            self._recent = record[:_varint(record, len(name))[1]], entry.stream, entry.moment
        return entry

    def _decode(self, record: bytes) -> _LocalEntry:
        entry = _LocalEntry()
        partial = last = False
        for number, value in _fields(record):
            match number, value:
                case 1, bytes():
                    entry.stream = value.decode()
                case 2, int():
                    entry.moment = value
                case 3, bytes():
                    entry.data = value
                case 4, int():
                    partial = bool(value)
                case 5, bytes():
                    last = dict(_fields(value)).get(1) == 1
                case 6, bytes():
                    pair = dict(_fields(value))
                    entry.attrs = {**entry.attrs, _text(pair.get(1)): _text(pair.get(2))}
        if last or not partial:
            entry.data += b"\n"
        return entry

    def tail_offset(self, file: BinaryIO, wanted: int) -> tuple[int, int]:
        position, count = file.seek(0, os.SEEK_END), 0
        while position > 0 and count < wanted:
            file.seek(position - LENGTH.size)
            size = LENGTH.unpack(file.read(LENGTH.size))[0] + 2 * LENGTH.size
            if size > min(position, MAX_RECORD):
                break    # cut off by a crash: what is before it cannot be counted
            position -= size
            count += 1
        return position, count


def _text(value: bytes | int | None) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else ""


def _fields(message: bytes) -> list[tuple[int, bytes | int]]:
    """Number and value of each field of a protobuf message. Raises ValueError for what is none."""
    fields: list[tuple[int, bytes | int]] = []
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        value, at = _varint(message, at)
        if key & 7 == 0:
            fields.append((key >> 3, value))
        elif key & 7 == 2 and at + value <= len(message):
            fields.append((key >> 3, message[at:at + value]))
            at += value
        else:
            raise ValueError("not a log record")
    return fields


def _varint(message: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while at < len(message):
        byte = message[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at
    raise ValueError("a number that is cut off")


JSON_FILE = JsonFile()
LOCAL = Local()
