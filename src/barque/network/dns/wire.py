"""DNS messages (RFC 1035, 6891) as far as a forwarder needs them: questions read, answers built and aged. Pure."""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

A, PTR, SOA, AAAA, OPT, ANY = 1, 12, 6, 28, 41, 255
IN = 1
NOERROR, FORMERR, SERVFAIL, NXDOMAIN, NOTIMP, REFUSED = 0, 1, 2, 3, 4, 5
_QR, _AA, _TC, _RD, _RA, _AD, _CD = 0x8000, 0x0400, 0x0200, 0x0100, 0x0080, 0x0020, 0x0010
_OPCODE = 0x7800
_DO = 0x8000
_HEADER = struct.Struct(">HHHHHH")
_RECORD = struct.Struct(">HHIH")
_PLAIN_UDP = 512
_OUR_UDP = 1232


class Malformed(Exception):
    """Not a message that can be understood."""


@dataclass(frozen=True, slots=True)
class Query:
    """One question. ``name`` is in small letters without the last dot; ``question`` its bytes as they came;
    ``size`` what the client takes by UDP; ``edns`` whether it said so; ``bits`` are RD, AD, CD and DO."""

    id: int
    name: str
    kind: int
    klass: int
    question: bytes
    size: int
    edns: bool
    bits: tuple[bool, bool, bool, bool]

    @property
    def key(self) -> tuple[object, ...]:
        """Two queries with the same key get the same answer: it is all that :func:`asked` tells others. Not ``name``,
        which does not say where labels end: one label "a.b" is another name than "a" in "b"."""
        return self.question[:-4].lower(), self.kind, self.klass, self.edns, self.size, self.bits


def parse(data: bytes) -> Query:
    """Raises Malformed for what is no query with one question."""
    try:
        number, flags, questions, _, _, extra = _HEADER.unpack_from(data)
        if flags & (_QR | _OPCODE) or questions != 1:
            raise Malformed
        labels, offset = _labels(data, _HEADER.size)
        kind, klass = struct.unpack_from(">HH", data, offset)
        end = offset + 4
        size, edns, do = _PLAIN_UDP, False, False
        for item in _records(data, end, extra) if extra else ():
            if item.kind == OPT:
                size, edns, do = max(item.klass, _PLAIN_UDP), True, bool(item.ttl & _DO)
    except (struct.error, IndexError, UnicodeDecodeError) as error:
        raise Malformed from error
    return Query(number, ".".join(labels).lower(), kind, klass, data[_HEADER.size:end], size, edns,
                 (bool(flags & _RD), bool(flags & _AD), bool(flags & _CD), do))


def asked(query: Query, number: int) -> bytes:
    """The message that asks another server, without what else the client's had: what comes back is kept for others."""
    recursion, authentic, unchecked, secure = query.bits
    flags = (_RD if recursion else 0) | (_AD if authentic else 0) | (_CD if unchecked else 0)
    option = b"\0" + _RECORD.pack(OPT, query.size, _DO if secure else 0, 0) if query.edns else b""
    return _HEADER.pack(number, flags, 1, 0, 0, 1 if option else 0) + query.question + option


def answer(query: Query, rcode: int, records: Sequence[tuple[int, bytes]] = (), ttl: int = 0) -> bytes:
    """An answer of our own: ``records`` are types and data, all about the name that was asked for."""
    flags = _QR | _AA | _RA | (_RD if query.bits[0] else 0) | rcode
    body = b"".join(b"\xc0\x0c" + _RECORD.pack(kind, IN, ttl, len(data)) + data for kind, data in records)
    option = b"\0" + _RECORD.pack(OPT, _OUR_UDP, 0, 0) if query.edns else b""
    return _HEADER.pack(query.id, flags, 1, len(records), 0, 1 if option else 0) + query.question + body + option


def refusal(data: bytes, rcode: int) -> bytes:
    """An answer to what could not be understood."""
    return data[:2] + struct.pack(">HHHHH", _QR | _RA | rcode, 0, 0, 0, 0)


def fitting(query: Query, response: bytes) -> bytes:
    """``response``, or where it is too long for the client's UDP the request to come again by TCP."""
    if len(response) <= query.size:
        return response
    flags = struct.unpack_from(">H", response, 2)[0] | _TC
    return response[:2] + struct.pack(">HHHHH", flags, 1, 0, 0, 0) + query.question


def for_client(query: Query, response: bytes) -> bytes:
    """``response`` with the client's own id, and its own spelling of the name (some insist on capitals)."""
    end = _HEADER.size + len(query.question)
    return struct.pack(">H", query.id) + response[2:_HEADER.size] + query.question + response[end:]


def belongs(query: Query, number: int, response: bytes) -> bool:
    """Is this the answer to our question ``number``, and not something that somebody else sent?"""
    end = _HEADER.size + len(query.question)
    return (len(response) >= end and response[:2] == struct.pack(">H", number) and bool(response[2] & 0x80)
            and response[4:6] == b"\0\1" and response[_HEADER.size:end].lower() == query.question.lower())


def rcode(response: bytes) -> int:
    return response[3] & 0x0F


def truncated(response: bytes) -> bool:
    return bool(response[2] & (_TC >> 8))


def lifetime(response: bytes) -> int:
    """Seconds that an answer may be kept: its shortest TTL; where there is no record, what the SOA says (RFC 2308)."""
    try:
        _, _, questions, answers, authority, extra = _HEADER.unpack_from(response)
        if questions != 1:
            return 0
        _, offset = _labels(response, _HEADER.size)
        found = list(_records(response, offset + 4, answers + authority + extra))[:answers + authority]
        if answers:
            return min(item.ttl for item in found)
        for item in found:
            if item.kind == SOA and item.length >= 4:
                minimum = struct.unpack_from(">I", response, item.data + item.length - 4)[0]
                return int(min(item.ttl, minimum))
    except (struct.error, IndexError, UnicodeDecodeError):
        return 0
    return 0


def aged(response: bytes, seconds: int) -> bytes:
    """A kept answer with its TTLs counted down; only for what :func:`lifetime` has understood."""
    _, _, _, answers, authority, extra = _HEADER.unpack_from(response)
    _, offset = _labels(response, _HEADER.size)
    result = bytearray(response)
    for item in _records(response, offset + 4, answers + authority + extra):
        if item.kind != OPT:
            struct.pack_into(">I", result, item.data - 6, max(0, item.ttl - seconds))
    return bytes(result)


def name(text: str) -> bytes:
    """A name as labels; raises ValueError for one that DNS cannot have."""
    labels = [label.encode() for label in text.rstrip(".").split(".")]
    if any(not 0 < len(label) < 64 for label in labels):
        raise ValueError(text)
    return b"".join(bytes([len(label)]) + label for label in labels) + b"\0"


def reverse_address(text: str) -> str | None:
    """The address that a name below in-addr.arpa or ip6.arpa stands for, or None."""
    labels = text.split(".")
    try:
        if labels[-2:] == ["in-addr", "arpa"] and len(labels) == 6:
            return str(ipaddress.IPv4Address(".".join(reversed(labels[:4]))))
        if labels[-2:] == ["ip6", "arpa"] and len(labels) == 34:
            return str(ipaddress.IPv6Address(int("".join(reversed(labels[:32])), 16)))
    except ValueError:
        return None
    return None


@dataclass(frozen=True, slots=True)
class _Record:
    kind: int
    klass: int
    ttl: int
    data: int
    length: int


def _records(message: bytes, offset: int, count: int) -> Iterator[_Record]:
    for _ in range(count):
        offset = _skip(message, offset)
        kind, klass, ttl, length = _RECORD.unpack_from(message, offset)
        offset += _RECORD.size
        if offset + length > len(message):
            raise IndexError
        yield _Record(kind, klass, ttl, offset, length)
        offset += length


def _skip(message: bytes, offset: int) -> int:
    """Behind the name at ``offset``, which may end in a pointer."""
    while length := message[offset]:
        if length >= 0xC0:
            return offset + 2
        offset += 1 + length
    return offset + 1


def _labels(message: bytes, offset: int) -> tuple[list[str], int]:
    """The labels of a name that has no pointers, as questions have none, and where it ends."""
    labels = []
    while length := message[offset]:
        if length > 63:
            raise IndexError
        labels.append(message[offset + 1:offset + 1 + length].decode("ascii", "surrogateescape"))
        offset += 1 + length
    return labels, offset + 1
