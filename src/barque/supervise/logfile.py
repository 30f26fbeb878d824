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
import zlib
from collections.abc import Callable

from barque.supervise.messages import STDERR, STDOUT, LogConfig
from barque.supervise.rest import LogRest, Luggage

#: What dockerd reads a line into; longer ones become partial entries.
LONGEST_LINE = 16 << 10
#: Piece of a rotated file that is compressed between two looks at the descriptors, about 5 ms of work.
COMPRESS_STEP = 256 << 10

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
        second, nanos = divmod(time.time_ns(), 1_000_000_000)
        if second != self._second:
            self._second = second
            self._prefix = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
        if nanos == 0:
            return self._prefix + "Z"
        return f"{self._prefix}.{nanos:09}".rstrip("0") + "Z"


class JsonFile:
    """One container's log. Never raises after it was opened: what cannot be written is counted in ``dropped`` (bytes).

    The file is rotated when its size has reached ``max_size`` at the start of a line. :meth:`work` compresses a rotated
    file piece by piece; the next rotation finishes what is left of it.
    """

    def __init__(self, config: LogConfig, want_work: Callable[[], None] = lambda: None, fd: int = -1) -> None:
        """``want_work`` is called when :meth:`work` has something to do; ``fd`` is the file where it is open already.

        Raises OSError.
        """
        self._config = config
        self._want_work = want_work
        self._clock = Clock()
        self._unfinished: dict[int, bytes] = {STDOUT: b"", STDERR: b""}
        #: Time of the first entry of a line that was cut, until its last one.
        self._cut: dict[int, bytes] = {}
        # "<" and the like in attrs are spelled by the same encoder.
        attrs = json.dumps(config.attrs, separators=(",", ":"), ensure_ascii=False).encode() if config.attrs else b""
        self._attrs = b',"attrs":' + attrs if attrs else b""
        self._gzip: _Gzip | None = None
        self.dropped = 0
        self._fd = fd
        self._size = 0
        if fd >= 0:
            self._size = os.fstat(fd).st_size
            return
        self._open(os.O_APPEND)
        if config.compress and os.path.exists(f"{config.path}.1"):
            self._compress()    # was not finished by whoever rotated it

    def pack(self, luggage: Luggage) -> LogRest:
        """For :meth:`unpack` in another process. There is no work to do."""
        return LogRest(luggage.silent(self._fd), self.dropped, self._unfinished, self._cut)

    @classmethod
    def unpack(cls, rest: LogRest, fds: list[int], config: LogConfig, want_work: Callable[[], None]) -> JsonFile:
        log = cls(config, want_work, fds[rest.place])
        log.dropped, log._unfinished, log._cut = rest.dropped, rest.unfinished, rest.cut
        return log

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
        if self._fd < 0:
            return
        for stream, data in self._unfinished.items():
            if data:
                self._store(self._partial(stream, data))
        os.close(self._fd)
        self._fd = -1

    def abandon_work(self) -> None:
        """Leave a rotated file uncompressed for now; the next one to open this log compresses it."""
        if self._gzip is not None:
            self._gzip.abandon()
            self._gzip = None

    def work(self) -> bool:
        """Compress one piece of a rotated file; False when there is nothing left to do."""
        if self._gzip is None:
            return False
        try:
            if self._gzip.step():
                return True
        except OSError:
            # The rotated file stays as it is, uncompressed: readers know both forms.
            self._gzip.abandon()
        self._gzip = None
        return False

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

    def _store(self, lines: bytes) -> None:
        limit = self._config.max_size
        while limit and self._size + len(lines) >= limit:
            # The line that passes the limit is the last one in this file.
            end = lines.find(b"\n", max(0, limit - self._size - 1)) + 1 if self._size < limit else 0
            self._append(lines[:end])
            lines = lines[end:]
            if not lines:
                return
            if not self._rotate():
                break
        self._append(lines)

    def _append(self, lines: bytes) -> None:
        """Write whole lines or, where the disk is full, none of the one that did not fit."""
        if not lines:
            return
        try:
            written = os.write(self._fd, lines)
        except OSError:
            written = 0
        kept = written if written == len(lines) else lines.rfind(b"\n", 0, written) + 1
        if written > kept:
            try:
                os.ftruncate(self._fd, os.fstat(self._fd).st_size - (written - kept))
            except OSError:
                pass
        self._size += kept
        self.dropped += len(lines) - kept

    def _rotate(self) -> bool:
        """Start a new file; False when that is not possible and the old one has to go on."""
        while self.work():
            pass
        path, files = self._config.path, self._config.max_files
        suffix = ".gz" if self._config.compress else ""
        try:
            if files > 1:
                for number in range(files - 1, 1, -1):
                    _rename_if_there(f"{path}.{number - 1}{suffix}", f"{path}.{number}{suffix}")
                os.rename(path, f"{path}.1")
            self._open(os.O_TRUNC)
        except OSError:
            return False
        if files > 1 and self._config.compress:
            self._compress()
        return True

    def _compress(self) -> None:
        self._gzip = _Gzip(f"{self._config.path}.1")
        self._want_work()

    def _open(self, flag: int) -> None:
        fd = os.open(self._config.path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | flag, 0o640)
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = fd
        self._size = os.fstat(fd).st_size
        if self._size and os.pread(fd, 1, self._size - 1) != b"\n":
            # A writer died within a line: let the next one start on its own.
            self._append(b"\n")


def _rename_if_there(old: str, new: str) -> None:
    try:
        os.rename(old, new)
    except FileNotFoundError:
        pass


class _Gzip:
    """Turns ``path`` into ``path.gz`` step by step, within the process.

    A helper process would have to be forked out of the container's PID namespace, where the monitor's children land.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._source = self._target = -1
        self._zlib = zlib.compressobj(wbits=31)

    def step(self) -> bool:
        """Do one piece; False when done. Raises OSError."""
        if self._source < 0:
            self._source = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
            self._target = os.open(self._path + ".gz.tmp", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o640)
        data = os.read(self._source, COMPRESS_STEP)
        self._write(self._zlib.compress(data) if data else self._zlib.flush())
        if data:
            return True
        self._close()
        os.rename(self._path + ".gz.tmp", self._path + ".gz")
        os.unlink(self._path)
        return False

    def abandon(self) -> None:
        self._close()
        try:
            os.unlink(self._path + ".gz.tmp")
        except FileNotFoundError:
            pass

    def _write(self, data: bytes) -> None:
        while data:
            data = data[os.write(self._target, data):]

    def _close(self) -> None:
        for fd in (self._source, self._target):
            if fd >= 0:
                os.close(fd)
        self._source = self._target = -1
