"""Log files that are rotated by size: what the json-file and the local driver have in common.

The file is rotated when its size has reached ``max_size`` at the start of a record. ``path.1`` is the youngest of the
rotated ones; where they are compressed, that happens piece by piece in :meth:`RotatedFile.work`.
"""

from __future__ import annotations

import os
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

from barque.supervise.messages import LogConfig
from barque.supervise.rest import FileRest, LogRest, Luggage

#: Piece of a rotated file that is compressed between two looks at the descriptors, about 5 ms of work.
COMPRESS_STEP = 256 << 10


class RotatedFile(ABC):
    """Whole records in a file. Never raises after it was opened: what cannot be written is counted in ``dropped``.

    How records are told apart is up to the subclass: :meth:`_end_from`, :meth:`_end_before` and :meth:`_mend`.
    """

    def __init__(self, config: LogConfig, want_work: Callable[[], None] = lambda: None, fd: int = -1) -> None:
        """``want_work`` is called when :meth:`work` has something to do; ``fd`` is the file where it is open already.

        Raises OSError.
        """
        self._config = config
        self._want_work = want_work
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

    @property
    def idle(self) -> bool:
        return self._gzip is None

    def pack(self, luggage: Luggage) -> LogRest:
        """For :meth:`unpack` of another object, in another process; while ``idle``."""
        return LogRest(self.dropped, FileRest(luggage.silent(self._fd), self._pack_lines()))

    def unpack(self, left: LogRest) -> None:
        """Go on with what the one had not finished whose file this was given."""
        assert left.file is not None
        self.dropped = left.dropped
        self._unpack_lines(left.file.lines)

    def close(self) -> None:
        if self._fd >= 0:
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

    @abstractmethod
    def _pack_lines(self) -> object:
        """What is known of unfinished lines, made of what msgpack knows."""

    @abstractmethod
    def _unpack_lines(self, lines: Any) -> None:
        """Take over what another object knew of them."""

    @abstractmethod
    def _end_from(self, records: bytes, at: int) -> int:
        """The end of the first record that ends at ``at`` or behind it; 0 where none does."""

    @abstractmethod
    def _end_before(self, records: bytes, at: int) -> int:
        """The end of the last record that ends at ``at`` or before it; 0 where none does."""

    @abstractmethod
    def _mend(self, fd: int, size: int) -> int:
        """See that the file ``fd`` ends with a whole record, though a writer may have died; its size then."""

    def _store(self, records: bytes) -> None:
        limit = self._config.max_size
        while limit and self._size + len(records) >= limit:
            # The record that passes the limit is the last one in this file.
            end = self._end_from(records, limit - self._size) if self._size < limit else 0
            self._append(records[:end])
            records = records[end:]
            if not records:
                return
            if not self._rotate():
                break
        self._append(records)

    def _append(self, records: bytes) -> None:
        """Write whole records or, where the disk is full, none of the one that did not fit."""
        if not records:
            return
        try:
            written = os.write(self._fd, records)
        except OSError:
            written = 0
        kept = written if written == len(records) else self._end_before(records, written)
        if written > kept:
            try:
                os.ftruncate(self._fd, os.fstat(self._fd).st_size - (written - kept))
            except OSError:
                pass
        self._size += kept
        self.dropped += len(records) - kept

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
        self._size = self._mend(fd, os.fstat(fd).st_size)

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
