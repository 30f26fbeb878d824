"""Writing tar archives: ustar headers, with PAX records for what does not fit. The same entries give the same bytes.

Times are whole seconds, as docker writes them, unless asked for: fractions cost a PAX header for each file.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType

from barque.store.tar.errors import Truncated
from barque.store.tar.pax import XATTR
from barque.store.tar.reader import BLOCK, Entry

_COPY = 1 << 20
_NAME, _PREFIX, _LINK = 100, 155, 100
_MAX_ID = 0o7777777
_MAX_SIZE = 0o77777777777
_END = bytes(2 * BLOCK)


class Writer:
    """``write`` takes all of what it is given, or raises.

    ``sparse``: whether whoever adds files shall keep holes. ``exact_times``: with fractions of seconds.
    """

    def __init__(self, write: Callable[[bytes], object], *, sparse: bool = False, exact_times: bool = False) -> None:
        self._write = write
        self.sparse = sparse
        self._exact_times = exact_times

    def add(self, entry: Entry, content: int | bytes | None = None) -> None:
        """Write one member; ``content`` is a descriptor to read ``entry.size`` bytes from, or the bytes themselves.

        Raises :class:`Truncated` where a file turns out shorter; one that grows is cut at its size.
        """
        self.header(entry)
        if isinstance(content, bytes):
            self._write(content)
        elif content is not None:
            self._copy(content, entry.size)
        self._write(padding(entry.size))

    def add_sparse(self, entry: Entry, fd: int, segments: Sequence[tuple[int, int]]) -> None:
        """Write a file of ``entry.size`` bytes of which only ``segments`` (offset, length) are no holes: GNU tar's
        PAX format 1.0. Readers that do not know it make a file of the map and the data of it.
        """
        if not segments or sum(segments[-1]) < entry.size:
            segments = [*segments, (entry.size, 0)]    # GNU tar ends the map of a file that ends with a hole so
        numbers = [len(segments), *(number for segment in segments for number in segment)]
        text = b"".join(b"%d\n" % number for number in numbers)
        text += padding(len(text))
        # Short enough for the header: to some readers a record of the path would say more than GNU.sparse.name.
        stored = replace(entry, name=b"GNUSparseFile.0/" + entry.name.rpartition(b"/")[2][:80],
                         size=len(text) + sum(length for _, length in segments))
        self.header(stored, {b"GNU.sparse.major": b"1", b"GNU.sparse.minor": b"0", b"GNU.sparse.name": entry.name,
                             b"GNU.sparse.realsize": b"%d" % entry.size})
        self._write(text)
        for offset, length in segments:
            os.lseek(fd, offset, os.SEEK_SET)
            self._copy(fd, length)
        self._write(padding(stored.size))

    def header(self, entry: Entry, extra: Mapping[bytes, bytes] = MappingProxyType({})) -> None:
        """Only what stands before the content of a member, with ``extra`` PAX records; content and padding are left
        to the caller.
        """
        records = {**_records(entry), **extra}
        if self._exact_times and entry.mtime > 0:
            records[b"mtime"] = b"%d.%09d" % divmod(entry.mtime, 1_000_000_000)
        if records:
            body = b"".join(_record(key, value) for key, value in sorted(records.items()))
            carrier = Entry(b"PaxHeaders.0/" + entry.name.rstrip(b"/").rpartition(b"/")[2][:80], b"x", mode=0o644,
                            size=len(body), mtime=entry.mtime)
            self._write(_header(carrier) + body + padding(len(body)))
        self._write(_header(entry))

    def _copy(self, fd: int, size: int) -> None:
        while size:
            block = os.read(fd, min(size, _COPY))
            if not block:
                raise Truncated
            size -= len(block)
            self._write(block)

    def close(self) -> None:
        """Write the end mark."""
        self._write(_END)


def padding(size: int) -> bytes:
    return bytes(-size % BLOCK)


def _records(entry: Entry) -> dict[bytes, bytes]:
    records = {XATTR.encode() + os.fsencode(key): value for key, value in entry.xattrs.items()}
    if _split(entry.name) is None:
        records[b"path"] = entry.name
    if len(entry.link) > _LINK:
        records[b"linkpath"] = entry.link
    seconds = entry.mtime // 1_000_000_000
    for key, value, most in ((b"size", entry.size, _MAX_SIZE), (b"mtime", seconds, _MAX_SIZE),
                             (b"uid", entry.uid, _MAX_ID), (b"gid", entry.gid, _MAX_ID)):
        if value > most:
            records[key] = b"%d" % value
    return records


def _record(key: bytes, value: bytes) -> bytes:
    """``length key=value\\n``, where the length counts its own digits."""
    rest = len(key) + len(value) + 3
    length = rest + len(str(rest))
    if len(str(length)) > len(str(rest)):
        length += 1
    return b"%d %b=%b\n" % (length, key, value)


def _split(name: bytes) -> tuple[bytes, bytes] | None:
    """``(prefix, name)`` as ustar has room for them, or None."""
    if len(name) <= _NAME:
        return b"", name
    cut = name.find(b"/", max(len(name) - _NAME - 1, 0))
    if not 0 < cut <= _PREFIX or cut == len(name) - 1:
        return None
    return name[:cut], name[cut + 1:]


def _header(entry: Entry) -> bytes:
    prefix, name = _split(entry.name) or (b"", entry.name[:_NAME])
    seconds = max(entry.mtime, 0) // 1_000_000_000
    header = b"".join((
        name.ljust(_NAME, b"\0"), b"%07o\0" % (entry.mode & 0o7777), b"%07o\0" % _fit(entry.uid, _MAX_ID),
        b"%07o\0" % _fit(entry.gid, _MAX_ID), b"%011o\0" % _fit(entry.size, _MAX_SIZE),
        b"%011o\0" % _fit(seconds, _MAX_SIZE), b" " * 8, entry.type, entry.link[:_LINK].ljust(_LINK, b"\0"),
        b"ustar\x0000", bytes(64), b"%07o\0" % entry.major, b"%07o\0" % entry.minor, prefix.ljust(_PREFIX, b"\0"),
        bytes(12)))
    return header[:148] + b"%06o\0 " % sum(header) + header[156:]


def _fit(value: int, most: int) -> int:
    """What the header shows of a value that a PAX record carries."""
    return value if value <= most else 0
