"""The local log driver, in the files that dockerd writes (moby, daemon/logger/local, internal/logdriver/entry.proto).

A record is a protobuf message between two copies of its length, four bytes each, big-endian::

    LogEntry                          PartialLogEntryMetadata    LogAttr
    1 source  "stdout" or "stderr"    1 last                     1 key
    2 time_nano                       2 id                       2 value
    3 line, without the newline       3 ordinal
    4 partial
    5 partial_log_metadata
    6 attrs, one per attribute
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from struct import Struct
from typing import Any

from barque.protobuf import field, varint
from barque.supervise.entries import Cutter, Entry
from barque.supervise.messages import STDERR, STDOUT, LogConfig
from barque.supervise.rotation import RotatedFile

LENGTH = Struct(">I")
_NAMES = {STDOUT: b"stdout", STDERR: b"stderr"}


def _field(number: int, value: bytes) -> bytes:
    """A length-delimited field; protobuf leaves empty ones out."""
    return field(number, value) if value else b""


def record(stream: int, entry: Entry, attrs: bytes = b"") -> bytes:
    """``attrs`` are the encoded fields 6."""
    message = _field(1, _NAMES[stream]) + b"\x10" + varint(entry.time) + _field(3, entry.line)
    if entry.partial is not None:
        partial = (b"\x08\x01" if entry.partial.last else b"") + _field(2, entry.partial.id.encode()) \
            + b"\x18" + varint(entry.partial.ordinal)
        message += b"\x20\x01" + _field(5, partial)
    message += attrs
    length = LENGTH.pack(len(message))
    return length + message + length


def whole(records: bytes, at: int) -> int:
    """The end of the last record that ends at ``at`` or before it, walking from the start."""
    end = 0
    while end + LENGTH.size <= at:
        following = end + 2 * LENGTH.size + LENGTH.unpack_from(records, end)[0]
        if following > at:
            break
        end = following
    return end


class LocalFile(RotatedFile):
    """One container's log. Never raises after it was opened: what cannot be written is counted in ``dropped``."""

    def __init__(self, config: LogConfig, want_work: Callable[[], None] = lambda: None, fd: int = -1) -> None:
        """As :class:`RotatedFile`."""
        self._cutters = {STDOUT: Cutter(), STDERR: Cutter()}
        self._attrs = b"".join(_field(6, _field(1, key.encode()) + _field(2, value.encode()))
                               for key, value in sorted(config.attrs.items()))
        super().__init__(config, want_work, fd)

    def write(self, stream: int, data: bytes) -> None:
        entries = self._cutters[stream].feed(data, time.time_ns())
        if entries:
            self._store(self._encode(stream, entries))

    def close(self) -> None:
        """Log what has no newline at its end and close the file."""
        if self._fd >= 0:
            for stream, cutter in self._cutters.items():
                self._store(self._encode(stream, cutter.end(time.time_ns())))
        super().close()

    def _pack_lines(self) -> object:
        return {stream: cutter.state for stream, cutter in self._cutters.items()}

    def _unpack_lines(self, lines: Any) -> None:
        for stream, state in lines.items():
            self._cutters[stream].state = state

    def _encode(self, stream: int, entries: list[Entry]) -> bytes:
        """Whole lines of one batch differ in their text alone, so what is around it is made once for each length."""
        around: dict[int, tuple[bytes, bytes]] = {}
        out: list[bytes] = []
        for entry in entries:
            line = entry.line
            if entry.partial is not None or not line:
                out.append(record(stream, entry, self._attrs))
                continue
            size = len(line)
            if size not in around:
                sample = record(stream, entry, self._attrs)
                before = len(sample) - size - len(self._attrs) - LENGTH.size
                around[size] = sample[:before], sample[before + size:]
            head, tail = around[size]
            out += (head, line, tail)
        return b"".join(out)

    def _end_from(self, records: bytes, at: int) -> int:
        end = whole(records, at)
        if end < at and end < len(records):
            end += 2 * LENGTH.size + LENGTH.unpack_from(records, end)[0]
        return end

    def _end_before(self, records: bytes, at: int) -> int:
        return whole(records, at)

    def _mend(self, fd: int, size: int) -> int:
        """A record that was cut off would hide all before it from who reads from the end."""
        if size and not self._ends_well(fd, size):
            kept = whole(os.pread(fd, size, 0), size)
            os.ftruncate(fd, kept)
            return kept
        return size

    def _ends_well(self, fd: int, size: int) -> bool:
        last = os.pread(fd, LENGTH.size, max(0, size - LENGTH.size))
        begin = size - 2 * LENGTH.size - LENGTH.unpack(last)[0] if len(last) == LENGTH.size else -1
        return begin >= 0 and os.pread(fd, LENGTH.size, begin) == last
