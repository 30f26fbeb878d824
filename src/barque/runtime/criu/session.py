"""One run of criu (checkpoint and restore in user space): ``criu swrk``, which takes a request over a socket.

::

    we                    criu
    -------------------   --------------------------------------------------------------------------------
    request
                          notification (pre-dump, setup-namespaces, post-restore ...), one with a descriptor
    acknowledgement       (criu waits for it)
                          answer, and criu ends
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import NoReturn

import msgspec

from barque.runtime.criu import wire
from barque.runtime.failure import RuntimeFailure
from barque.sys import fds, process, sockets

#: External network (3.11) and PID namespaces (3.15), the freezer of cgroup v2 (3.14), labels (3.16).
_LEAST_VERSION = 31600
#: Standard input, output and error, then the socket; further descriptors follow.
_SOCKET = 3
FIRST_EXTRA = 4
_MAX_ANSWER = 65536
#: Of criu's log, for the error.
_MAX_LOG = 64 << 20
_MAX_ERRORS = 6
_EXEC_FAILED = 127


class Notice(msgspec.Struct, frozen=True):
    """What criu waits to be acknowledged. The descriptors are the receiver's."""

    script: str
    pid: int
    descriptors: list[int]


def find(program: str, stage: str) -> str:
    """The path of criu, of a version that will do; raises RuntimeFailure."""
    path = which(program or "criu")
    if path is None:
        raise RuntimeFailure(stage, detail=f'{stage} needs criu: exec: "{program or "criu"}": executable file not '
                                           "found in $PATH")
    run = Run(path, stage)
    run.send(wire.VERSION, None)
    version = run.finish().version
    if version < _LEAST_VERSION:
        raise RuntimeFailure(stage, detail=f"{stage} needs criu 3.16 or newer, {path} is {version // 10000}."
                                           f"{version // 100 % 100}.{version % 100}")
    return path


def which(program: str) -> str | None:
    """The path of a program, as a shell would find it."""
    folders = [""] if "/" in program else os.environ.get("PATH", os.defpath).split(":")
    paths = [os.path.join(folder, program) for folder in folders]
    return next((path for path in paths if os.path.isfile(path) and os.access(path, os.X_OK)), None)


class Run:
    """A criu that is there for one request. ``log`` is the file that it is told to write, for its errors.

    ``prepare`` is called in criu's process before criu is there; see :meth:`prepared`. Without ``stdio`` criu, and
    whoever it restores, has /dev/null. ``extra`` descriptors are criu's from :data:`FIRST_EXTRA` on.
    """

    def __init__(self, program: str, stage: str, *, log: str = "", stdio: tuple[int, int, int] | None = None,
                 extra: Sequence[int] = (), prepare: Callable[[], list[int]] | None = None) -> None:
        self._stage = stage
        self._log = log
        # What an earlier run had to say is no reason of this one's.
        with suppress(FileNotFoundError):
            os.unlink(log)
        # criu opens descriptors that a request names as those of whoever made the socket.
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            child = process.clone(0)
            if child is None:
                _become(program, stage, stdio, theirs, extra, prepare)
        self._child = child

    @property
    def pid(self) -> int:
        return self._child.pid

    def prepared(self) -> list[int]:
        """The descriptors that ``prepare`` has opened, the caller's now; raises RuntimeFailure where it failed.

        criu works in directories that the request names by descriptors of ours: in another mount namespace they have
        to be of that one.
        """
        data, descriptors = self._receive()
        if not descriptors:
            raise self._failed(wire.answer(data).message) if data else self._ended()
        return descriptors

    def send(self, kind: int, options: Mapping[str, wire.Value] | None) -> None:
        try:
            self._socket.send(wire.request(kind, options))
        except OSError:
            raise self._ended() from None

    def next(self) -> Notice | wire.Answer:
        """A notification, to be acknowledged, or the answer, which is good: raises RuntimeFailure for all else."""
        data, descriptors = self._receive()
        if not data:
            raise self._ended()
        try:
            answer = wire.answer(data)
        except ValueError as error:
            raise self._failed(f"it answers {error}") from None
        if not answer.success:
            reason = answer.message or (os.strerror(answer.errno).lower() if answer.errno else "")
            raise self._failed(reason)
        if answer.type == wire.NOTIFY:
            return Notice(answer.script, answer.pid, descriptors)
        return answer

    def acknowledge(self) -> None:
        try:
            self._socket.send(wire.acknowledgement())
        except OSError:
            raise self._ended() from None

    def finish(self) -> wire.Answer:
        """Acknowledge what comes until the answer; criu has ended then."""
        try:
            while isinstance(item := self.next(), Notice):
                self.acknowledge()
        finally:
            self.close()
        return item

    def close(self) -> int | None:
        """Wait for criu's end, which the closing of its socket leads to; its exit code. May be called twice."""
        if self._socket.fileno() < 0:
            return None
        self._socket.close()
        try:
            return process.wait(self._child.pidfd)
        finally:
            os.close(self._child.pidfd)

    def _receive(self) -> tuple[bytes, list[int]]:
        try:
            return sockets.receive(self._socket, _MAX_ANSWER)
        except ConnectionResetError:
            # It has ended with a request of ours unread.
            return b"", []

    def _ended(self) -> RuntimeFailure:
        return self._failed(f"it has ended with exit code {self.close()}")

    def _failed(self, reason: str) -> RuntimeFailure:
        said = errors_in(self._log) or reason
        where = f" (its log is {self._log})" if os.path.exists(self._log) else ""
        return RuntimeFailure(self._stage, detail=f"criu failed: {said}{where}" if said else f"criu failed{where}")


def _become(program: str, stage: str, stdio: tuple[int, int, int] | None, channel: socket.socket,
            extra: Sequence[int], prepare: Callable[[], list[int]] | None) -> NoReturn:
    try:
        if prepare is not None:
            sockets.send(channel, b"prepared", prepare())
        null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        environment = [f"{name}={value}" for name, value in os.environ.items()]
        criu = process.Program([program, "swrk", str(_SOCKET)], environment)
        fds.place((*(stdio or (null, null, null)), channel.fileno(), *extra))
        process.cloexec_from(FIRST_EXTRA + len(extra))
        process.reset_signals()
        criu.execve(program)
    except BaseException as error:
        # Whatever it was: the child must never return into the caller's code.
        channel.send(wire.refusal(str(RuntimeFailure.of(stage, error))))
    finally:
        os._exit(_EXEC_FAILED)


def errors_in(log: str) -> str:
    """The errors in criu's log, of which any may be what the others follow from; empty without one."""
    try:
        with open(log, errors="replace") as file:
            lines = file.read(_MAX_LOG).splitlines()
    except OSError:
        return ""
    # (00.015214) Error (criu/files-reg.c:1710): Can't lookup mount=25 for fd=0 path=/dev/null
    found = [line.partition("Error ")[2].partition("): ")[2].strip() for line in lines if "Error (" in line]
    return "; ".join(found[:_MAX_ERRORS])
