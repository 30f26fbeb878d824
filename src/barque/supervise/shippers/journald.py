"""The journal, over its native protocol (systemd.io, Native Journal Protocol), with the fields of dockerd's driver."""

from __future__ import annotations

import errno
import fcntl
import os
import socket

from barque.supervise.entries import Entry
from barque.supervise.logfile import Clock
from barque.supervise.messages import STDERR
from barque.supervise.shippers.connection import Connection, Patience, connect_unix
from barque.supervise.shippers.orders import JournaldOrder

_ERROR, _INFO = b"3", b"6"


def field(name: str, value: bytes) -> bytes:
    """``NAME=value``, or with a length before a value of several lines."""
    if b"\n" in value:
        return b"%b\n%b%b\n" % (name.encode(), len(value).to_bytes(8, "little"), value)
    return b"%b=%b\n" % (name.encode(), value)


class Journald:
    """One datagram per entry; where it is too long for that, a sealed file in its place."""

    def __init__(self, order: JournaldOrder, patience: Patience) -> None:
        """Raises OSError where there is no journal."""
        self._order = order
        self._patience = patience
        epoch = os.urandom(32).hex()
        self._fields = b"".join(field(name, value.encode())
                                for name, value in {**order.fields, "CONTAINER_LOG_EPOCH": epoch}.items())
        self._count = 0
        self._clock = Clock()
        try:
            self._connection = self._connect()
        except OSError:
            raise OSError("journald is not enabled on this host") from None

    def send(self, stream: int, entry: Entry) -> None:
        self._count += 1
        message = self._message(stream, entry)
        try:
            self._deliver(message)
        except (ConnectionError, FileNotFoundError):    # it was started anew
            self._connection.close()
            self._connection = self._connect()
            self._deliver(message)

    def close(self) -> None:
        self._connection.close()

    def _connect(self) -> Connection:
        return connect_unix(self._patience, socket.SOCK_DGRAM, self._order.socket)

    def _deliver(self, message: bytes) -> None:
        try:
            self._connection.send(message)
        except OSError as error:
            if error.errno not in (errno.EMSGSIZE, errno.ENOBUFS):
                raise
            fd = os.memfd_create("log", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
            try:
                rest = memoryview(message)
                while rest:
                    rest = rest[os.write(fd, rest):]
                fcntl.fcntl(fd, fcntl.F_ADD_SEALS,
                            fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SEAL)
                self._connection.send_descriptor(fd)
            finally:
                os.close(fd)

    def _message(self, stream: int, entry: Entry) -> bytes:
        parts = [field("PRIORITY", _ERROR if stream == STDERR else _INFO), field("MESSAGE", entry.line), self._fields,
                 field("SYSLOG_TIMESTAMP", self._clock.at(entry.time).encode())]
        if entry.partial is not None:
            parts += [field("CONTAINER_PARTIAL_ID", entry.partial.id.encode()),
                      field("CONTAINER_PARTIAL_ORDINAL", b"%d" % entry.partial.ordinal),
                      field("CONTAINER_PARTIAL_LAST", b"true" if entry.partial.last else b"false")]
            if not entry.partial.last:
                parts.append(field("CONTAINER_PARTIAL_MESSAGE", b"true"))
        parts.append(field("CONTAINER_LOG_ORDINAL", b"%d" % self._count))
        return b"".join(parts)
