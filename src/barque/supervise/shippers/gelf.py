"""Graylog's extended log format 1.1: compressed and chunked datagrams, or documents with a NUL behind each over TCP."""

from __future__ import annotations

import errno
import json
import os
import socket
import zlib

from barque.supervise.entries import Entry
from barque.supervise.messages import STDERR
from barque.supervise.shippers.connection import Connection, Patience, connect_inet
from barque.supervise.shippers.orders import GelfOrder

_ERROR, _INFO = 3, 6
CHUNK = 1420
_CHUNK_HEAD = 12
MAX_CHUNKS = 128


class Gelf:
    """One message per line; an empty one is none."""

    def __init__(self, order: GelfOrder, patience: Patience) -> None:
        """Raises OSError where nobody listens (TCP)."""
        self._order = order
        self._patience = patience
        self._host = os.uname().nodename
        self._connection: Connection | None = self._connect()

    def send(self, stream: int, entry: Entry) -> None:
        if not entry.line:
            return
        document = json.dumps({
            "version": "1.1", "host": self._host, "short_message": entry.line.decode(errors="replace"),
            "timestamp": entry.time // 10**6 / 1000, "level": _ERROR if stream == STDERR else _INFO,
            **self._order.extra}, separators=(",", ":"), ensure_ascii=False).encode()
        if self._order.network == "tcp":
            self._send_stream(document + b"\0")
        else:
            assert self._connection is not None
            for datagram in chunks(self._compress(document)):
                self._connection.send(datagram)

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _connect(self) -> Connection:
        kind = socket.SOCK_STREAM if self._order.network == "tcp" else socket.SOCK_DGRAM
        return connect_inet(self._patience, kind, self._order.address)

    def _compress(self, document: bytes) -> bytes:
        if self._order.compression == "none":
            return document
        packer = zlib.compressobj(self._order.level, wbits=31 if self._order.compression == "gzip" else 15)
        return packer.compress(document) + packer.flush()

    def _send_stream(self, data: bytes) -> None:
        """After a failure wait, connect and try again, as often as was asked for."""
        for _ in range(self._order.max_reconnect + 1):
            try:
                if self._connection is None:
                    self._connection = self._connect()
                self._connection.send(data)
                return
            except OSError as error:
                failed = error
                self.close()
                self._patience.wait(-1, 0, self._order.reconnect_delay)
        raise failed


def chunks(message: bytes) -> list[bytes]:
    """``message`` as datagrams. Raises OSError for one that is too long for the format."""
    if len(message) <= CHUNK:
        return [message]
    step = CHUNK - _CHUNK_HEAD
    parts = [message[at:at + step] for at in range(0, len(message), step)]
    if len(parts) > MAX_CHUNKS:
        raise OSError(errno.EMSGSIZE, f"msg too large, would need {len(parts)} chunks")
    name = os.urandom(8)
    return [b"\x1e\x0f" + name + bytes([number, len(parts)]) + part for number, part in enumerate(parts)]
