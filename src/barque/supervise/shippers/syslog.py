"""Syslog over UDP, TCP, TLS and unix sockets, in the formats of dockerd's driver (RFC 3164, RFC 5424, RFC 5425)."""

from __future__ import annotations

import os
import socket
import time

from barque.supervise.entries import Entry
from barque.supervise.messages import STDERR
from barque.supervise.shippers.connection import Connection, Patience, connect_inet, connect_unix
from barque.supervise.shippers.orders import SyslogOrder

#: Where a local daemon listens.
LOCAL = ("/dev/log", "/var/run/syslog", "/var/run/log")
_ERROR, _INFO = 3, 6
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


class Syslog:
    """One message per line; an empty one is none. A lost connection is made anew once for each message."""

    def __init__(self, order: SyslogOrder, patience: Patience) -> None:
        """Raises OSError where nobody listens."""
        self._order = order
        self._patience = patience
        self._host = os.uname().nodename or "localhost"
        self._pid = os.getpid()
        self._connection: Connection | None = self._connect()

    def send(self, stream: int, entry: Entry) -> None:
        if not entry.line:
            return
        message = self._format(stream, entry)
        if self._connection is not None:
            try:
                self._connection.send(message)
                return
            except OSError:
                self.close()
        self._connection = self._connect()
        self._connection.send(message)

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _connect(self) -> Connection:
        network, address = self._order.network, self._order.address
        if not network:
            return self._connect_local()
        if network in ("unix", "unixgram"):
            return connect_unix(self._patience, socket.SOCK_STREAM if network == "unix" else socket.SOCK_DGRAM, address)
        return connect_inet(self._patience, socket.SOCK_DGRAM if network == "udp" else socket.SOCK_STREAM, address,
                            self._order.tls if network == "tcp+tls" else None)

    def _connect_local(self) -> Connection:
        for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
            for path in LOCAL:
                try:
                    return connect_unix(self._patience, kind, path)
                except OSError:
                    continue
        raise OSError("Unix syslog delivery error")

    def _format(self, stream: int, entry: Entry) -> bytes:
        """The head as the format has it, the line, and a newline, which ends a message in a stream."""
        tag, pid = self._order.tag, self._pid
        priority = self._order.facility | (_ERROR if stream == STDERR else _INFO)
        if self._order.format.startswith("rfc5424"):
            moment = rfc3339(entry.time, micro=self._order.format == "rfc5424micro")
            head = f"<{priority}>1 {moment} {self._host} {tag} {pid} {tag} - "
        else:
            host = f"{self._host} " if self._order.format == "rfc3164" else ""
            head = f"<{priority}>{stamp(entry.time)} {host}{tag}[{pid}]: "
        message = head.encode() + entry.line + b"\n"
        if self._order.network == "tcp+tls" and self._order.format.startswith("rfc5424"):
            return b"%d %b" % (len(message), message)
        return message


def stamp(nanos: int) -> str:
    """``Jan  2 15:04:05``, local time."""
    now = time.localtime(nanos // 10**9)
    return f"{_MONTHS[now.tm_mon - 1]} {now.tm_mday:2} {now.tm_hour:02}:{now.tm_min:02}:{now.tm_sec:02}"


def rfc3339(nanos: int, *, micro: bool = False) -> str:
    """Local time with its offset from UTC."""
    seconds, rest = divmod(nanos, 10**9)
    now = time.localtime(seconds)
    minutes = abs(now.tm_gmtoff) // 60
    offset = f"{'-' if now.tm_gmtoff < 0 else '+'}{minutes // 60:02}:{minutes % 60:02}" if now.tm_gmtoff else "Z"
    return time.strftime("%Y-%m-%dT%H:%M:%S", now) + (f".{rest // 1000:06}" if micro else "") + offset
