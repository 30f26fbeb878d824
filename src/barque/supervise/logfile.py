"""The json-file log driver, byte for byte what dockerd writes (moby, daemon/logger/jsonfilelog and jsonlog).

A line is ``{"log":"text\\n","stream":"stdout","attrs":{...},"time":"2006-01-02T15:04:05.999999999Z"}``, attrs only
where there are any. A line of 16 KiB and more is cut into entries of 16 KiB without ``\\n``, all with the time of the
first. Escapes are those of dockerd's encoder: ``\\"``, ``\\\\``, ``\\n``, ``\\r``, and ``\\u00xx`` for other control
characters and for ``<>&``; each byte that is not UTF-8 becomes ``\\ufffd``.

A whole batch of lines is encoded at once: the text between two newlines of the output of the container is constant.
"""

from __future__ import annotations

import codecs
import json
import os
import time
from collections.abc import Callable
from typing import Any

from barque.supervise.entries import LONGEST_LINE
from barque.supervise.messages import STDERR, STDOUT, LogConfig
from barque.supervise.rotation import RotatedFile

_NAMES = {STDOUT: b"stdout", STDERR: b"stderr"}
_SPECIAL = {byte: b"\\u%04x" % byte for byte in [*range(0x20), *b"<>&"]} | {
    ord("\\"): b"\\\\", ord('"'): b'\\"', ord("\r"): b"\\r"}
del _SPECIAL[ord("\n")]
_SAFE = bytes(byte for byte in range(0x80) if byte not in _SPECIAL)
_HIGH = bytes(range(0x80, 0x100))
_BAD_UTF8 = "barque.go-json"


def _replace_each_byte(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeDecodeError)
    return "\\ufffd" * (error.end - error.start), error.end


codecs.register_error(_BAD_UTF8, _replace_each_byte)


def escape(data: bytes) -> bytes:
    """The inside of a JSON string for ``data``, newlines left as they are."""
    special = data.translate(None, _SAFE)
    if not special:
        return data
    if b"\\" in special:    # first, or it would escape the other escapes
        data = data.replace(b"\\", b"\\\\")
        special = special.replace(b"\\", b"")
    text = special.translate(None, _HIGH)
    has_high = len(text) != len(special)
    while text:
        data = data.replace(text[:1], _SPECIAL[text[0]])
        text = text.replace(text[:1], b"")
    if has_high:
        decoded = data.decode("utf-8", _BAD_UTF8)
        data = decoded.replace("\u2028", "\\u2028").replace("\u2029", "\\u2029").encode()
    return data


class Clock:
    """The time as dockerd prints it: RFC 3339 in UTC, trailing zeros of the nanoseconds left out."""

    def __init__(self) -> None:
        self._second = -1
        self._prefix = ""

    def now(self) -> str:
        return self.at(time.time_ns())

    def at(self, moment: int) -> str:
        """``moment`` in nanoseconds since 1970."""
        second, nanos = divmod(moment, 1_000_000_000)
        if second != self._second:
            self._second = second
            self._prefix = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
        if nanos == 0:
            return self._prefix + "Z"
        return f"{self._prefix}.{nanos:09}".rstrip("0") + "Z"


class JsonFile(RotatedFile):
    """One container's log. Never raises after it was opened: what cannot be written is counted in ``dropped``."""

    def __init__(self, config: LogConfig, want_work: Callable[[], None] = lambda: None, fd: int = -1) -> None:
        """As :class:`RotatedFile`."""
        self._clock = Clock()
        self._unfinished: dict[int, bytes] = {STDOUT: b"", STDERR: b""}
        #: Time of the first entry of a line that was cut, until its last one.
        self._cut: dict[int, bytes] = {}
        # "<" and the like in attrs are spelled by the same encoder.
        attrs = json.dumps(config.attrs, separators=(",", ":"), ensure_ascii=False).encode() if config.attrs else b""
        self._attrs = b',"attrs":' + attrs if attrs else b""
        super().__init__(config, want_work, fd)

    def write(self, stream: int, data: bytes) -> None:
        """Log what came out of ``stream``; an unfinished line is kept until its end, 16 KiB, or :meth:`close`."""
        unfinished = self._unfinished[stream]
        if unfinished:
            data = unfinished + data
        end = data.rfind(b"\n") + 1
        out: list[bytes] = []
        if end:
            self._lines(stream, data[:end], out)
            data = data[end:]
        while len(data) >= LONGEST_LINE:
            out.append(self._partial(stream, data[:LONGEST_LINE]))
            data = data[LONGEST_LINE:]
        self._unfinished[stream] = data
        if out:
            self._store(b"".join(out))

    def close(self) -> None:
        """Log what has no newline at its end (dockerd: an entry without one) and close the file."""
        if self._fd >= 0:
            for stream, data in self._unfinished.items():
                if data:
                    self._store(self._partial(stream, data))
        super().close()

    def _lines(self, stream: int, data: bytes, out: list[bytes]) -> None:
        """Encode whole lines, cutting those that are too long."""
        if stream in self._cut:
            end = data.index(b"\n") + 1
            self._long_line(stream, data[:end], out)
            data = data[end:]
        start = 0
        while len(data) - start > LONGEST_LINE:
            # Is there an end of line within each 16 KiB? memrchr makes this cheap.
            end = data.rfind(b"\n", start, start + LONGEST_LINE) + 1
            if end:
                start = end
                continue
            if start:
                out.append(self._batch(stream, data[:start], self._now()))
            end = data.index(b"\n", start) + 1
            self._long_line(stream, data[start:end], out)
            data, start = data[end:], 0
        if data:
            out.append(self._batch(stream, data, self._now()))

    def _long_line(self, stream: int, line: bytes, out: list[bytes]) -> None:
        while len(line) > LONGEST_LINE:
            out.append(self._partial(stream, line[:LONGEST_LINE]))
            line = line[LONGEST_LINE:]
        out.append(self._batch(stream, line, self._cut.pop(stream, b"") or self._now()))

    def _now(self) -> bytes:
        return self._clock.now().encode()

    def _tail(self, stream: int, time: bytes) -> bytes:
        return b'","stream":"%b"%b,"time":"%b"}\n' % (_NAMES[stream], self._attrs, time)

    def _batch(self, stream: int, lines: bytes, time: bytes) -> bytes:
        """Encode lines that all end in a newline: only the newlines have to be replaced."""
        between = b"\\n" + self._tail(stream, time) + b'{"log":"'
        return (b'{"log":"' + escape(lines).replace(b"\n", between))[:-8]

    def _partial(self, stream: int, data: bytes) -> bytes:
        time = self._cut.setdefault(stream, self._now())
        return b'{"log":"' + escape(data) + self._tail(stream, time)

    def _pack_lines(self) -> object:
        return self._unfinished, self._cut

    def _unpack_lines(self, lines: Any) -> None:
        self._unfinished, self._cut = lines

    def _end_from(self, records: bytes, at: int) -> int:
        return records.find(b"\n", max(0, at - 1)) + 1

    def _end_before(self, records: bytes, at: int) -> int:
        return records.rfind(b"\n", 0, at) + 1

    def _mend(self, fd: int, size: int) -> int:
        if size and os.pread(fd, 1, size - 1) != b"\n":
            # A writer died within a line: let the next one start on its own.
            try:
                size += os.write(fd, b"\n")
            except OSError:
                pass    # no room: the next line is lost with the torn one
        return size
