"""The standard streams of one process: pipes or a terminal on one side, the log and any number of clients on the other.

Reading goes on whatever the clients do: see :mod:`barque.supervise.attach` for what becomes of a slow one.
"""

from __future__ import annotations

import errno
import fcntl
import os
import termios
from collections import deque
from collections.abc import Callable, Mapping
from typing import Protocol

from barque.supervise import mux
from barque.supervise.loop import IN, OUT, Loop, Timer
from barque.supervise.messages import STDERR, STDOUT
from barque.supervise.rest import Luggage
from barque.sys import tty

#: Pipes for output hold this much where the kernel lets them: fewer switches under load, no memory while empty.
PIPE_SIZE = 256 << 10
READ_SIZE = 256 << 10
#: How long after the end of a process its output may still be held open by processes that it left behind (seconds).
DRAIN_DEADLINE = 1.0
#: How long output waits for the first client of an exec'd process (seconds).
GATE = 10.0


class Reader(Protocol):
    """A client that takes output."""

    def deliver(self, stream: int, data: bytes, header: bytes) -> None: ...
    def finish(self) -> None: ...


class Sink(Protocol):
    """A log."""

    def write(self, stream: int, data: bytes) -> None: ...


class Ends:
    """The ends of the pipes that the process gets. ``fds`` is None for a terminal, whose master comes from outside."""

    def __init__(self, *, terminal: bool, stdin: bool, stdout: bool = True, stderr: bool = True) -> None:
        self.terminal = terminal
        self.stdin = stdin
        self.ours: dict[int, int] = {}
        self.fds: tuple[int, int, int] | None = None
        if not terminal:
            self.fds = (self._pipe(0, stdin), self._pipe(STDOUT, stdout), self._pipe(STDERR, stderr))

    def _pipe(self, number: int, wanted: bool) -> int:
        if not wanted:
            return os.open(os.devnull, (os.O_WRONLY if number else os.O_RDONLY) | os.O_CLOEXEC)
        reading, writing = os.pipe2(os.O_CLOEXEC)
        ours, theirs = (reading, writing) if number else (writing, reading)
        os.set_blocking(ours, False)
        if number:
            try:
                fcntl.fcntl(ours, fcntl.F_SETPIPE_SZ, PIPE_SIZE)
            except OSError:
                pass    # over the user's share of pipe pages: the default size does
        self.ours[number] = ours
        return theirs

    def close_theirs(self) -> None:
        """After the process has them: a pipe ends when its last writer does."""
        for fd in self.fds or ():
            os.close(fd)
        self.fds = None

    def close(self) -> None:
        self.close_theirs()
        for fd in self.ours.values():
            os.close(fd)
        self.ours.clear()

    def give_away(self) -> dict[int, int]:
        """Our ends, by number: the caller's from now on."""
        ours, self.ours = self.ours, {}
        return ours

    def take_console(self, master: int) -> None:
        """Use the master of the terminal for both directions; two descriptors, since epoll knows each only once."""
        os.set_blocking(master, False)
        self.ours[STDOUT] = master
        if self.stdin:
            self.ours[0] = fcntl.fcntl(master, fcntl.F_DUPFD_CLOEXEC, 3)


class Input:
    """The way into the process. Each client has at most one piece waiting here; it reads on when that is through."""

    def __init__(self, loop: Loop, fd: int, *, close_on_eof: bool) -> None:
        self._loop = loop
        self._fd = fd
        self._waiting: deque[tuple[memoryview, Callable[[], None]]] = deque()
        self._closing = False
        #: Whether the end of a client's input ends the process's input.
        self.close_on_eof = close_on_eof

    @property
    def open(self) -> bool:
        return self._fd >= 0

    @property
    def idle(self) -> bool:
        return not self._waiting

    def fileno(self) -> int:
        """-1 once it is closed."""
        return self._fd

    def write(self, data: bytes, done: Callable[[], None]) -> None:
        """Pass ``data`` on and call ``done`` when that has happened, or when the process reads no more."""
        self._waiting.append((memoryview(data), done))
        if len(self._waiting) == 1:
            self._flush()

    def end(self) -> None:
        """Close the process's input once what waits is through."""
        self._closing = True
        if not self._waiting:
            self.close()

    def close(self) -> None:
        if self._fd >= 0:
            self._loop.forget(self._fd)
            os.close(self._fd)
            self._fd = -1
        waiting, self._waiting = self._waiting, deque()
        for _, done in waiting:
            done()

    def _flush(self) -> None:
        while self._waiting:
            data, done = self._waiting[0]
            if self._fd < 0:
                self.close()
                return
            try:
                written = os.write(self._fd, data)
            except BlockingIOError:
                self._loop.watch(self._fd, OUT, lambda _: self._flush())
                return
            except OSError:
                # EPIPE: nobody reads any more; EIO: the terminal is gone.
                self.close()
                return
            if written < len(data):
                self._waiting[0] = (data[written:], done)
                continue
            self._waiting.popleft()
            done()
        if self._fd >= 0:
            self._loop.forget(self._fd)
        if self._closing:
            self.close()


class Streams:
    """Input, output, log and clients of one process.

    ``gate``: output is left in the pipes until the first client has come, or ``GATE`` seconds have passed.
    """

    def __init__(self, loop: Loop, fds: Mapping[int, int], *, terminal: bool, log: Sink | None, close_on_eof: bool,
                 gate: bool = False) -> None:
        """``fds`` are our ends by number, which are the object's from now on; -1 is an input that was closed."""
        self._loop = loop
        self.terminal = terminal
        self._log = log
        self._sources = {number: fd for number, fd in fds.items() if number}
        self.input = Input(loop, fds[0], close_on_eof=close_on_eof and not terminal) if 0 in fds else None
        self.readers: list[Reader] = []
        self._holders: set[object] = set()
        self._drained: Callable[[], None] | None = None
        self._deadline: Timer | None = None
        self._gate: Timer | None = None
        #: Nothing of the output counts any more; it is still read, for a closed pipe would kill who writes to it.
        self.finished = False
        if gate:
            self.hold(self)
            self._gate = loop.call_later(GATE, self._open_gate)
        self._listen()

    @classmethod
    def of_ended(cls, loop: Loop, fds: Mapping[int, int]) -> Streams:
        """What is still open of a process that has ended: read, and of no further use."""
        streams = cls(loop, fds, terminal=False, log=None, close_on_eof=False)
        streams.finished = True
        return streams

    def attach(self, reader: Reader) -> None:
        self.readers.append(reader)
        self._open_gate()

    @property
    def idle(self) -> bool:
        """Whether the descriptors and the log are all there is to it."""
        return not self.readers and not self._holders and self._drained is None \
            and (self.input is None or self.input.idle)

    def pack(self, luggage: Luggage) -> dict[int, int | None]:
        """The places of the descriptors by number; None for an input that was closed."""
        places: dict[int, int | None] = {number: luggage.waking(fd) for number, fd in self._sources.items()}
        if self.input is not None:
            places[0] = luggage.silent(self.input.fileno()) if self.input.open else None
        return places

    def leave(self, reader: Reader) -> None:
        if reader in self.readers:
            self.readers.remove(reader)
        self.relax(reader)

    @property
    def open(self) -> bool:
        """Whether somebody may still write."""
        return bool(self._sources)

    @property
    def shared(self) -> bool:
        """Whether somebody else waits when one reader holds the output up."""
        return self._log is not None or len(self.readers) > 1

    def hold(self, holder: object) -> None:
        """Read no output until :meth:`relax` was called by all who hold: the process waits when its pipe is full."""
        if not self._holders:
            for fd in self._sources.values():
                self._loop.forget(fd)
        self._holders.add(holder)

    def relax(self, holder: object) -> None:
        if holder in self._holders:
            self._holders.discard(holder)
            self._listen()

    def process_ended(self, drained: Callable[[], None]) -> None:
        """Call ``drained`` once all that the process wrote was passed on, at the latest after DRAIN_DEADLINE.

        Someone else may hold the pipes open without end (GHSA-7jxh-m36q-mrqv).
        """
        if self.input is not None:
            self.input.close()
        self._drained = drained
        if self._gate is None:
            self._deadline = self._loop.call_later(DRAIN_DEADLINE, self._give_up)
        self._settle()

    def resize(self, height: int, width: int) -> None:
        """Set the size of the terminal; where there is none, or none any more, there is nothing to do, as in docker."""
        if self.terminal and STDOUT in self._sources:
            tty.set_size(self._sources[STDOUT], height, width)

    def close(self) -> None:
        if self.input is not None:
            self.input.close()
        for number in list(self._sources):
            self._drop(number)

    def _open_gate(self) -> None:
        if self._gate is None:
            return
        self._gate.cancel()
        self._gate = None
        self.relax(self)
        if self._drained is not None:
            self._deadline = self._loop.call_later(DRAIN_DEADLINE, self._give_up)

    def _listen(self) -> None:
        if not self._holders:
            for number, fd in self._sources.items():
                self._loop.watch(fd, IN, lambda _, number=number: self._read(number))  # type: ignore[misc]

    def _read(self, number: int) -> None:
        try:
            data = os.read(self._sources[number], READ_SIZE)
        except BlockingIOError:
            return
        except OSError as error:
            if error.errno != errno.EIO:    # a terminal without a last user
                raise
            data = b""
        if not data:
            self._drop(number)
            self._settle()
        elif not self.finished:
            if self._log is not None:
                self._log.write(number, data)
            if self.readers:
                header = b"" if self.terminal else mux.header(number, len(data))
                for reader in list(self.readers):
                    reader.deliver(number, data, header)

    def _drop(self, number: int) -> None:
        fd = self._sources.pop(number)
        self._loop.forget(fd)
        os.close(fd)

    def _give_up(self) -> None:
        """The deadline: take what the pipes hold now, then report."""
        if self._holders:
            # A slow client stands before output of the process itself: it keeps its own connection waiting, not this.
            self._holders.clear()
            self._listen()
        for number in list(self._sources):
            for _ in range(PIPE_SIZE // 4096):
                if number not in self._sources or not self._has_input(number):
                    break
                self._read(number)
        self._finish()

    def _has_input(self, number: int) -> bool:
        try:
            return any(fcntl.ioctl(self._sources[number], termios.FIONREAD, bytes(4)))
        except OSError:
            return False

    def _settle(self) -> None:
        if not self._sources and self._drained is not None:
            self._finish()

    def _finish(self) -> None:
        drained, self._drained = self._drained, None
        if self._deadline is not None:
            self._deadline.cancel()
        if drained is not None:
            self.finished = True
            drained()
            for reader in list(self.readers):
                reader.finish()
