"""Decompression of layer streams: gzip (isal, many members), zstd (many frames), xz, bzip2, or none.

What the stream starts with decides, as in dockerd: media types lie. Output comes in blocks of at most 1 MiB whatever
the input expands to.
"""

from __future__ import annotations

import bz2
import lzma
from collections.abc import Callable, Iterator
from typing import Any, Protocol

from backports import zstd
from isal import isal_zlib

BLOCK = 1 << 20
_GZIP, _ZSTD, _XZ, _BZIP2 = b"\x1f\x8b\x08", b"\x28\xb5\x2f\xfd", b"\xfd7zXZ\x00", b"BZh"
#: zstd's skippable frames start with 0x184D2A50 .. 0x184D2A5F, little-endian.
_ZSTD_SKIPPABLE = tuple(bytes([low]) + b"\x2a\x4d\x18" for low in range(0x50, 0x60))
_ERRORS: tuple[Any, ...] = (isal_zlib.error, zstd.ZstdError, lzma.LZMAError, OSError, EOFError,
                                      ValueError)
#: Bits of the gzip window with a gzip header expected (zlib manual, inflateInit2).
_GZIP_WINDOW = 31


class BadStream(Exception):
    """The compressed stream is truncated or corrupt; the text says how."""


class _Decompressor(Protocol):
    @property
    def eof(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def feed(self, data: bytes) -> bytes: ...
    def more(self) -> bytes: ...


class _Gzip:
    def __init__(self) -> None:
        self._inner: Any = isal_zlib.decompressobj(wbits=_GZIP_WINDOW)

    @property
    def eof(self) -> bool:
        return bool(self._inner.eof)

    @property
    def unused_data(self) -> bytes:
        return bytes(self._inner.unused_data)

    def feed(self, data: bytes) -> bytes:
        return bytes(self._inner.decompress(data, BLOCK))

    def more(self) -> bytes:
        tail = self._inner.unconsumed_tail
        return bytes(self._inner.decompress(tail, BLOCK)) if tail else b""


class _Buffering:
    """zstd, lzma and bz2 share one interface, which keeps the input that it has not used."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self._inner = make()

    @property
    def eof(self) -> bool:
        return bool(self._inner.eof)

    @property
    def unused_data(self) -> bytes:
        return bytes(self._inner.unused_data)

    def feed(self, data: bytes) -> bytes:
        return bytes(self._inner.decompress(data, BLOCK))

    def more(self) -> bytes:
        return b"" if self._inner.eof or self._inner.needs_input else bytes(self._inner.decompress(b"", BLOCK))


def detect(head: bytes) -> str:
    """The compression that a stream with these first bytes has; "none" where nothing is recognised."""
    if head.startswith(_GZIP):
        return "gzip"
    if head.startswith((_ZSTD, *_ZSTD_SKIPPABLE)):
        return "zstd"
    if head.startswith(_XZ):
        return "xz"
    return "bzip2" if head.startswith(_BZIP2) else "none"


_MAKERS: dict[str, Callable[[], _Decompressor]] = {
    "gzip": _Gzip,
    "zstd": lambda: _Buffering(zstd.ZstdDecompressor),
    "xz": lambda: _Buffering(lzma.LZMADecompressor),
    "bzip2": lambda: _Buffering(bz2.BZ2Decompressor),
}


def open_stream(compression: str, raw: Callable[[], bytes]) -> Iterator[bytes]:
    """The plain bytes of a stream, block by block.

    ``raw`` returns the next compressed bytes, and b"" at the end. ``compression`` is only a hint: a stream that ends
    before it can be recognised is truncated if it was to be compressed. Raises :class:`BadStream`.
    """
    head = raw()
    while head and len(head) < len(_XZ):
        more = raw()
        if not more:
            break
        head += more
    found = detect(head)
    if found != "none":
        return _decompress(found, head, raw)
    if compression not in ("", "none") and len(head) < len(_XZ):
        raise BadStream("unexpected EOF")
    return _plain(head, raw)


def _plain(head: bytes, raw: Callable[[], bytes]) -> Iterator[bytes]:
    while head:
        yield head
        head = raw()


def _decompress(compression: str, data: bytes, raw: Callable[[], bytes]) -> Iterator[bytes]:
    state = _MAKERS[compression]()
    while True:
        try:
            block = state.feed(data)
            while block:
                yield block
                block = state.more() if not state.eof else b""
            if state.eof:
                data = _next_member(compression, state.unused_data, raw)
                if not data:
                    return
                state = _MAKERS[compression]()
                continue
        except _ERRORS as error:
            raise BadStream(f"{compression}: {error}") from None
        data = raw()
        if not data:
            raise BadStream("unexpected EOF")


def _next_member(compression: str, data: bytes, raw: Callable[[], bytes]) -> bytes:
    """What follows a member: another one, zero padding, or nothing. Anything else is corrupt."""
    while True:
        data = data.lstrip(b"\0") if compression in ("gzip", "xz") else data
        while len(data) < len(_XZ) and (more := raw()):
            data += more
            if compression in ("gzip", "xz"):
                data = data.lstrip(b"\0")
        if data and detect(data) != compression:
            raise BadStream(f"{compression}: invalid header")
        return data
