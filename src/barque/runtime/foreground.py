"""Staying with a process until it ends: signals passed on to it, and with a terminal the bytes between it and ours."""

from __future__ import annotations

import os
import select
import signal
import termios
import tty as stdlib_tty
from types import FrameType

from barque.oci.runtime_spec import Box, Process
from barque.sys import process, sockets, tty

_CHUNK = 65536
#: Not passed on: what the kernel sends for faults and job control, and what is our own.
_KEPT = frozenset((signal.SIGCHLD, signal.SIGKILL, signal.SIGSTOP, signal.SIGPIPE, signal.SIGSEGV, signal.SIGBUS,
                   signal.SIGFPE, signal.SIGILL, signal.SIGTRAP, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU,
                   signal.SIGURG))


def size_console(wanted: Process) -> None:
    """Let the terminal to be made have the size of ours, if we have one, from the program's first moment on."""
    if os.isatty(0):
        height, width = tty.get_size(0)
        wanted.console_size = Box(height, width)


class Signals:
    """Collects signals from now on, to be passed on later. A context manager; the old handlers come back at its end."""

    def __init__(self) -> None:
        self.reader, self._writer = sockets.pair()
        self.reader.setblocking(False)
        self._writer.setblocking(False)
        self._old_fd = -1
        self._old: dict[int, object] = {}

    def __enter__(self) -> Signals:
        self._old_fd = signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
        for number in signal.valid_signals() - _KEPT:
            if number < signal.SIGRTMIN:
                self._old[number] = signal.signal(number, _note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
        signal.set_wakeup_fd(self._old_fd)
        self.reader.close()
        self._writer.close()

    def taken(self) -> list[int]:
        try:
            return list(self.reader.recv(4096))
        except BlockingIOError:
            return []


def _note(_number: int, _frame: FrameType | None) -> None:
    """The number arrives through the wake-up descriptor."""


def wait(pidfd: int, signals: Signals, master: int | None) -> int:
    """Wait for the child behind ``pidfd`` and return its exit code; with ``master`` relay our stdio to it meanwhile."""
    relay = None if master is None else _Relay(master)
    poller = select.poll()
    poller.register(pidfd, select.POLLIN)
    poller.register(signals.reader, select.POLLIN)
    if relay is not None:
        relay.begin(poller)
    try:
        while True:
            for fd, _ in poller.poll():
                if fd == pidfd:
                    if relay is not None:
                        relay.drain()
                    code = process.wait(pidfd)
                    assert code is not None
                    return code
                if fd == signals.reader.fileno():
                    _pass_on(pidfd, signals, relay)
                elif relay is not None:
                    relay.turn(fd, poller)
    finally:
        if relay is not None:
            relay.end()


def _pass_on(pidfd: int, signals: Signals, relay: _Relay | None) -> None:
    for number in signals.taken():
        if number == signal.SIGWINCH and relay is not None:
            relay.resize()
            continue
        try:
            process.pidfd_signal(pidfd, number)
        except ProcessLookupError:
            return


class _Relay:
    """Copies between our stdin/stdout and a terminal's master; our own terminal is raw meanwhile.

    New lines get their carriage returns from our terminal alone (:func:`barque.sys.tty.keep_newlines`).
    """

    def __init__(self, master: int) -> None:
        self.master = master
        self._saved: list[object] | None = None

    def begin(self, poller: select.poll) -> None:
        if os.isatty(0):
            self._saved = termios.tcgetattr(0)
            stdlib_tty.setraw(0)
            tty.change_output(0, on=termios.OPOST)
        poller.register(0, select.POLLIN)
        poller.register(self.master, select.POLLIN)

    def end(self) -> None:
        if self._saved is not None:
            termios.tcsetattr(0, termios.TCSADRAIN, self._saved)  # type: ignore[arg-type]

    def resize(self) -> None:
        if os.isatty(0):
            tty.set_size(self.master, *tty.get_size(0))

    def turn(self, fd: int, poller: select.poll) -> None:
        source, sink = (0, self.master) if fd == 0 else (self.master, 1)
        try:
            data = os.read(source, _CHUNK)
        except OSError:
            # EIO: nobody has the slave open any more.
            data = b""
        if not data:
            poller.unregister(fd)
        while data:
            data = data[os.write(sink, data):]

    def drain(self) -> None:
        """What the process wrote before it ended."""
        os.set_blocking(self.master, False)
        while True:
            try:
                data = os.read(self.master, _CHUNK)
            except OSError:
                return
            if not data:
                return
            while data:
                data = data[os.write(1, data):]
