"""A container's standard streams on ours: one poll loop over stdin, the hijacked connection, the wait and the
signals."""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # signal itself costs 5 ms of enum
import os
import select

from barque.cli.errors import ExitCode
from barque.cli.tty import DetachFilter, RawMode, size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from barque.client.http import Connection, Response

READ_SIZE = 32 * 1024
MSG_DONTWAIT = 0x40
#: Signals that concern this program alone.
_OWN = {int(_signal.SIGCHLD), int(_signal.SIGPIPE), int(_signal.SIGURG), int(_signal.SIGKILL), int(_signal.SIGSTOP)}
_LAST_CLASSIC = 31
_PATIENCE = 3


class Frames:
    """Takes docker's 8-byte-framed stream apart: stdout (0, 1) and stderr (2) go to their descriptors."""

    def __init__(self, stdout: int, stderr: int) -> None:
        self._fds = {0: stdout, 1: stdout, 2: stderr}
        self._header = b""
        self._left = 0
        self._fd = stdout

    def feed(self, data: bytes) -> None:
        while data:
            if self._left:
                part, data = data[: self._left], data[self._left :]
                self._left -= len(part)
                write_all(self._fd, part)
                continue
            need = 8 - len(self._header)
            self._header += data[:need]
            data = data[need:]
            if len(self._header) == 8:
                kind = self._header[0]
                if kind == 3:
                    self._fd = 2  # the engine's own error, said on stderr
                elif kind not in self._fds:
                    raise ExitCode(1, f"Unrecognized input header: {kind}")
                else:
                    self._fd = self._fds[kind]
                self._left = int.from_bytes(self._header[4:], "big")
                self._header = b""


def write_all(fd: int, data: bytes) -> None:
    """Write to a descriptor that may be non-blocking; -1 discards."""
    while data and fd >= 0:
        try:
            data = data[os.write(fd, data) :]
        except BlockingIOError:
            poll = select.poll()
            poll.register(fd, select.POLLOUT)
            poll.poll()


class Signals:
    """Collects signals through a pipe while it is open; ``numbers`` is the pipe's reading end."""

    def __init__(self, wanted: set[int]) -> None:
        self.fd, self._writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._previous_fd = _signal.set_wakeup_fd(self._writer)
        self._previous: dict[int, Any] = {}
        for number in wanted:
            self._previous[number] = _signal.signal(number, lambda *_: None)

    def take(self) -> bytes:
        try:
            return os.read(self.fd, 512)
        except BlockingIOError:
            return b""

    def close(self) -> None:
        for number, handler in self._previous.items():
            _signal.signal(number, handler)
        _signal.set_wakeup_fd(self._previous_fd)
        os.close(self.fd)
        os.close(self._writer)


def signal_name(number: int) -> str:
    for name in dir(_signal):
        if name.startswith("SIG") and name[3] != "_" and getattr(_signal, name) == number:
            return name
    return str(number)


def all_signals() -> set[int]:
    return set(range(1, _LAST_CLASSIC + 1)) - _OWN


class Session:
    """Runs until the stream or the container ends.

    ``kill`` forwards a signal by name, ``resize`` tells the container (rows, columns); None where that is not wanted.
    ``detach`` are the keys that leave; they count only with a terminal.
    """

    def __init__(self, connection: Connection | None, *, tty: bool, stdin: bool, stdout: bool = True,
                 stderr: bool = True, detach: bytes = b"", kill: Callable[[str], None] | None = None,
                 resize: Callable[[int, int], None] | None = None) -> None:
        self.connection = connection
        self.detached = False
        self._closed = False
        self._tty = tty
        self._stdin = stdin
        self._shows = stdout or stderr
        self._frames = Frames(1 if stdout else -1, 2 if stderr else -1)
        self._filter = DetachFilter(detach) if tty and detach else None
        self._kill = kill
        self._resize = resize
        self._waiting = b""
        self._eof = False
        self._impatience = 0
        self._raw = RawMode(0) if stdin and tty and os.isatty(0) else None
        wanted = all_signals() if kill is not None else set()
        if resize is not None:
            wanted |= {int(_signal.SIGWINCH)}
        if self._raw is not None:
            wanted |= {int(_signal.SIGTERM), int(_signal.SIGHUP), int(_signal.SIGINT), int(_signal.SIGQUIT)}
        self._signals = Signals(wanted)

    def close(self) -> None:
        """Give the terminal and the signals back; may be called twice."""
        if self._raw is not None:
            self._raw.restore()
        if not self._closed:
            self._closed = True
            self._signals.close()
        if self.connection is not None:
            self.connection.close()

    def resize_now(self) -> None:
        if self._resize is not None:
            rows, columns = size(1)
            if rows or columns:
                self._resize(rows, columns)

    def nudge(self) -> None:
        """Resize away and back, so that a program which is already running draws its screen again."""
        if self._resize is not None:
            rows, columns = size(1)
            if rows or columns:
                self._resize(rows + 1, columns + 1)
                self._resize(rows, columns)

    def run(self, wait: Response | None) -> Any:
        """Pump until all output came and, with ``wait``, until it answered; gives its JSON, None after a detach."""
        answer: Any = None
        streaming = self.connection is not None
        if self.connection is not None and self.connection.pending:
            self._output(self.connection.receive())
        while not self.detached and (streaming or (wait is not None and answer is None)):
            ready = self._poll(streaming, wait if answer is None else None)
            if self._signals.fd in ready:
                self._on_signals(self._signals.take())
            if 0 in ready and streaming:
                self._on_stdin()
            if streaming and self.connection is not None and self.connection.sock.fileno() in ready:
                streaming = self._on_stream(ready[self.connection.sock.fileno()])
            if wait is not None and answer is None and (
                    wait.connection.pending or wait.connection.sock.fileno() in ready):
                answer = wait.json() or {}
                if not self._shows:
                    return answer
        return answer

    def _poll(self, streaming: bool, wait: Response | None) -> dict[int, int]:
        poll = select.poll()
        poll.register(self._signals.fd, select.POLLIN)
        if streaming and self.connection is not None:
            events = select.POLLIN | (select.POLLOUT if self._waiting else 0)
            poll.register(self.connection.sock.fileno(), events)
            if self._stdin and not self._eof and not self._waiting:
                poll.register(0, select.POLLIN)
        if wait is not None:
            if wait.connection.pending:
                return {}
            poll.register(wait.connection.sock.fileno(), select.POLLIN)
        return dict(poll.poll())

    def _on_stream(self, events: int) -> bool:
        """False once the stream has ended."""
        assert self.connection is not None
        if events & select.POLLOUT and self._waiting:
            self._send()
        if events & ~select.POLLOUT:
            try:
                data = self.connection.receive()
            except ConnectionResetError:
                return False
            if not data:
                return False
            self._output(data)
        return True

    def _output(self, data: bytes) -> None:
        if self._tty:
            write_all(1, data)
        else:
            self._frames.feed(data)

    def _on_stdin(self) -> None:
        try:
            data = os.read(0, READ_SIZE)
        except OSError:
            data = b""  # a terminal that hung up
        if not data:
            self._eof = True
            self._end_input()
            return
        if self._filter is not None:
            data, self.detached = self._filter.feed(data)
        self._waiting += data
        self._send()

    def _send(self) -> None:
        """Send without blocking: the container may be waiting for us to read before it reads."""
        assert self.connection is not None
        try:
            while self._waiting:
                self._waiting = self._waiting[self.connection.sock.send(self._waiting[:16384], MSG_DONTWAIT) :]
        except BlockingIOError:
            return
        except OSError:
            self._waiting, self._eof = b"", True  # the container closed its stdin
            return
        self._end_input()

    def _end_input(self) -> None:
        if self._eof and not self._waiting and self.connection is not None:
            self.connection.half_close()

    def _on_signals(self, numbers: bytes) -> None:
        for number in numbers:
            if number == _signal.SIGWINCH and self._resize is not None:
                self.resize_now()
            elif self._kill is not None and number not in _OWN:
                if number in (_signal.SIGINT, _signal.SIGTERM):
                    self._impatience += 1
                    if self._impatience >= _PATIENCE:
                        raise ExitCode(1, "got 3 SIGTERM/SIGINTs, forcefully exiting")
                self._kill(signal_name(number))
            elif number in (_signal.SIGTERM, _signal.SIGHUP, _signal.SIGINT, _signal.SIGQUIT):
                raise ExitCode(128 + number)


def copy_frames(response: Response, *, tty: bool) -> None:
    """Copy a finite or followed log stream to stdout and stderr."""
    frames = Frames(1, 2)
    for chunk in response.chunks():
        if tty:
            write_all(1, chunk)
        else:
            frames.feed(chunk)
