"""A monitor's end of a control connection."""

from __future__ import annotations

import socket
from collections.abc import Callable

from barque.supervise import messages as m
from barque.supervise.loop import HANG_UP, IN, OUT, Loop
from barque.supervise.wire import REQUESTS, Decoder, ProtocolError, encode

#: Answers that a client has not read; more means that it never will.
MAX_BACKLOG = 1 << 20


class Connection:
    """Hands each request to ``handle`` and sends the answers; calls ``gone`` when the client has left."""

    def __init__(self, loop: Loop, connection: socket.socket, handle: Callable[[Connection, int, m.Request], None],
                 gone: Callable[[Connection], None]) -> None:
        self._loop = loop
        self._socket = connection
        self._handle = handle
        self._gone = gone
        self._decoder = Decoder(REQUESTS)
        self._backlog = bytearray()
        self._open = True
        loop.watch(connection.fileno(), IN, self._ready)

    @property
    def idle(self) -> bool:
        """Whether nothing is half read or half sent."""
        return not self._backlog and not self._decoder.pending

    def fileno(self) -> int:
        return self._socket.fileno()

    def answer(self, serial: int, message: m.Answer) -> None:
        if not self._open:
            return
        self._backlog += encode(serial, message)
        self._flush()

    def detach(self) -> tuple[socket.socket, bytes]:
        """Give the socket away, with what the client has sent beyond its last request."""
        self._loop.forget(self._socket.fileno())
        self._open = False
        return self._socket, self._decoder.rest()

    def close(self) -> None:
        if self._open:
            self._open = False
            self._loop.forget(self._socket.fileno())
            self._socket.close()
            self._gone(self)

    def _ready(self, events: int) -> None:
        if events & OUT:
            self._flush()
        if events & (IN | HANG_UP) and self._open:
            self._read()

    def _read(self) -> None:
        try:
            data = self._socket.recv(1 << 16)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.close()
            return
        self._decoder.feed(data)
        try:
            while self._open and (item := self._decoder.next()) is not None:
                self._handle(self, *item)
        except ProtocolError:
            self.close()

    def _flush(self) -> None:
        try:
            while self._backlog:
                del self._backlog[:self._socket.send(self._backlog)]
        except BlockingIOError:
            if len(self._backlog) > MAX_BACKLOG:
                self.close()
                return
        except OSError:
            self.close()
            return
        if self._open:
            self._loop.watch(self._socket.fileno(), IN | OUT if self._backlog else IN, self._ready)
