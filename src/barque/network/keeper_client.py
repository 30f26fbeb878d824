"""The engine's end of the keepers: start one when it is needed, find it again after a restart."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import sys
from collections.abc import Iterator, Sequence

from barque.network import keeper
from barque.network.model import PublishedPort
from barque.sys import process

_ANSWER_SECONDS = 10.0
_LINE = 512
#: So many packets fit into the buffer of either side.
_DROPS_AT_ONCE = 32


class KeeperProcess:
    """A helper process that outlives the engine and listens at ``path``: started when it is needed, found again later.

    ``program`` is a file of plain Python that serves the control socket that it gets as fd 0. Blocking, for one thread.
    """

    def __init__(self, path: str, program: str) -> None:
        self._path = path
        self._program = program
        self._socket: socket.socket | None = None
        self._pid = 0

    def pidfd(self) -> int | None:
        """A new pidfd of the keeper, readable once it is dead; None if none runs."""
        if self._socket is None:
            return None
        try:
            return process.pidfd_open(self._pid)
        except ProcessLookupError:
            return None

    @property
    def connected(self) -> bool:
        return self._socket is not None

    def identify(self, pid: int) -> None:
        """One that was found says that this is its pid."""
        self._pid = pid

    def send(self, message: bytes, fds: Sequence[int] = ()) -> None:
        """Raises OSError (EPIPE, ECONNRESET) if the keeper has died."""
        assert self._socket is not None
        socket.send_fds(self._socket, [message], fds)

    def receive(self, size: int) -> bytes:
        """The next packet; nothing at all if the keeper has died."""
        assert self._socket is not None
        try:
            return self._socket.recv(size)
        except ConnectionError:
            return b""

    def close(self) -> None:
        """Disconnect: a keeper without ports ends, one with ports lives on for the next engine."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def finish(self, *, empty: bool) -> None:
        """Disconnect for good; a keeper that is ``empty`` ends, and as our child it is waited for."""
        pidfd = self.pidfd() if empty else None
        self.close()
        if pidfd is not None:
            select.select([pidfd], [], [], _ANSWER_SECONDS)
            with contextlib.suppress(ChildProcessError):
                os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOHANG)
            os.close(pidfd)

    def connect(self) -> bool:
        """Connect to one that runs; returns whether there is one."""
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
        try:
            with self._address() as address:
                sock.connect(address)
        except OSError:
            sock.close()
            return False
        sock.settimeout(_ANSWER_SECONDS)
        self._socket = sock
        return True

    @contextlib.contextmanager
    def _address(self) -> Iterator[str]:
        """The socket's path by way of its directory's fd: the kernel takes no path of more than 107 bytes."""
        directory, name = os.path.split(self._path)
        fd = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            yield f"/proc/self/fd/{fd}/{name}"
        finally:
            os.close(fd)

    def start(self) -> None:
        """Make sure that one runs and is connected. Raises ConnectionError."""
        if self._socket is not None:
            return
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._path)
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC) as listener:
            with self._address() as address:
                listener.bind(address)
            os.chmod(self._path, 0o600)
            listener.listen(4)
            self._pid = os.posix_spawn(sys.executable, [sys.executable, "-I", "-S", self._program], {},
                                       setsid=True, file_actions=[
                                           (os.POSIX_SPAWN_DUP2, listener.fileno(), 0),
                                           (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0),
                                           (os.POSIX_SPAWN_DUP2, 1, 2)])
            if not self.connect():
                raise ConnectionError(f"the keeper at {self._path} does not answer")


class KeeperClient(KeeperProcess):
    """Talks to the port keeper at ``path``."""

    def __init__(self, path: str) -> None:
        super().__init__(path, keeper.__file__)

    def adopt(self) -> set[PublishedPort]:
        """Connect to a keeper that an earlier engine left; returns what it holds (container ports are not known: 0)."""
        held: set[PublishedPort] = set()
        if not self.connect():
            return held
        self.send(b"list")
        while not (line := self.receive(_LINE)).startswith(b"."):
            if not line:
                self.close()
                return set()
            _, protocol, host_ip, host_port, *_ = line.decode().split()
            held.add(PublishedPort(container_port=0, protocol=protocol, host_ip=host_ip, host_port=int(host_port)))
        self.identify(int(line.split()[1]))
        return held

    def give(self, sock: socket.socket, port: PublishedPort, target: str | None) -> None:
        """Hand a reserved port over; with a ``target`` address the keeper relays to the container port there.

        Does not wait: a keeper that is just starting finds connections of clients in the socket's backlog.
        Raises OSError (EPIPE, ECONNRESET) if the keeper has died.
        """
        key = f"{port.protocol} {port.host_ip} {port.host_port}"
        line = f"hold {key}" if target is None else f"relay {key} {target} {port.container_port}"
        self.start()
        self.send(line.encode(), [sock.fileno()])

    def drop(self, ports: Sequence[PublishedPort]) -> None:
        """Let ports go; when this returns they can be bound again. A keeper that is dead holds nothing any more."""
        try:
            for start in range(0, len(ports) if self.connected else 0, _DROPS_AT_ONCE):
                batch = ports[start:start + _DROPS_AT_ONCE]
                for port in batch:
                    self.send(f"drop {port.protocol} {port.host_ip} {port.host_port}".encode())
                for _ in batch:
                    self.receive(_LINE)
        except OSError:
            self.close()
