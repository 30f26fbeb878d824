"""Reading tar archives: ustar, star, GNU and PAX headers, sparse files, from a stream of plain blocks.

Formats: POSIX.1-2017 pax, GNU tar manual "Basic Tar Format", star(5). Where archives are ambiguous this follows Go's
archive/tar, since that is what layers are made and read with; its error texts are dockerd's.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from barque.store.tar import pax, sparse
from barque.store.tar.errors import FieldTooLong, InvalidHeader, Truncated
from barque.store.tar.messages import Limits
from barque.store.tar.numbers import numeric

BLOCK = 512
_ZERO_BLOCK = bytes(BLOCK)
REGULAR, HARDLINK, SYMLINK, CHAR, BLOCK_DEVICE, DIRECTORY, FIFO = b"0", b"1", b"2", b"3", b"4", b"5", b"6"
_PAX, _PAX_GLOBAL, _GNU_NAME, _GNU_LINK, _GNU_SPARSE = b"x", b"g", b"L", b"K", b"S"
#: Types that have no content, whatever their size field says.
_HEADER_ONLY = frozenset({HARDLINK, SYMLINK, CHAR, BLOCK_DEVICE, DIRECTORY, FIFO})
_ADLER = 65521
_GNU_MAGIC, _USTAR_MAGIC = b"ustar  \0", b"ustar\0"


class Stream:
    """The plain bytes of an archive. ``blocks`` yields them in pieces of any size."""

    def __init__(self, blocks: Iterator[bytes]) -> None:
        self._blocks = blocks
        self._buffer = b""
        self._position = 0

    def _fill(self) -> bool:
        for block in self._blocks:
            self._buffer = block
            self._position = 0
            return True
        return False

    def take(self, size: int) -> bytes:
        """Exactly ``size`` bytes; b"" at a clean end. Raises :class:`Truncated` in between."""
        start = self._position
        end = start + size
        if end <= len(self._buffer):
            self._position = end
            return self._buffer[start:end]
        pieces = [self._buffer[start:]]
        missing = size - len(pieces[0])
        while missing:
            if not self._fill():
                if missing == size:
                    return b""
                raise Truncated
            pieces.append(self._buffer[:missing])
            self._position = len(pieces[-1])
            missing -= self._position
        return b"".join(pieces)

    def copy(self, size: int, write: Callable[[memoryview], int]) -> None:
        """Hand the next ``size`` bytes to ``write``, which may take less at a time, as write(2) does."""
        while size:
            if self._position == len(self._buffer) and not self._fill():
                raise Truncated
            view = memoryview(self._buffer)[self._position:self._position + size]
            self._position += len(view)
            size -= len(view)
            while view:
                view = view[write(view):]

    def whole(self, size: int) -> bytes | None:
        """The next ``size`` bytes, if they are at hand in one piece; else None, and nothing is taken."""
        start = self._position
        end = start + size
        if end > len(self._buffer):
            return None
        self._position = end
        return self._buffer[start:end]

    def skip(self, size: int) -> None:
        self.copy(size, len)

    def drain(self) -> None:
        """Read to the end of the stream."""
        while self._fill():
            pass
        self._position = len(self._buffer)


@dataclass(slots=True)
class Entry:
    """One member. ``size`` is what the file has in the end, ``data`` how many bytes of it stand in the archive.

    The consumer takes exactly ``data`` bytes from the stream before it asks for the next entry; padding is not its.
    """

    name: bytes
    type: bytes
    mode: int = 0
    uid: int = 0
    gid: int = 0
    size: int = 0
    data: int = 0
    mtime: int = 0  # nanoseconds since 1970
    link: bytes = b""
    major: int = 0
    minor: int = 0
    xattrs: dict[str, bytes] = field(default_factory=dict)
    segments: list[tuple[int, int]] | None = None  # of a sparse file: offset and length of its data


def entries(stream: Stream, limits: Limits) -> Iterator[Entry]:
    """The members up to the end mark (or a clean end of the stream).

    Raises :class:`InvalidHeader`, :class:`FieldTooLong`, :class:`Truncated`.
    """
    shared: dict[str, bytes] = {}
    records: pax.Records = pax.Records()
    name = link = None
    while (header := _header(stream)) is not None:
        kind = header[156:157]
        if kind in (_PAX, _PAX_GLOBAL):
            parsed = pax.parse(_meta(stream, header, limits), limits)
            if kind == _PAX:
                records = parsed
            else:
                pax.merge_global(shared, parsed)
        elif kind == _GNU_NAME:
            name = _meta(stream, header, limits).partition(b"\0")[0]
        elif kind == _GNU_LINK:
            link = _meta(stream, header, limits).partition(b"\0")[0]
        else:
            entry = _entry(header)
            if name is not None:
                entry.name = name
            if link is not None:
                entry.link = link
            padded = _refine(stream, header, entry, shared, records, limits)
            yield entry
            if padded & 511 and not stream.take(BLOCK - (padded & 511)):
                return  # docker's client leaves out the padding of the last member, and the end mark, of its contexts
            records, name, link = pax.Records(), None, None


def _header(stream: Stream) -> bytes | None:
    """The next header block with a good checksum; None at the end mark."""
    block = stream.take(BLOCK)
    if not block:
        return None
    if block == _ZERO_BLOCK:
        following = stream.take(BLOCK)
        if following and following != _ZERO_BLOCK:
            raise InvalidHeader
        return None
    expected = numeric(block[148:156])
    # The low half of adler32 is 1 + the sum of all bytes modulo 65521: twenty times as fast as sum().
    likely = (expected + sum(block[148:156]) - 255) % _ADLER
    if zlib.adler32(block) & 0xffff != likely and _signed_sum(block) != expected:
        raise InvalidHeader
    return block


def _signed_sum(block: bytes) -> int:
    """Old Sun tars summed signed characters."""
    return sum(memoryview(block[:148] + b" " * 8 + block[156:]).cast("b"))


def _meta(stream: Stream, header: bytes, limits: Limits) -> bytes:
    """The content of a header that describes the next one, which may not be longer than the cap."""
    size = numeric(header[124:136])
    if not 0 <= size <= limits.header:
        raise FieldTooLong if size > 0 else InvalidHeader
    data = stream.take(size) if size else b""
    if len(data) != size:
        raise Truncated
    if size & 511 and not stream.take(BLOCK - (size & 511)):
        raise Truncated
    return data


def _entry(header: bytes) -> Entry:
    kind = header[156:157]
    name = header[:100].partition(b"\0")[0]
    magic = header[257:265]
    entry = Entry(name, REGULAR if kind in (b"\0", b"7") else kind,
                  mode=numeric(header[100:108]), uid=numeric(header[108:116]), gid=numeric(header[116:124]),
                  size=numeric(header[124:136]), mtime=numeric(header[136:148]) * 1_000_000_000,
                  link=header[157:257].partition(b"\0")[0])
    if magic[:6] == _USTAR_MAGIC:
        star = header[508:512] == b"tar\0"
        prefix = header[345:476 if star else 500].partition(b"\0")[0]
        if prefix:
            entry.name = prefix + b"/" + name
    if kind in (CHAR, BLOCK_DEVICE) and magic[:5] == _USTAR_MAGIC[:5]:
        entry.major = numeric(header[329:337])
        entry.minor = numeric(header[337:345])
    return entry


def _refine(stream: Stream, header: bytes, entry: Entry, shared: dict[str, bytes], records: pax.Records,
            limits: Limits) -> int:
    """Apply PAX records and sparse maps; returns how long the content is that padding follows."""
    if shared:
        pax.apply(entry, shared)
    if records.values:
        pax.apply(entry, records.values)
    if entry.size < 0 or entry.size > limits.size:
        raise InvalidHeader
    kind = entry.type
    if kind == REGULAR and entry.name.endswith(b"/"):
        entry.type = kind = DIRECTORY  # archives of 1979 have no type for directories
    if kind in _HEADER_ONLY:
        entry.size = 0
        return 0
    padded = entry.data = entry.size
    if kind == _GNU_SPARSE:
        entry.type = REGULAR
        sparse.old_gnu(stream, header, entry, limits)
    elif records.values and any(key.startswith("GNU.sparse.") for key in records.values):
        sparse.pax(stream, entry, records, limits)
    if entry.size > limits.size:
        raise InvalidHeader
    return padded
