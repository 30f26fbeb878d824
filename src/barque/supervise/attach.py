"""One attached client: its connection is the byte stream, standard input one way, output the other.

A client that reads slower than the process writes slows the process down, as a terminal would; one that has stopped
reading gets its output into a file on the container's disk instead (deleted, so it goes with the monitor), up to
``SPOOL_LIMIT``; beyond that, where others wait for the same output, it loses its connection after ten seconds.
"""

from __future__ import annotations

import os
import socket
from collections import deque
from collections.abc import Callable

from barque.supervise.loop import HANG_UP, IN, OUT, Loop
from barque.supervise.messages import STDOUT, Attach
from barque.supervise.stdio import Streams

MEMORY_LIMIT = 1 << 20
SPOOL_LIMIT = 1 << 30
INPUT_SIZE = 64 << 10
#: How long a client may take nothing before its output goes to the disk (seconds), and how many times that long it may
#: hold up others when there is no room there.
PATIENCE = 0.1
LAST_PATIENCE = 100


class Outbox:
    """What a client has not taken yet: in memory, then in an unnamed file in ``spool_dir``."""

    def __init__(self, spool_dir: str | None) -> None:
        self._queue: deque[bytes | memoryview] = deque()
        self.memory = 0
        self._spool_dir = spool_dir
        self._spool = -1
        self._read_at = self._written = 0

    @property
    def empty(self) -> bool:
        return not self._queue and self._read_at == self._written

    @property
    def full(self) -> bool:
        if self._spool >= 0:
            return self._written - self._read_at >= SPOOL_LIMIT
        return self.memory >= MEMORY_LIMIT

    def push(self, data: bytes | memoryview) -> None:
        if not data:
            return
        if self._spool >= 0:
            try:
                self._written += _write_all(self._spool, data, self._written)
                return
            except OSError:
                # No room: what is in the file is sent first, so this client cannot be served any further in order.
                raise BrokenPipeError from None
        self._queue.append(data)
        self.memory += len(data)

    def spool(self) -> bool:
        """Put what comes from now on into the file; False where there is none to be had."""
        if self._spool < 0 and self._spool_dir is not None:
            try:
                self._spool = os.open(self._spool_dir, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
            except OSError:
                self._spool_dir = None
        return self._spool >= 0 and not self.full

    def send(self, fd: int) -> int:
        """Send what the socket takes; returns the bytes. Raises OSError when the client is gone."""
        total = 0
        try:
            while self._queue:
                sent = os.writev(fd, [self._queue[i] for i in range(min(len(self._queue), 16))])
                total += sent
                self._forget(sent)
            while self._read_at < self._written:
                sent = os.sendfile(fd, self._spool, self._read_at, self._written - self._read_at)
                total += sent
                self._read_at += sent
        except BlockingIOError:
            return total
        if self._spool >= 0:
            self.close()
        return total

    def close(self) -> None:
        self._queue.clear()
        self.memory = self._read_at = self._written = 0
        if self._spool >= 0:
            os.close(self._spool)
            self._spool = -1

    def _forget(self, sent: int) -> None:
        self.memory -= sent
        while sent:
            first = self._queue[0]
            if sent < len(first):
                self._queue[0] = memoryview(first)[sent:]
                return
            sent -= len(first)
            self._queue.popleft()


def _write_all(fd: int, data: bytes | memoryview, at: int) -> int:
    done = 0
    while done < len(data):
        done += os.pwrite(fd, memoryview(data)[done:], at + done)
    return done


def _close_cleanly(connection: socket.socket) -> None:
    """Close without ECONNRESET for the client, which the kernel would send for input that was not read."""
    try:
        connection.shutdown(socket.SHUT_RDWR)
        while connection.recv(INPUT_SIZE):
            pass
    except OSError:
        pass    # it hung up first, or has nothing more to read
    connection.close()


class Attacher:
    """Serves one client from :meth:`join` on until its connection has ended; then it calls ``gone``."""

    def __init__(self, loop: Loop, connection: socket.socket, wanted: Attach, *, early: bytes,
                 spool_dir: str | None, gone: Callable[[Attacher], None]) -> None:
        self._loop = loop
        self._socket = connection
        self._wanted = wanted
        self._early = early
        self._outbox = Outbox(spool_dir)
        self._gone = gone
        self._streams: Streams | None = None
        self._reading = False
        self._hung_up = False
        self._closed = False
        self._finishing = False
        self._congested = False
        self._sent = self._mark = 0
        self._idle_checks = 0
        self._watch()

    def join(self, streams: Streams) -> None:
        self._streams = streams
        self._reading = self._wanted.stdin and streams.input is not None
        streams.attach(self)
        if self._reading and self._early:
            self._pass_on(self._early)
        self._watch()

    def deliver(self, stream: int, data: bytes, header: bytes) -> None:
        """Take output (framed where ``header`` says so); never waits and never fails."""
        if self._closed or self._finishing or not (self._wanted.stdout if stream == STDOUT else self._wanted.stderr):
            return
        try:
            if self._outbox.empty:
                self._send_at_once(header, data)
            else:
                self._outbox.push(header)
                self._outbox.push(data)
        except OSError:
            self._hang_up()
            return
        if not self._outbox.empty:
            self._watch()
            if self._outbox.full and not self._congested:
                self._congest()

    def finish(self) -> None:
        """There is no more output: close the connection as soon as the client has taken what is there."""
        self._finishing = True
        self._reading = False
        if self._outbox.empty:
            self.close()
        else:
            self._watch()

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._loop.forget(self._socket.fileno())
        _close_cleanly(self._socket)
        self._outbox.close()
        if self._streams is not None:
            self._streams.leave(self)
        self._gone(self)

    def _send_at_once(self, header: bytes, data: bytes) -> None:
        try:
            sent = os.writev(self._socket.fileno(), [header, data])
        except BlockingIOError:
            sent = 0
        self._sent += sent
        if sent < len(header):
            self._outbox.push(header[sent:])
            self._outbox.push(data)
        else:
            self._outbox.push(memoryview(data)[sent - len(header):])

    def _watch(self) -> None:
        if self._closed:
            return
        events = (IN if self._reading else 0) | (0 if self._outbox.empty else OUT)
        if self._hung_up and not events:
            self._loop.forget(self._socket.fileno())    # or its EPOLLHUP would come without end
        else:
            self._loop.watch(self._socket.fileno(), events, self._ready)

    def _ready(self, events: int) -> None:
        if events & HANG_UP:
            self._hang_up()
        if events & IN and self._reading:
            self._read()
        elif events & OUT and not self._closed and not self._outbox.empty:
            self._send()

    def _hang_up(self) -> None:
        """The client is gone; what it had sent before is still input."""
        self._hung_up = True
        self._outbox.close()
        self._relax()
        if not self._wanted.stdin or self._streams is None or self._streams.input is None or self._finishing:
            self.close()
        elif self._streams.input.open:
            self._wanted = Attach(exec_id=self._wanted.exec_id, stdin=True)
            self._watch()
        else:
            self.close()

    def _read(self) -> None:
        try:
            data = self._socket.recv(INPUT_SIZE)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if data:
            self._pass_on(data)
        else:
            self._input_ended()

    def _pass_on(self, data: bytes) -> None:
        assert self._streams is not None and self._streams.input is not None
        self._reading = False
        self._streams.input.write(data, self._passed_on)
        self._watch()

    def _passed_on(self) -> None:
        if not self._closed and not self._finishing:
            self._reading = True
            self._watch()

    def _input_ended(self) -> None:
        assert self._streams is not None and self._streams.input is not None
        self._reading = False
        if self._streams.input.close_on_eof:
            self._streams.input.end()
            if self._hung_up:
                self.close()
            else:
                self._watch()
        else:
            # As dockerd does: whoever ends its input to a process that keeps its own open has detached.
            self.finish()

    def _send(self) -> None:
        try:
            sent = self._outbox.send(self._socket.fileno())
        except OSError:
            self._hang_up()
            return
        self._sent += sent
        if self._outbox.empty and self._finishing:
            self.close()
            return
        if self._congested and not self._outbox.full:
            self._relax()
        self._watch()

    def _congest(self) -> None:
        assert self._streams is not None
        self._congested = True
        self._mark = self._sent
        self._streams.hold(self)
        self._loop.call_later(PATIENCE, self._check_progress)

    def _relax(self) -> None:
        self._congested = False
        self._idle_checks = 0
        if self._streams is not None:
            self._streams.relax(self)

    def _check_progress(self) -> None:
        if self._closed or not self._congested:
            return
        assert self._streams is not None
        moved = self._sent != self._mark
        self._mark = self._sent
        self._idle_checks = 0 if moved else self._idle_checks + 1
        if not moved and self._outbox.spool():
            self._relax()
        elif self._idle_checks > LAST_PATIENCE and self._streams.shared:
            self.close()
        else:
            self._loop.call_later(PATIENCE, self._check_progress)
