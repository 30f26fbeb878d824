"""Making a layer's blob: the archive is hashed, compressed and hashed again on its way into a file.

Deterministic: the same archive gives the same bytes (a gzip header without name, time and system; one level).
"""

from __future__ import annotations

import hashlib
import os

import msgspec
from isal import isal_zlib

_GZIP_WINDOW = 31  # deflate with a gzip header (zlib manual, deflateInit2)
_LEVEL = 1
_BLOCK = 1 << 20


class Packed(msgspec.Struct, frozen=True):
    """Digests of the file and of the archive in it; ``length`` of the file, ``size`` of the archive, in bytes."""

    digest: str
    diff_id: str
    length: int
    size: int


class Packer:
    """``write`` takes the archive in pieces of any size; the descriptor ``out`` stays the caller's."""

    def __init__(self, out: int) -> None:
        self._out = out
        self._plain = hashlib.sha256()
        self._packed = hashlib.sha256()
        self._compressor = isal_zlib.compressobj(_LEVEL, isal_zlib.DEFLATED, _GZIP_WINDOW)
        self._pending: list[bytes] = []
        self._waiting = 0
        self._size = 0
        self._length = 0

    def write(self, data: bytes) -> None:
        self._pending.append(data)
        self._waiting += len(data)
        if self._waiting >= _BLOCK:
            self._flush(self._waiting - self._waiting % _BLOCK)

    def _flush(self, size: int) -> None:
        """Compress the first ``size`` bytes that wait, in blocks: what comes out depends on where they begin."""
        data = memoryview(b"".join(self._pending))
        self._waiting -= size
        self._pending = [bytes(data[size:])]
        for begin in range(0, size, _BLOCK):
            self._compress(data[begin:min(begin + _BLOCK, size)])

    def _compress(self, block: memoryview) -> None:
        self._size += len(block)
        self._plain.update(block)
        self._emit(self._compressor.compress(block))

    def _emit(self, data: bytes) -> None:
        self._packed.update(data)
        self._length += len(data)
        view = memoryview(data)
        while view:
            view = view[os.write(self._out, view):]

    def finish(self) -> Packed:
        self._flush(self._waiting)
        self._emit(self._compressor.flush())
        return Packed(f"sha256:{self._packed.hexdigest()}", f"sha256:{self._plain.hexdigest()}", self._length,
                      self._size)
