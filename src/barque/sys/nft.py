"""nftables through libnftables (libnftables(3)): one call is one transaction, all of it or nothing.

Changes are written in nft(8)'s own language, which is what an administrator reads in ``nft list table``; listings come
back as its JSON (libnftables-json(5)).
"""

from __future__ import annotations

import ctypes
import json
import socket
import struct
from typing import Any

_LIBRARY = "libnftables.so.1"
_OUTPUT_JSON = 1 << 4
_NETLINK_NETFILTER, _GROUP_NFTABLES = 12, 1 << 6
_DELTABLE = 10 << 8 | 2  # NFNL_SUBSYS_NFTABLES, NFT_MSG_DELTABLE
#: Length and type of a netlink message (netlink(7)); flags, number and sender follow.
_HEADER = struct.Struct("=IH10x")


class NftablesMissing(OSError):
    """The library is not installed."""


class NftablesError(OSError):
    """The kernel or the parser refused the whole transaction; the text is nft's own."""


def watched() -> socket.socket:
    """A socket that is told of every change of this network namespace's tables: see :func:`tells_of_removal`."""
    sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC,
                         _NETLINK_NETFILTER)
    try:
        sock.bind((0, _GROUP_NFTABLES))
    except OSError:
        sock.close()
        raise
    return sock


def tells_of_removal(packet: bytes) -> bool:
    """Whether a packet of :func:`watched` says that a table was removed, by whomever."""
    offset = 0
    while offset + _HEADER.size <= len(packet):
        length, kind = _HEADER.unpack_from(packet, offset)
        if kind == _DELTABLE:
            return True
        offset += max((length + 3) & ~3, _HEADER.size)
    return False


class Nftables:
    """One libnftables context, for ever of the network namespace in which it was made. Not for two threads at once."""

    def __init__(self) -> None:
        try:
            self._lib = ctypes.CDLL(_LIBRARY)
        except OSError as error:
            raise NftablesMissing(2, f"{_LIBRARY} cannot be loaded ({error}); on Debian: apt install libnftables1") \
                from error
        self._lib.nft_ctx_new.restype = ctypes.c_void_p
        self._lib.nft_ctx_free.argtypes = [ctypes.c_void_p]
        self._lib.nft_ctx_get_output_buffer.restype = ctypes.c_char_p
        self._lib.nft_ctx_get_error_buffer.restype = ctypes.c_char_p
        for name in ("nft_ctx_buffer_output", "nft_ctx_buffer_error", "nft_ctx_get_output_buffer",
                     "nft_ctx_get_error_buffer"):
            getattr(self._lib, name).argtypes = [ctypes.c_void_p]
        self._lib.nft_ctx_output_set_flags.argtypes = [ctypes.c_void_p, ctypes.c_uint]
        self._lib.nft_run_cmd_from_buffer.argtypes = [ctypes.c_void_p, ctypes.c_char_p]
        self._context: int | None = self._lib.nft_ctx_new(0)
        self._lib.nft_ctx_buffer_output(self._context)
        self._lib.nft_ctx_buffer_error(self._context)

    def close(self) -> None:
        if self._context is not None:
            self._lib.nft_ctx_free(self._context)
            self._context = None

    def apply(self, commands: str) -> None:
        """Make the changes of one nft script in one transaction; raises NftablesError and changes nothing."""
        self._run(commands, 0)

    def list(self, what: str) -> list[dict[str, Any]]:
        """The objects that ``list {what}`` names, as libnftables-json(5) has them."""
        answer = json.loads(self._run("list " + what, _OUTPUT_JSON))
        return [item for item in answer["nftables"] if "metainfo" not in item]

    def _run(self, commands: str, flags: int) -> str:
        self._lib.nft_ctx_output_set_flags(self._context, flags)
        result = self._lib.nft_run_cmd_from_buffer(self._context, commands.encode())
        errors = self._lib.nft_ctx_get_error_buffer(self._context) or b""
        output = self._lib.nft_ctx_get_output_buffer(self._context) or b""
        if result != 0:
            raise NftablesError(22, "nftables: " + errors.decode(errors="replace").strip())
        return str(output.decode())
