"""The name keeper: the name server at 127.0.0.11 of every container on a user-defined network.

It serves sockets that the engine opened inside the containers' network namespaces, and outlives the engine: names go
on working while that is down. Like the port keeper it uses nothing but the standard library, and takes its orders from
SOCK_SEQPACKET packets:

=========================================================  ==================================================
``put`` JSON, with fds: UDP socket, listener, namespace    serve a container; it may be known already
``put`` JSON                                               what is known of a container has changed
``drop ID``                                                close its sockets, forget its names
``list``                                                   one packet per container with its id, then ``. PID``
=========================================================  ==================================================

The JSON is :class:`barque.network.dns.zone.Record`. It ends by itself when no container is left and no engine is
connected. Name servers that were given to one container alone are asked from its own network namespace.
"""

from __future__ import annotations

import json
import os
import socket
import sys
from collections.abc import Callable

from barque.network.dns import wire
from barque.network.dns.upstream import HostServers, Timers, Upstreams
from barque.network.dns.zone import Record, Zone
from barque.network.keeper import IN, OUT, Handler, Loop

_PACKET = 1 << 18
_QUERIES_AT_ONCE = 64
_TCP_CLIENTS = 64
_TCP_SILENCE = 10.0
#: A client with so many bytes of answers that it has not read asks nothing more before it does.
_TCP_UNREAD = 1 << 16
_RESOLV_CONF = "/etc/resolv.conf"
_ReplyTo = Callable[[wire.Query | None, bytes], None]


class _Served(Handler):
    """The two sockets of one container."""

    def __init__(self, keeper: NameKeeper, container: str, fds: list[int]) -> None:
        self._keeper = keeper
        self.container = container
        self._udp, self._tcp = socket.socket(fileno=fds[0]), socket.socket(fileno=fds[1])
        self.netns = fds[2]
        self.clients: set[_TcpClient] = set()
        for sock in (self._udp, self._tcp):
            sock.setblocking(False)
            keeper.loop.watch(sock.fileno(), IN, self)

    def ready(self, fd: int, events: int) -> None:
        try:
            for _ in range(_QUERIES_AT_ONCE):
                if fd == self._udp.fileno():
                    data, peer = self._udp.recvfrom(4096)
                    self._ask(data, peer)
                else:
                    self._accept(self._tcp.accept()[0])
        except OSError:
            return  # nothing more to read, or nothing to be had of it

    def _ask(self, data: bytes, peer: tuple[str, int]) -> None:
        udp = self._udp

        def reply(query: wire.Query | None, response: bytes) -> None:
            try:
                udp.sendto(response if query is None else wire.fitting(query, response), peer)
            except OSError:
                return  # the client has gone, or this socket: datagrams may be lost

        self._keeper.ask(self, data, tcp=False, reply=reply)

    def _accept(self, client: socket.socket) -> None:
        if len(self.clients) >= _TCP_CLIENTS:
            client.close()
            return
        self.clients.add(_TcpClient(self._keeper, self, client))

    def close(self) -> None:
        for client in list(self.clients):
            client.close()
        for sock in (self._udp, self._tcp):
            self._keeper.loop.forget(sock.fileno())
            sock.close()
        os.close(self.netns)


class _TcpClient(Handler):
    """A client that asks by TCP, any number of questions one after another or all at once."""

    def __init__(self, keeper: NameKeeper, served: _Served, client: socket.socket) -> None:
        self._keeper, self._served, self._socket = keeper, served, client
        self._in = self._out = b""
        self._active = 0
        client.setblocking(False)
        keeper.loop.watch(client.fileno(), IN, self)
        self._look_after()

    def _look_after(self) -> None:
        seen = self._active

        def check() -> None:
            if self in self._served.clients:
                if self._active == seen:
                    self.close()
                else:
                    self._look_after()

        self._keeper.timers.after(_TCP_SILENCE, check)

    def ready(self, fd: int, events: int) -> None:
        try:
            if self._out and events & OUT:
                self._out = self._out[self._socket.send(self._out):]
            if events & ~OUT:
                chunk = self._socket.recv(65535)
                if not chunk:
                    raise ConnectionResetError
                self._in += chunk
        except BlockingIOError:
            return
        except OSError:
            self.close()
            return
        while len(self._out) < _TCP_UNREAD and len(self._in) >= 2 and len(self._in) >= 2 + (
                length := int.from_bytes(self._in[:2], "big")):
            data, self._in = self._in[2:2 + length], self._in[2 + length:]
            self._active += 1
            self._keeper.ask(self._served, data, tcp=True, reply=self._reply)
        self._watch()

    def _reply(self, _query: wire.Query | None, response: bytes) -> None:
        if self in self._served.clients:
            self._out += len(response).to_bytes(2, "big") + response
            self._watch()

    def _watch(self) -> None:
        if self in self._served.clients:
            events = (IN if len(self._out) < _TCP_UNREAD else 0) | (OUT if self._out else 0)
            self._keeper.loop.watch(self._socket.fileno(), events, self)

    def close(self) -> None:
        self._served.clients.discard(self)
        self._keeper.loop.forget(self._socket.fileno())
        self._socket.close()


class NameKeeper(Handler):
    """The control socket, the names, and all containers that are served."""

    def __init__(self, control: socket.socket, resolv_conf: str) -> None:
        self.loop = Loop()
        self.timers = Timers()
        self._control = control
        self._engines: dict[int, socket.socket] = {}
        self._zone = Zone()
        self._served: dict[str, _Served] = {}
        self._host = HostServers(resolv_conf)
        self._upstreams = Upstreams(self.loop, self.timers)
        self._started = False
        control.setblocking(False)
        self.loop.watch(control.fileno(), IN, self)

    def run(self) -> None:
        while self._zone.records or self._engines or not self._started:
            self.loop.turn(self.timers.run())

    def ask(self, served: _Served, data: bytes, *, tcp: bool, reply: _ReplyTo) -> None:
        """Answer one question of a container, now or later; what the engine said before it was asked counts."""
        for fd in list(self._engines):
            self._listen_to(fd)
        try:
            query = wire.parse(data)
        except wire.Malformed:
            if len(data) >= 12 and not data[2] & 0x80:
                reply(None, wire.refusal(data, wire.FORMERR))
            return
        record = self._zone.records.get(served.container)
        if record is None:
            return
        response = self._zone.answer(record, query)
        if response is None and (not record.forward or (
                record.ndots and "." not in query.name and query.kind in (wire.A, wire.AAAA))):
            response = wire.answer(query, wire.NXDOMAIN)
        if response is not None:
            reply(query, response)
            return
        own = record.servers
        self._upstreams.ask(query, own or self._host.now(), record.id, served.netns if own else None, tcp=tcp,
                            reply=lambda answer: reply(query, answer))

    def ready(self, fd: int, events: int) -> None:
        if fd == self._control.fileno():
            engine, _ = self._control.accept()
            engine.setblocking(False)
            self._engines[engine.fileno()] = engine
            self.loop.watch(engine.fileno(), IN, self)
            self._started = True
            return
        self._listen_to(fd)

    def _listen_to(self, fd: int) -> None:
        """Do all that an engine has ordered so far."""
        engine = self._engines[fd]
        try:
            while True:
                data, fds, _, _ = socket.recv_fds(engine, _PACKET, 3)
                if not data:
                    break
                self._command(engine, data, fds)
        except BlockingIOError:
            return
        except OSError:
            pass  # The engine died in the middle: the same as an end.
        self.loop.forget(fd)
        del self._engines[fd]
        engine.close()

    def _command(self, engine: socket.socket, data: bytes, fds: list[int]) -> None:
        verb, _, rest = data.partition(b" ")
        if verb == b"put":
            record = Record.load(json.loads(rest))
            if fds:
                self._close(record.id)
                self._served[record.id] = _Served(self, record.id, fds)
            self._zone.put(record)
        elif verb == b"drop":
            self._close(rest.decode())
            self._zone.drop(rest.decode())
        else:
            engine.setblocking(True)
            for container in self._served:
                engine.send(container.encode())
            engine.send(b". %d" % os.getpid())
            engine.setblocking(False)

    def _close(self, container: str) -> None:
        served = self._served.pop(container, None)
        if served is not None:
            served.close()


def main() -> None:
    """Serve the control socket that is fd 0 until there is nothing left to do."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    os.chdir("/")
    NameKeeper(socket.socket(fileno=0), sys.argv[1] if len(sys.argv) > 1 else _RESOLV_CONF).run()
