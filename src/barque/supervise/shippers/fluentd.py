"""Fluentd's forward protocol, message mode: ``[tag, time, record, option]`` in msgpack, with receipts on demand."""

from __future__ import annotations

import os
import socket
import time
from base64 import b64encode

import msgspec

from barque.supervise.entries import Entry
from barque.supervise.messages import STDERR
from barque.supervise.shippers.connection import Connection, Patience, connect_inet, connect_unix
from barque.supervise.shippers.orders import FluentdOrder, Tls

#: As fluentd's client for Go has it (seconds).
CONNECT_TIMEOUT = 3.0
MAX_RETRY_WAIT = 60.0
RETRY_GROWTH = 1.5
_encode = msgspec.msgpack.Encoder().encode


class _Receipt(msgspec.Struct):
    ack: str


_receipt = msgspec.msgpack.Decoder(_Receipt)


class Fluentd:
    """One message per entry, sent until it was taken: the order says how often that is tried."""

    def __init__(self, order: FluentdOrder, patience: Patience) -> None:
        """Raises OSError where nobody listens, unless the order leaves the connection for later."""
        self._order = order
        self._patience = patience
        self._connection: Connection | None = None
        self._connected_at = 0.0
        if not order.lazy:
            self._connect()

    def send(self, stream: int, entry: Entry) -> None:
        interval = self._order.reconnect_interval
        if interval and time.monotonic() - self._connected_at > interval:
            self.close()    # the name may stand for another address by now
        receipt, message = self._message(stream, entry)
        failed: OSError = ConnectionError()
        for _ in range(self._order.max_retries):
            connection = self._connection or self._connect_patiently()
            try:
                connection.send(message, self._order.write_timeout or None)
                if receipt and self._receipt(connection) != receipt:
                    raise ConnectionError(f"the receipt is not for chunk {receipt}")
                return
            except OSError as error:
                failed = error
                self.close()
        raise failed

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _connect(self) -> Connection:
        order = self._order
        if order.network == "unix":
            self._connection = connect_unix(self._patience, socket.SOCK_STREAM, order.address)
        else:
            self._connection = connect_inet(self._patience, socket.SOCK_STREAM, order.address,
                                            Tls() if order.network == "tls" else None, CONNECT_TIMEOUT)
        self._connected_at = time.monotonic()
        return self._connection

    def _connect_patiently(self) -> Connection:
        """Wait longer after each failure."""
        failed: OSError = ConnectionError()
        wait = self._order.retry_wait / RETRY_GROWTH
        for _ in range(self._order.max_retries):
            try:
                return self._connect()
            except OSError as error:
                failed = error
            self._patience.wait(-1, 0, min(wait, MAX_RETRY_WAIT))
            wait = min(wait * RETRY_GROWTH, MAX_RETRY_WAIT)
        raise failed

    def _message(self, stream: int, entry: Entry) -> tuple[str, bytes]:
        seconds, nanos = divmod(entry.time, 10**9)
        record = {"source": "stderr" if stream == STDERR else "stdout", "log": entry.line.decode(errors="replace"),
                  **self._order.record}
        if entry.partial is not None:
            record |= {"partial_message": "true", "partial_id": entry.partial.id,
                       "partial_ordinal": str(entry.partial.ordinal),
                       "partial_last": "true" if entry.partial.last else "false"}
        moment = msgspec.msgpack.Ext(0, seconds.to_bytes(4, "big") + nanos.to_bytes(4, "big")) \
            if self._order.subsecond else seconds
        receipt = b64encode(os.urandom(16)).decode() if self._order.request_ack else ""
        return receipt, _encode([self._order.tag, moment, record, {"chunk": receipt} if receipt else {}])

    def _receipt(self, connection: Connection) -> str:
        answer = b""
        while True:
            answer += connection.receive(self._order.read_timeout or None)
            try:
                return _receipt.decode(answer).ack
            except msgspec.ValidationError as error:
                raise ConnectionError(str(error)) from None
            except msgspec.DecodeError:
                continue    # not all of it has come yet
