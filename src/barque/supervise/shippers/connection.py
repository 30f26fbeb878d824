"""Connections to log targets whose every wait ends: a while after the container has, at the latest."""

from __future__ import annotations

import errno
import math
import os
import select
import socket
import ssl
import time

from barque.supervise.shippers.orders import Tls

#: How long a target is waited for once the container has ended (seconds).
GRACE = 10.0
#: As fluentd's and Go's dialers have it; what is not answered by then is not there (seconds).
CONNECT_TIMEOUT = 30.0


class GivenUp(Exception):
    """The container has ended, and the target did not take its last words in time."""


class Patience:
    """Waits for targets as long as somebody holds the other end of ``source``, and ``grace`` seconds more."""

    def __init__(self, source: socket.socket, grace: float) -> None:
        self.follow(source, grace)

    def follow(self, source: socket.socket, grace: float) -> None:
        """Wait on behalf of somebody else from now on."""
        self._source = source
        self._grace = grace
        self._deadline: float | None = None

    def check(self) -> None:
        """After a failure: raises :class:`GivenUp` where nobody is left for whom to try again."""
        self.wait(-1, 0, 0)
        if self._deadline is not None:
            raise GivenUp

    def wait(self, fd: int, events: int, timeout: float | None) -> bool:
        """True once ``fd`` (-1 for none) is ready, False after ``timeout`` seconds. Raises :class:`GivenUp`."""
        until = None if timeout is None else time.monotonic() + timeout
        while True:
            ends = [end for end in (until, self._deadline) if end is not None]
            left = max(0.0, min(ends) - time.monotonic()) if ends else None
            poller = select.poll()
            if fd >= 0:
                poller.register(fd, events)
            if self._deadline is None:
                poller.register(self._source, select.POLLRDHUP)
            ready = dict(poller.poll(None if left is None else math.ceil(left * 1000)))
            if fd in ready:
                return True
            now = time.monotonic()
            if ready:
                self._deadline = now + self._grace
            elif self._deadline is not None and now >= self._deadline:
                raise GivenUp
            elif until is not None and now >= until:
                return False


def dial_error(network: str, address: str, error: OSError) -> str:
    """``error`` as Go's net.Dial words it, which is what dockerd's users know."""
    if isinstance(error, socket.gaierror):
        host = address.rpartition(":")[0]
        return f"dial {network}: lookup {host}: no such host"
    if isinstance(error, ssl.SSLError):
        return f"tls: {error.reason or error}"
    if error.errno is None:
        return str(error)
    text = "i/o timeout" if isinstance(error, TimeoutError) else os.strerror(error.errno).lower()
    return f"dial {network} {address}: connect: {text}"


def split_address(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)


class Connection:
    """A connected socket. Everything raises OSError where the target is at fault, and :class:`GivenUp`."""

    def __init__(self, sock: socket.socket, patience: Patience) -> None:
        self._socket = sock
        self._patience = patience
        sock.setblocking(False)

    @property
    def local_address(self) -> str:
        host, port = self._socket.getsockname()[:2]
        return f"{host}:{port}"

    def send(self, data: bytes, timeout: float | None = None) -> None:
        """All of ``data``: as one datagram or as a part of the stream."""
        rest = memoryview(data)
        while rest:
            try:
                rest = rest[self._socket.send(rest):]
            except (BlockingIOError, ssl.SSLWantWriteError):
                self._ready(select.POLLOUT, timeout)
            except ssl.SSLWantReadError:
                self._ready(select.POLLIN, timeout)

    def receive(self, timeout: float | None = None) -> bytes:
        """Some bytes; ConnectionError at the end of the stream."""
        while True:
            try:
                data = self._socket.recv(1 << 16)
            except (BlockingIOError, ssl.SSLWantReadError):
                self._ready(select.POLLIN, timeout)
                continue
            if not data:
                raise ConnectionResetError(errno.ECONNRESET, os.strerror(errno.ECONNRESET))
            return data

    def send_descriptor(self, fd: int) -> None:
        """In a datagram of its own."""
        while True:
            try:
                socket.send_fds(self._socket, [b""], [fd])
                return
            except BlockingIOError:
                self._ready(select.POLLOUT, None)

    def close(self) -> None:
        self._socket.close()

    def shake_hands(self, context: ssl.SSLContext, host: str) -> None:
        """Speak TLS from now on."""
        wrapped = context.wrap_socket(self._socket, server_hostname=host, do_handshake_on_connect=False)
        self._socket = wrapped
        while True:
            try:
                wrapped.do_handshake()
                return
            except ssl.SSLWantReadError:
                self._ready(select.POLLIN, CONNECT_TIMEOUT)
            except ssl.SSLWantWriteError:
                self._ready(select.POLLOUT, CONNECT_TIMEOUT)

    def _ready(self, events: int, timeout: float | None) -> None:
        if not self._patience.wait(self._socket.fileno(), events, timeout):
            raise TimeoutError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT))


def connect_inet(patience: Patience, kind: int, address: str, tls: Tls | None = None,
                 timeout: float = CONNECT_TIMEOUT) -> Connection:
    """``kind`` is SOCK_STREAM or SOCK_DGRAM, ``address`` host:port: each address of the host is tried in turn."""
    host, port = split_address(address)
    failed: OSError = ConnectionError(errno.ECONNREFUSED, os.strerror(errno.ECONNREFUSED))
    for family, _, protocol, _, where in socket.getaddrinfo(host or "localhost", port, type=kind):
        try:
            sock = socket.socket(family, kind | socket.SOCK_CLOEXEC, protocol)
            connection = _connect(patience, sock, where, timeout)
        except OSError as error:
            failed = error
            continue
        if tls is not None:
            try:
                connection.shake_hands(tls_context(tls), host)
            except BaseException:
                connection.close()
                raise
        return connection
    raise failed


def connect_unix(patience: Patience, kind: int, path: str) -> Connection:
    return _connect(patience, socket.socket(socket.AF_UNIX, kind | socket.SOCK_CLOEXEC), path, CONNECT_TIMEOUT)


def _connect(patience: Patience, sock: socket.socket, where: object, timeout: float) -> Connection:
    connection = Connection(sock, patience)
    try:
        error = sock.connect_ex(where)  # type: ignore[arg-type]
        if error in (errno.EINPROGRESS, errno.EAGAIN):
            if not patience.wait(sock.fileno(), select.POLLOUT, timeout):
                raise TimeoutError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT))
            error = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if error:
            raise OSError(error, os.strerror(error))
    except BaseException:
        connection.close()
        raise
    return connection


def tls_context(tls: Tls) -> ssl.SSLContext:
    """Raises OSError for files that are not there or hold something else."""
    context = ssl.create_default_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if tls.ca:
        context.load_verify_locations(tls.ca)
    if tls.cert:
        context.load_cert_chain(tls.cert, tls.key or None)
    if not tls.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context
