"""Where a monitor puts its container's output: a file, a shipper, or both.

What is passed to a shipper, over a unix socket, is pieces of output, each behind a :data:`PIECE` of the number of the
stream, the length and the time (nanoseconds since 1970). Its answer, after the last one, is its end of the connection.
"""

from __future__ import annotations

import socket
import time
from collections import deque
from collections.abc import Callable
from struct import Struct
from typing import Protocol

from barque.supervise.local_log import LocalFile
from barque.supervise.logfile import JsonFile
from barque.supervise.loop import OUT, Loop
from barque.supervise.messages import LogConfig, Shipping
from barque.supervise.rest import LogRest, Luggage
from barque.supervise.rundir import by_short_name

PIECE = Struct("!BIQ")
#: How long the end of a container waits for a shipper that writes files (seconds), as dockerd waits for its loggers.
CLOSE_TIMEOUT = 10
#: Not in Python's socket module: an SO_SNDBUF that may pass the host's limit, where one has CAP_NET_ADMIN.
SO_SNDBUFFORCE = 32


class Log(Protocol):
    """What :class:`barque.supervise.logfile.JsonFile` offers; ``dropped`` counts the bytes that are not in the log."""

    @property
    def dropped(self) -> int: ...
    def write(self, stream: int, data: bytes) -> None: ...
    def close(self) -> None: ...
    def work(self) -> bool: ...
    def abandon_work(self) -> None: ...

    @property
    def idle(self) -> bool: ...
    def pack(self, luggage: Luggage) -> LogRest: ...


def open_log(config: LogConfig, loop: Loop, want_work: Callable[[], None], throttle: Callable[[bool], None]) -> Log:
    """``throttle(True)`` asks for no further output until ``throttle(False)``. Raises OSError."""
    file = open_file(config, want_work) if config.path else None
    if config.shipping is not None:
        return Shipped(config.shipping, loop, throttle, file, _connect(config.shipping))
    if file is None:
        raise ValueError("a log needs a file or a shipper")
    return file


def reopen_log(config: LogConfig, loop: Loop, want_work: Callable[[], None], throttle: Callable[[bool], None],
               left: LogRest, fds: list[int]) -> Log:
    """The log that was packed as ``left``."""
    file = None
    if left.file is not None:
        file = open_file(config, want_work, fds[left.file.place])
        file.unpack(left)
    if config.shipping is None:
        assert file is not None
        return file
    connection = socket.socket(fileno=fds[left.shipper]) if left.shipper is not None else None
    log = Shipped(config.shipping, loop, throttle, file, connection)
    log.unpack(left)
    return log


def open_file(config: LogConfig, want_work: Callable[[], None] = lambda: None, fd: int = -1) -> JsonFile | LocalFile:
    return (LocalFile if config.format == "local" else JsonFile)(config, want_work, fd)


def _connect(shipping: Shipping) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    by_short_name(shipping.socket, connection.connect)
    return connection


class Shipped:
    """Passes output to a shipper, and to ``file``, which is there to be read. A dead shipper never holds anybody up."""

    def __init__(self, shipping: Shipping, loop: Loop, throttle: Callable[[bool], None], file: Log | None,
                 connection: socket.socket | None) -> None:
        """``connection`` leads to the shipper, None to one that has died."""
        self._shipping = shipping
        self._loop = loop
        self._throttle = throttle
        self._file = file
        self._lost = 0
        #: Pieces, the first one perhaps sent in part, with what each counts towards the buffer.
        self._waiting: deque[tuple[memoryview, int]] = deque()
        self._held = 0
        #: Streams in the middle of a line that is passed on, and of one that is dropped.
        self._within: set[int] = set()
        self._dropping: set[int] = set()
        self._socket = connection
        if connection is not None:
            connection.setblocking(False)

    def connect(self) -> None:
        """Go on with a new shipper, from the next line on. Raises OSError."""
        connection = _connect(self._shipping)
        self._let_go()
        connection.setblocking(False)
        self._socket = connection

    @property
    def dropped(self) -> int:
        return self._lost + (self._file.dropped if self._file is not None else 0)

    def write(self, stream: int, data: bytes) -> None:
        if self._file is not None:
            self._file.write(stream, data)
        kept = self._fitting(stream, data) if self._socket is not None else self._missed(stream, data)
        self._lost += len(data) - len(kept)
        if kept:
            piece = PIECE.pack(stream, len(kept), time.time_ns()) + kept
            cost = kept.count(b"\n") if self._shipping.count_lines else len(kept)
            self._waiting.append((memoryview(piece), cost))
            self._held += cost
            if len(self._waiting) == 1:
                self._flush()

    def close(self) -> None:
        """Pass on what waits as far as that can be done at once: the shipper goes on without the container."""
        if self._socket is not None:
            if self._waiting:
                self._make_room()
                self._send()
            self._part()
        if self._file is not None:
            self._file.close()

    @property
    def idle(self) -> bool:
        return not self._waiting and (self._file is None or self._file.idle)

    def pack(self, luggage: Luggage) -> LogRest:
        file = self._file.pack(luggage) if self._file is not None else LogRest(0)
        shipper = luggage.silent(self._socket.fileno()) if self._socket is not None else None
        return LogRest(self._lost + file.dropped, file.file, shipper, [*self._within], [*self._dropping])

    def unpack(self, left: LogRest) -> None:
        self._lost = left.dropped if self._file is None else 0    # the file has taken them over
        self._within, self._dropping = set(left.within), set(left.dropping)

    def work(self) -> bool:
        return self._file is not None and self._file.work()

    def abandon_work(self) -> None:
        if self._file is not None:
            self._file.abandon_work()

    def _missed(self, stream: int, data: bytes) -> bytes:
        """Nothing of ``data``; a shipper that comes in the middle of a line does not get the rest of it."""
        self._within.discard(stream)
        (self._dropping.discard if data.endswith(b"\n") else self._dropping.add)(stream)
        return b""

    def _fitting(self, stream: int, data: bytes) -> bytes:
        """What of ``data`` there is room for. Of a line of which the beginning was dropped, the rest is dropped too."""
        if stream in self._dropping:
            end = data.find(b"\n") + 1
            if not end:
                return b""
            self._dropping.discard(stream)
            data = data[end:]
        if self._waiting and self._shipping.buffer:
            end = self._whole_lines(data, max(0, self._shipping.buffer - self._held))
            if stream in self._within:
                end = max(end, data.find(b"\n") + 1)
            if data[end:] and not data.endswith(b"\n"):
                self._dropping.add(stream)
            data = data[:end]
        if data:
            (self._within.discard if data.endswith(b"\n") else self._within.add)(stream)
        return data

    def _whole_lines(self, data: bytes, room: int) -> int:
        """How much of ``data`` fits: all of it, or as many lines as there is room for."""
        if self._shipping.count_lines:
            lines = data.split(b"\n", room)
            return len(data) - len(lines[-1]) if len(lines) > room else len(data)
        return len(data) if len(data) <= room else data.rfind(b"\n", 0, room) + 1

    def _flush(self) -> None:
        self._send()
        if self._socket is None:
            return
        if self._waiting:
            self._loop.watch(self._socket.fileno(), OUT, lambda _: self._flush())
        else:
            self._loop.forget(self._socket.fileno())
        if not self._shipping.buffer:
            self._throttle(bool(self._waiting))

    def _send(self) -> None:
        """Send what the socket takes."""
        assert self._socket is not None
        try:
            while self._waiting:
                piece, cost = self._waiting[0]
                sent = self._socket.send(piece)
                if sent < len(piece):
                    self._waiting[0] = piece[sent:], cost
                    continue
                self._waiting.popleft()
                self._held -= cost
        except BlockingIOError:
            return
        except OSError:
            self._let_go()    # it is dead

    def _make_room(self) -> None:
        """Let the socket hold all that waits. The kernel doubles the figure, and counts more than the bytes."""
        assert self._socket is not None
        size = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) + sum(len(p) for p, _ in self._waiting)
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, SO_SNDBUFFORCE, size)
        except PermissionError:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, size)

    def _part(self) -> None:
        """Tell the shipper that this was all, and wait for its end where that was asked for."""
        if self._socket is None:
            return
        try:
            self._socket.shutdown(socket.SHUT_WR)
            if self._shipping.wait:
                self._socket.settimeout(CLOSE_TIMEOUT)
                self._socket.recv(1)
        except OSError:
            pass    # it has died, or hangs
        self._let_go()

    def _let_go(self) -> None:
        """Go on without the shipper."""
        if self._socket is not None:
            self._loop.forget(self._socket.fileno())
            self._socket.close()
            self._socket = None
        self._lost += sum(len(piece) for piece, _ in self._waiting)
        self._waiting.clear()
        self._held = 0
        self._dropping |= self._within
        self._within.clear()
        self._throttle(False)
