"""The tables of iptables as it was before nftables (linux/netfilter_ipv4/ip_tables.h), as far as we look into them."""

from __future__ import annotations

import ctypes
import socket
import struct
from dataclasses import dataclass

from barque.sys.libc import check, libc

_GET_INFO, _GET_ENTRIES = 64, 65
_INFO = struct.Struct("=32s13I")  # name, valid hooks, five hook entries, five underflows, number and size of entries
_FIRST_UNDERFLOW, _SIZE = 7, 13
_ENTRIES_HEAD = struct.Struct("=32sI4x")
_TARGET_HEAD = 32
_DROP = -1
#: The hooks of the built-in chains, by their numbers in the table.
HOOKS = {"input": 1, "forward": 2}


@dataclass(frozen=True, slots=True)
class Version:
    """iptables or ip6tables: where its tables are listed, its socket, and how long the head of an entry is."""

    name: str
    listing: str
    family: int
    level: int
    entry: int


VERSIONS = (Version("iptables", "/proc/net/ip_tables_names", socket.AF_INET, socket.IPPROTO_IP, 112),
            Version("ip6tables", "/proc/net/ip6_tables_names", socket.AF_INET6, socket.IPPROTO_IPV6, 168))


def drops_by_default(version: Version, hook: str) -> bool:
    """Whether the policy of a built-in chain of the table "filter" is to drop; False where there is no such table.

    A table that is not in use is not asked for: the question would load it. Raises OSError.
    """
    try:
        with open(version.listing) as file:
            if "filter" not in file.read().split():
                return False
    except FileNotFoundError:
        return False
    with socket.socket(version.family, socket.SOCK_RAW, socket.IPPROTO_RAW) as sock:
        name = b"filter".ljust(32, b"\0")
        info = _INFO.unpack(_ask(sock, version.level, _GET_INFO, name.ljust(_INFO.size, b"\0")))
        asked = _ENTRIES_HEAD.pack(name, info[_SIZE]) + bytes(info[_SIZE])
        entries = _ask(sock, version.level, _GET_ENTRIES, asked)[_ENTRIES_HEAD.size:]
    # The policy is the verdict of the chain's last rule, which has no conditions between its head and its target.
    (verdict,) = struct.unpack_from("=i", entries, info[_FIRST_UNDERFLOW + HOOKS[hook]] + version.entry + _TARGET_HEAD)
    return bool(verdict == _DROP)


def _ask(sock: socket.socket, level: int, option: int, asked: bytes) -> bytes:
    """getsockopt(2) with a question in the buffer, which Python's own cannot have."""
    buffer = ctypes.create_string_buffer(asked, len(asked))
    length = ctypes.c_uint32(len(asked))
    check(libc.getsockopt(sock.fileno(), level, option, buffer, ctypes.byref(length)), "getsockopt")
    return buffer.raw[:length.value]
