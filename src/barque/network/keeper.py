"""The port keeper: a process that holds the host ports of an engine, and outlives it.

It holds the listening sockets that reserve each published port, so that no program of the host can take one, not even
while the engine is down. Where the kernel cannot translate addresses (an IPv6 port of a container that has IPv4 alone,
and ``[::1]``, which nothing routes) it also relays: TCP both ways with half-close, UDP with one socket per client.

It is run as a plain file with nothing but the standard library (``python -I -S keeper.py``, the control socket as fd 0)
to stay small. The engine hands over sockets and asks with lines of ASCII, one per SOCK_SEQPACKET packet:

=====================================================  ==================================================
``hold PROTO IP PORT`` with the socket                 keep it, do nothing with it
``relay PROTO IP PORT TARGET PORT`` with the socket    and serve it
``drop PROTO IP PORT``                                 close it; existing connections go on; answers ``ok``
``list``                                               one packet per entry as it was given, then ``. PID``
=====================================================  ==================================================

It ends by itself when it has no port and no engine is connected.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import time

IN, OUT = select.EPOLLIN, select.EPOLLOUT
_CHUNK = 1 << 18
#: dockerd's proxy forgets a UDP client after as long a silence.
_UDP_SILENCE = 90.0
_UDP_CLIENTS = 4096
_ACCEPTS_AT_ONCE = 64
_CHUNKS_AT_ONCE = 16


class Handler:
    """Whoever owns a file descriptor in the loop."""

    def ready(self, fd: int, events: int) -> None:
        raise NotImplementedError


class Loop:
    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._handlers: dict[int, Handler] = {}
        self.buffer = memoryview(bytearray(_CHUNK))

    def watch(self, fd: int, events: int, handler: Handler) -> None:
        if fd in self._handlers:
            self._epoll.modify(fd, events)
        else:
            self._epoll.register(fd, events)
        self._handlers[fd] = handler

    def forget(self, fd: int) -> None:
        if self._handlers.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    def turn(self, timeout: float) -> None:
        for fd, events in self._epoll.poll(timeout):
            handler = self._handlers.get(fd)
            if handler is not None:
                handler.ready(fd, events)


class _Stream:
    """One direction of a TCP connection: what was read from ``source`` and could not be written yet."""

    def __init__(self, source: socket.socket, target: socket.socket) -> None:
        self.source, self.target = source, target
        self.pending = b""
        self.ended = False

    def move(self, buffer: memoryview) -> None:
        """Write what is pending, then read and write until one side has no more; raises OSError if one is broken."""
        if self.pending:
            self.pending = self.pending[self._send(memoryview(self.pending)):]
        for _ in range(_CHUNKS_AT_ONCE):
            if self.pending or self.ended:
                break
            try:
                count = self.source.recv_into(buffer)
            except BlockingIOError:
                return
            if count == 0:
                self.ended = True
                break
            sent = self._send(buffer[:count])
            self.pending = bytes(buffer[sent:count])
        if self.ended and not self.pending:
            self.target.shutdown(socket.SHUT_WR)

    def _send(self, data: memoryview) -> int:
        try:
            return self.target.send(data)
        except BlockingIOError:
            return 0


class _Connection(Handler):
    """A client's TCP connection and the container's, each way a :class:`_Stream`."""

    def __init__(self, loop: Loop, client: socket.socket, target: tuple[str, int]) -> None:
        self._loop = loop
        self._client = client
        self._server = socket.socket(socket.AF_INET6 if ":" in target[0] else socket.AF_INET,
                                     socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        for end in (client, self._server):
            end.setblocking(False)
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            end.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        self._up = _Stream(client, self._server)
        self._down = _Stream(self._server, client)
        self._connected = False
        self._server.connect_ex(target)
        loop.watch(self._server.fileno(), OUT, self)

    def ready(self, fd: int, events: int) -> None:
        try:
            if not self._connected:
                failure = self._server.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                if failure:
                    raise OSError(failure, os.strerror(failure))
                self._connected = True
            for stream in (self._up, self._down):
                if not (stream.ended and not stream.pending):
                    stream.move(self._loop.buffer)
        except OSError:
            self._close()
            return
        if all(stream.ended and not stream.pending for stream in (self._up, self._down)):
            self._close()
            return
        self._watch(self._client, reads=self._up, writes=self._down)
        self._watch(self._server, reads=self._down, writes=self._up)

    def _watch(self, end: socket.socket, reads: _Stream, writes: _Stream) -> None:
        events = (IN if not reads.ended and not reads.pending else 0) | (OUT if writes.pending else 0)
        if events:
            self._loop.watch(end.fileno(), events, self)
        else:
            # epoll reports a hang-up even to who asks for nothing, and would spin while the other side is slow.
            self._loop.forget(end.fileno())

    def _close(self) -> None:
        for end in (self._client, self._server):
            self._loop.forget(end.fileno())
            end.close()


class _TcpRelay(Handler):
    def __init__(self, loop: Loop, listener: socket.socket, target: tuple[str, int]) -> None:
        self._loop, self._listener, self._target = loop, listener, target
        listener.setblocking(False)
        loop.watch(listener.fileno(), IN, self)

    def ready(self, fd: int, events: int) -> None:
        for _ in range(_ACCEPTS_AT_ONCE):
            try:
                client, _ = self._listener.accept()
            except OSError as error:
                if error.errno in (errno.EMFILE, errno.ENFILE):
                    # All descriptors are in use: the client waits in the backlog, and this must not become a busy loop.
                    time.sleep(0.01)
                return
            try:
                _Connection(self._loop, client, self._target)
            except OSError:
                client.close()

    def close(self) -> None:
        self._loop.forget(self._listener.fileno())
        self._listener.close()


class _UdpClient(Handler):
    """The socket towards the container that stands for one client of a UDP port."""

    def __init__(self, relay: _UdpRelay, peer: tuple[object, ...], info: list[tuple[int, int, bytes]]) -> None:
        self._relay, self._peer, self._info = relay, peer, info
        self.seen = time.monotonic()
        self.socket = socket.socket(socket.AF_INET6 if ":" in relay.target[0] else socket.AF_INET,
                                    socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self.socket.connect(relay.target)

    def ready(self, fd: int, events: int) -> None:
        self.seen = time.monotonic()
        try:
            data = self.socket.recv(65535)
            # With the address that the client had sent to as the source: it expects its answer from there.
            self._relay.socket.sendmsg([data], self._info, 0, self._peer)
        except OSError:
            # Nobody listens in the container (ECONNREFUSED), or the client is gone: datagrams may be lost.
            return


class _UdpRelay(Handler):
    def __init__(self, loop: Loop, sock: socket.socket, target: tuple[str, int]) -> None:
        self._loop, self.socket, self.target = loop, sock, target
        self._clients: dict[tuple[object, ...], _UdpClient] = {}
        sock.setblocking(False)
        if sock.family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
        loop.watch(sock.fileno(), IN, self)

    def ready(self, fd: int, events: int) -> None:
        try:
            data, ancillary, _, peer = self.socket.recvmsg(65535, socket.CMSG_SPACE(20))
        except OSError:
            return
        client = self._clients.get(peer)
        if client is None:
            if len(self._clients) >= _UDP_CLIENTS:
                self._end(min(self._clients, key=lambda key: self._clients[key].seen))
            info = [item for item in ancillary if item[:2] == (socket.IPPROTO_IPV6, socket.IPV6_PKTINFO)]
            try:
                client = self._clients[peer] = _UdpClient(self, peer, info)
            except OSError:
                return
            self._loop.watch(client.socket.fileno(), IN, client)
        client.seen = time.monotonic()
        try:
            client.socket.send(data)
        except OSError:
            return

    def expire(self, now: float) -> None:
        for peer in [peer for peer, client in self._clients.items() if now - client.seen > _UDP_SILENCE]:
            self._end(peer)

    def close(self) -> None:
        for peer in list(self._clients):
            self._end(peer)
        self._loop.forget(self.socket.fileno())
        self.socket.close()

    def _end(self, peer: tuple[object, ...]) -> None:
        client = self._clients.pop(peer)
        self._loop.forget(client.socket.fileno())
        client.socket.close()


class _Held:
    """A reserved port that the kernel serves."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock

    def close(self) -> None:
        self._socket.close()


class Keeper(Handler):
    """The control socket and all ports."""

    def __init__(self, control: socket.socket) -> None:
        self._loop = Loop()
        self._control = control
        self._engines: dict[int, socket.socket] = {}
        self._entries: dict[bytes, tuple[bytes, _Held | _TcpRelay | _UdpRelay]] = {}
        control.setblocking(False)
        self._loop.watch(control.fileno(), IN, self)
        self._started = False

    def run(self) -> None:
        while self._entries or self._engines or not self._started:
            self._loop.turn(_UDP_SILENCE / 3)
            now = time.monotonic()
            for _, entry in self._entries.values():
                if isinstance(entry, _UdpRelay):
                    entry.expire(now)

    def ready(self, fd: int, events: int) -> None:
        if fd == self._control.fileno():
            engine, _ = self._control.accept()
            self._engines[engine.fileno()] = engine
            self._loop.watch(engine.fileno(), IN, self)
            self._started = True
            return
        engine = self._engines[fd]
        try:
            line, fds, _, _ = socket.recv_fds(engine, 512, 1)
            if line:
                self._command(engine, line, fds)
                return
        except OSError:
            pass  # The engine died in the middle: the same as an end.
        self._loop.forget(fd)
        del self._engines[fd]
        engine.close()

    def _command(self, engine: socket.socket, line: bytes, fds: list[int]) -> None:
        verb, *words = line.split()
        if verb == b"list":
            for entry, _ in self._entries.values():
                engine.send(entry)
            engine.send(b". %d" % os.getpid())
            return
        key = b" ".join(words[:3])
        if key in self._entries:
            self._entries.pop(key)[1].close()
        if verb == b"drop":
            engine.send(b"ok")
            return
        sock = socket.socket(fileno=fds[0])
        if verb == b"hold":
            self._entries[key] = (line, _Held(sock))
        else:
            target = (words[3].decode(), int(words[4]))
            relay = _UdpRelay if words[0] == b"udp" else _TcpRelay
            self._entries[key] = (line, relay(self._loop, sock, target))


def main() -> None:
    """Serve the control socket that is fd 0 until there is nothing left to do."""
    import resource

    # What the engine was started with, a pipe or a lock, is nothing that may live as long as this process.
    os.closerange(3, 1 << 20)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    os.chdir("/")
    Keeper(socket.socket(fileno=0)).run()


if __name__ == "__main__":
    main()
