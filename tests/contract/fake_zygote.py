"""A zygote whose monitors run plain processes of the host in place of containers: the fake of the contract tests.

``args`` of the bundle's process are run with its ``env``; everything else in the bundle is ignored. A bundle without
``args`` cannot be created; one with ``BUG=1`` in its environment makes the monitor stumble over a bug at the end; a
program that does not exist cannot be started. The exit of the first process takes its session along.
"""

from __future__ import annotations

import fcntl
import os
import pty
import signal
import sys
import termios

from barque.oci import runtime_spec
from barque.runtime.failure import RuntimeFailure
from barque.supervise import forkserver, monitor
from barque.supervise.backend import Child, Fds, Process
from barque.supervise.messages import CreateOrder, ExecOrder
from barque.supervise.rest import Luggage
from barque.sys import tty


def spawn(process: runtime_spec.Process, fds: Fds, *, wait: bool) -> tuple[Child, int, int]:
    """Fork; returns the child, the end that starts it and the end that says errno if the exec failed."""
    gate_read, gate_write = os.pipe2(os.O_CLOEXEC)
    error_read, error_write = os.pipe2(os.O_CLOEXEC)
    master, slave = pty.openpty() if fds is None else (-1, -1)
    if slave >= 0 and process.console_size is not None:
        tty.set_size(slave, process.console_size.height, process.console_size.width)
    pid = os.fork()
    if pid == 0:
        try:
            os.setsid()
            signal.pthread_sigmask(signal.SIG_SETMASK, [])
            signal.signal(signal.SIGPIPE, signal.SIG_DFL)
            if fds is None:
                login(slave)
            for number, fd in enumerate(fds or ()):
                os.dup2(fd, number, inheritable=True)
            os.close(gate_write)
            if wait and not os.read(gate_read, 1):
                os._exit(1)
            os.execvpe(process.args[0], process.args, dict(item.split("=", 1) for item in process.env))
        except OSError as error:
            os.write(error_write, str(error.errno).encode())
        finally:
            os._exit(127)
    os.close(gate_read)
    os.close(error_write)
    if slave >= 0:
        os.close(slave)
    return Child(pid, os.pidfd_open(pid), master if master >= 0 else None), gate_write, error_read


def login(slave: int) -> None:
    fcntl.ioctl(slave, termios.TIOCSCTTY, 0)
    for number in range(3):
        os.dup2(slave, number, inheritable=True)


class FakeBackend:
    def __init__(self, order: CreateOrder) -> None:
        self._sessions: list[int] = []
        self._gate = self._error = -1
        self._buggy = False

    def create(self, order: CreateOrder, fds: Fds) -> Child:
        with open(f"{order.bundle}/config.json", "rb") as file:
            spec = runtime_spec.decode(file.read())
        if spec.process is None or not spec.process.args:
            raise RuntimeFailure("validate", detail="no args")
        self._buggy = "BUG=1" in spec.process.env
        child, self._gate, self._error = spawn(spec.process, fds, wait=True)
        self._sessions.append(child.pid)
        return child

    def start(self) -> None:
        os.write(self._gate, b"x")
        os.close(self._gate)
        self._check(self._error)

    def exec(self, order: ExecOrder, fds: Fds) -> Child:
        child, gate, error = spawn(order.process, fds, wait=False)
        os.close(gate)
        self._sessions.append(child.pid)
        try:
            self._check(error)
        except RuntimeFailure:
            os.waitpid(child.pid, 0)
            os.close(child.pidfd)
            raise
        return child

    def _check(self, error: int) -> None:
        text = os.read(error, 16)
        os.close(error)
        if text:
            raise RuntimeFailure("exec", syscall="execve", errno=int(text))

    def kill_all(self) -> None:
        for session in self._sessions:
            try:
                os.killpg(session, signal.SIGKILL)
            except (ProcessLookupError, PermissionError):
                pass

    def oom_fd(self) -> int | None:
        return None

    def oom_kills(self) -> int:
        if self._buggy:
            raise AttributeError("a bug")
        return 0

    def cgroup(self) -> dict[str, str]:
        return {}

    def pack(self, luggage: Luggage) -> list[int]:
        return []

    def unpack(self, order: CreateOrder, child: Process, cgroup: dict[str, str], fds: list[int]) -> None:
        self._sessions.append(child.pid)

    def cleanup(self) -> None:
        pass


def shout(request: bytes, fds: list[int]) -> bytes:
    """A worker: upper-cases the request and what the first descriptor holds."""
    if request == b"die":
        os.kill(os.getpid(), signal.SIGKILL)
    if request == b"hang":
        os.write(fds[0], b"started")
        signal.pause()
    return (request + (os.read(fds[0], 100) if fds else b"")).upper()


class FakeBackends:
    make = FakeBackend

    def prepare(self) -> None:
        pass

    def close(self) -> None:
        pass


def main(exec_root: str) -> None:
    forkserver.serve(monitor.kind(exec_root, FakeBackends()), {"shout": forkserver.worker(shout)})


if __name__ == "__main__":
    main(sys.argv[1])
