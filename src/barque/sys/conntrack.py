"""Forget tracked connections (ctnetlink, linux/netfilter/nfnetlink_conntrack.h).

Address translation is decided once per connection, and for UDP a "connection" lasts as long as its packets come. So a
client that goes on sending would reach a container that is long gone, or never reach a new one.
"""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import os
import socket
import struct

_NETLINK_NETFILTER = 12
_CT_DELETE = (1 << 8) | 2
_REQUEST_ACK = 0x5
_NLA_F_NESTED = 0x8000
_TUPLE_ORIG, _TUPLE_REPLY, _FILTER = 1, 2, 25
_TUPLE_IP, _TUPLE_PROTO, _V4_SRC, _V6_SRC, _PROTO_NUM, _DST_PORT = 1, 2, 1, 3, 1, 3
_FILTER_ORIG, _FILTER_REPLY = 1, 2
_BY_SOURCE, _BY_PROTOCOL, _BY_TARGET_PORT = 1 << 0, 1 << 3, 1 << 5


def _attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", len(value) + 4, kind) + value + b"\0" * (-len(value) % 4)


def _nested(kind: int, value: bytes) -> bytes:
    return _attribute(kind | _NLA_F_NESTED, value)


def forget_answers_from(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> None:
    """Forget all connections that ``address`` answers, under whatever address they were begun. Raises OSError."""
    source = _attribute(_V4_SRC if address.version == 4 else _V6_SRC, address.packed)
    _delete(socket.AF_INET if address.version == 4 else socket.AF_INET6,
            _nested(_TUPLE_REPLY, _nested(_TUPLE_IP, source)), 0, _BY_SOURCE)


def forget_port(protocol: int, port: int) -> None:
    """Forget all connections of IP ``protocol`` that were begun towards ``port``. Raises OSError."""
    words = _attribute(_PROTO_NUM, bytes([protocol])) + _attribute(_DST_PORT, port.to_bytes(2, "big"))
    for family in (socket.AF_INET, socket.AF_INET6):
        _delete(family, _nested(_TUPLE_ORIG, _nested(_TUPLE_PROTO, words)), _BY_PROTOCOL | _BY_TARGET_PORT, 0)


def _delete(family: int, tuples: bytes, original: int, reply: int) -> None:
    flags = (_attribute(_FILTER_ORIG, struct.pack("=I", original)) if original else b"") + \
        (_attribute(_FILTER_REPLY, struct.pack("=I", reply)) if reply else b"")
    body = struct.pack("=BBH", family, 0, 0) + tuples + _nested(_FILTER, flags)
    with contextlib.closing(socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC,
                                          _NETLINK_NETFILTER)) as sock:
        sock.send(struct.pack("=IHHII", 16 + len(body), _CT_DELETE, _REQUEST_ACK, 1, 0) + body)
        code = -struct.unpack_from("=i", sock.recv(4096), 16)[0]
    if code not in (0, errno.ENOENT):
        raise OSError(code, os.strerror(code) + " in ctnetlink")
