"""The machinery of the zygote: the process that forks monitors and workers, small and single-threaded, with all that
they need imported already.

It is started before the daemon has threads, from a read-only bind mount of the interpreter that no path leads to: a
process of ours that has joined a container shows ``/proc/PID/exe``, and through that the real file could be opened for
writing (CVE-2019-5736). It dies when the daemon's end of its socket closes; monitors live on, workers do not.

It reads and writes the packets of :mod:`barque.supervise.messages` on descriptor 3.
"""

from __future__ import annotations

import errno
import gc
import os
import select
import signal
import socket
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import NoReturn

from barque.runtime import interpreter
from barque.supervise import messages as m
from barque.supervise.backend import as_failure
from barque.supervise.wire import (
    SERIAL,
    ZYGOTE_REQUESTS,
    ProtocolError,
    encode_packet,
    receive_packet,
    send_packet,
)
from barque.sys import prctl, signalfd

CONTROL_FD = 3
#: The daemon's zygote, as arguments of the interpreter.
ZYGOTE = ("-m", "barque.supervise.zygote")

#: What a child does: gets its channel and its further descriptors, returns the exit status.
Kind = Callable[[socket.socket, list[int]], int]
#: The kind of which one child lives as long as a container does. All pages that the zygote writes to between two forks
#: are copies that stay behind in the elder child, so for these it does nothing but fork: the child gets the control
#: socket, on which the request still waits, and a pipe, and calls :func:`take`, itself or in a child of its own.
LASTING = "monitor"
Lasting = Callable[[list[int]], int]
_LASTING_REQUEST = encode_packet(m.Fork(LASTING))
_PEEK = int(socket.MSG_PEEK)
_LOOK = int(socket.MSG_PEEK | socket.MSG_DONTWAIT)


class ZygoteHandle:
    """The daemon's end: the process and the socket to it."""

    def __init__(self, pid: int, control: socket.socket) -> None:
        self.pid = pid
        self.control = control

    def close(self) -> None:
        """End the zygote, and with it its workers; monitors go on. Waits for its end."""
        self.control.close()
        try:
            os.kill(self.pid, signal.SIGKILL)    # it is ours and not reaped yet; it may hang in a fork
            os.waitpid(self.pid, 0)
        except (ProcessLookupError, ChildProcessError):
            pass


def spawn(exec_root: str, program: Sequence[str] = ZYGOTE) -> ZygoteHandle:
    """Start ``python -I PROGRAM exec_root`` as a zygote; never forks the caller, so threads do not matter.

    Raises OSError; mounting needs CAP_SYS_ADMIN and Linux 5.12.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    readonly = interpreter.readonly_copy()
    try:
        # argv[0] is where Python looks for its library, so it names the real file.
        pid = os.posix_spawn(
            f"/proc/self/fd/{readonly}", [sys.executable, "-I", *program, exec_root], os.environ,
            file_actions=[(os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDWR, 0), (os.POSIX_SPAWN_DUP2, 0, 1),
                          (os.POSIX_SPAWN_DUP2, theirs.fileno(), CONTROL_FD)],
            setsid=True, setsigmask=[], setsigdef=[signal.SIGPIPE, signal.SIGXFSZ, signal.SIGINT, signal.SIGTERM])
    except OSError:
        ours.close()
        raise
    finally:
        os.close(readonly)
        theirs.close()
    return ZygoteHandle(pid, ours)


class Fence:
    """On ``sys.meta_path``: fails every import of a module that is not there yet.

    After ``pivot_root`` an import would read the container's files.
    """

    def find_spec(self, name: str, path: object = None, target: ModuleType | None = None) -> ModuleSpec | None:
        raise ImportError(f"{name} is imported too late: the zygote has to have it", name=name)


@contextmanager
def _open_fence() -> Iterator[None]:
    """Import for the length of the block, in the zygote itself; what came shall be as still as the rest in children."""
    fence = sys.meta_path.pop(0)
    try:
        yield
    finally:
        sys.meta_path.insert(0, fence)
        gc.collect()
        gc.freeze()


class Zygote:
    """Serves one daemon until it goes away."""

    def __init__(self, control: socket.socket, lasting: Lasting, kinds: Mapping[str, Kind],
                 more: Callable[[str], Mapping[str, Kind]] | None) -> None:
        self._control = control
        self._lasting = lasting
        self._kinds = dict(kinds)
        self._more = more
        self._children: set[int] = set()
        self._signals = signalfd.open_for([signal.SIGCHLD])

    def serve(self) -> None:
        poller = select.poll()
        poller.register(self._control, select.POLLIN)
        poller.register(self._signals, select.POLLIN)
        poll, control = poller.poll, self._control.fileno()
        while True:
            for fd, _ in poll():
                if fd != control:
                    self._reap()
                elif not self._fork_lasting() and not self._read():
                    return

    def _read(self) -> bool:
        try:
            packet = receive_packet(self._control, ZYGOTE_REQUESTS)
        except (ProtocolError, ConnectionError):
            return False
        if packet is None:
            return False
        serial, request, fds = packet
        try:
            answer = self._fork(request.kind, fds) if isinstance(request, m.Fork) else self._kill(request.pid)
        except (OSError, ValueError) as error:
            answer = m.Failed(as_failure("fork", error))
        try:
            send_packet(self._control, serial, answer)
        except OSError:
            return False
        finally:
            # After the answer: a channel that hangs up before it tells that nobody is left to give one.
            for fd in fds:
                os.close(fd)
        return True

    def _fork_lasting(self) -> bool:
        """False if it is another request that waits, or this one cannot be met: it waits then, too."""
        try:
            request = self._control.recv(SERIAL.size + len(_LASTING_REQUEST), _PEEK)
            if not request.endswith(_LASTING_REQUEST):
                return False
            reading, writing = os.pipe2(os.O_CLOEXEC)
        except OSError:
            return False
        try:
            pid = os.fork()
        except OSError:
            os.close(reading)
            os.close(writing)
            return False
        if pid == 0:
            os.close(reading)
            self._be(self._lasting, [self._control.detach(), writing])
        self._children.add(pid)
        os.close(writing)
        taken = os.read(reading, 1)
        os.close(reading)
        # It may have been killed between the request and its word.
        return bool(taken) or not self._waits(request)

    def _waits(self, request: bytes) -> bool:
        try:
            return self._control.recv(len(request), _LOOK) == request
        except OSError:
            return False

    def _fork(self, kind: str, fds: list[int]) -> m.ZygoteAnswer:
        if kind == LASTING:
            raise OSError(errno.EAGAIN, f"{os.strerror(errno.EAGAIN)} in fork")
        if kind not in self._kinds and self._more is not None:
            with _open_fence():
                self._kinds.update(self._more(kind))
        if kind not in self._kinds or not fds:
            raise ValueError(f"cannot fork a {kind!r} with {len(fds)} descriptors")
        pid = os.fork()
        if pid == 0:
            self._control.close()
            self._be(lambda fds: self._kinds[kind](socket.socket(fileno=fds[0]), fds[1:]), fds)
        self._children.add(pid)
        return m.Forked(pid)

    def _be(self, what: Callable[[list[int]], int], fds: list[int]) -> NoReturn:
        status = 1
        try:
            os.close(self._signals)
            status = what(fds)
        except BaseException:    # the boundary of the child: nothing may run on in the zygote's code
            traceback.print_exc()
        finally:
            os._exit(status)

    def _kill(self, pid: int) -> m.ZygoteAnswer:
        # Not reaped yet, so the number cannot have been given to another process.
        if pid not in self._children:
            raise ProcessLookupError(3, "no such process in kill")
        os.kill(pid, signal.SIGKILL)
        return m.Done()

    def _reap(self) -> None:
        signalfd.drain(self._signals)
        while True:
            try:
                pid, _ = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            self._children.discard(pid)


def serve(lasting: Lasting, kinds: Mapping[str, Kind],
          more: Callable[[str], Mapping[str, Kind]] | None = None) -> None:
    """Be the zygote of whoever holds the other end of descriptor 3, offering LASTING and ``kinds``.

    ``more`` imports and gives further ones; it is called with a kind that is asked for and not there.
    """
    prctl.set_dumpable(False)
    os.set_inheritable(CONTROL_FD, False)
    control = socket.socket(fileno=CONTROL_FD)
    sys.meta_path.insert(0, Fence())
    gc.collect()
    gc.freeze()    # a collection in a child would otherwise write to, and so copy, every page that holds an object
    Zygote(control, lasting, kinds, more).serve()


def take(fds: list[int], pid: int) -> socket.socket:
    """For the kind LASTING: take the request from the descriptors that came, answer it with ``pid``; its channel."""
    with socket.socket(fileno=fds[0]) as control:
        packet = receive_packet(control, ZYGOTE_REQUESTS)
        assert packet is not None    # the zygote saw it
        serial, _, (channel, *_) = packet
        os.write(fds[1], b"x")
        os.close(fds[1])
        send_packet(control, serial, m.Forked(pid))
    return socket.socket(fileno=channel)


def worker(run: Callable[[bytes, list[int]], bytes]) -> Kind:
    """A kind that reads one request and answers it, each behind 4 bytes of length; dies with the zygote."""
    def be(channel: socket.socket, fds: list[int]) -> int:
        parent = os.getppid()
        prctl.set_death_signal(signal.SIGKILL)
        if os.getppid() != parent:
            return 1
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGCHLD])
        with channel.makefile("rb") as stream:
            length = int.from_bytes(stream.read(4), "big")
            request = stream.read(length)
        if not length or len(request) < length:
            return 1    # who asked has given up
        result = run(request, fds)
        try:
            channel.sendall(len(result).to_bytes(4, "big") + result)
        except BrokenPipeError:
            return 1    # whoever asked is gone
        return 0
    return be
