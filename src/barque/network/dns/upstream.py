"""Questions that go to other servers: asked in parallel where one is slow, remembered, never waited for long."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import heapq
import os
import secrets
import socket
import struct
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator, Sequence
from functools import partial

from barque.network.dns import wire
from barque.network.dns.wire import Query
from barque.network.keeper import IN, OUT, Handler, Loop

PORT = 53
#: When a server is silent for so long, the next one is asked too. The first answer counts.
HEDGE = 0.25
#: All are asked again after so long, and once more; clients give up after five seconds.
ROUNDS = (1.0, 2.5)
DEADLINE = 4.5
#: A server that another one beat by silence, or that is not there at all, is asked last for so long.
PENALTY = 30.0
MAX_CACHED = 4096
MAX_CACHED_BYTES = 4 << 20
MAX_TTL = 3600
#: Questions without an answer yet. One container that asks for what nobody answers must not keep the others waiting.
MAX_OPEN = 2048
MAX_OPEN_EACH = 256
_TRY_ANOTHER = (wire.FORMERR, wire.SERVFAIL, wire.NOTIMP, wire.REFUSED)
_CLONE_NEWNET = 0x40000000

Reply = Callable[[bytes], None]


class Timers:
    """Calls to come. A call that is not wanted any more must see so itself."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0

    def after(self, seconds: float, call: Callable[[], None]) -> None:
        self._count += 1
        heapq.heappush(self._heap, (time.monotonic() + seconds, self._count, call))

    def run(self) -> float:
        """Make the calls that are due; returns seconds until the next one, a minute if there is none."""
        while self._heap and (wait := self._heap[0][0] - time.monotonic()) <= 0:
            heapq.heappop(self._heap)[2]()
        return min(60.0, max(0.0, wait)) if self._heap else 60.0


class HostServers:
    """The name servers of the host's resolv.conf, read again when it has changed."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._looked = 0.0
        self._stamp: tuple[int, ...] = ()
        self._servers: tuple[str, ...] = ()

    def now(self) -> tuple[str, ...]:
        if time.monotonic() - self._looked > 1.0:
            self._looked = time.monotonic()
            try:
                status = os.stat(self._path)
                stamp = (status.st_ino, status.st_size, status.st_mtime_ns)
                if stamp != self._stamp:
                    with open(self._path, encoding="utf-8", errors="replace") as file:
                        lines = [line.split() for line in file]
                    self._servers = tuple(words[1] for words in lines if words[:1] == ["nameserver"] and words[1:])
                    self._stamp = stamp
            except OSError:
                self._servers, self._stamp = (), ()
        return self._servers


class Cache:
    def __init__(self) -> None:
        self._entries: OrderedDict[tuple[object, ...], tuple[float, float, bytes]] = OrderedDict()
        self._bytes = 0

    def get(self, key: tuple[object, ...]) -> bytes | None:
        found = self._entries.get(key)
        if found is None:
            return None
        stored, expires, response = found
        now = time.monotonic()
        if now >= expires:
            self._drop(key)
            return None
        self._entries.move_to_end(key)
        return wire.aged(response, int(now - stored))

    def put(self, key: tuple[object, ...], response: bytes) -> None:
        if wire.truncated(response) or wire.rcode(response) not in (wire.NOERROR, wire.NXDOMAIN):
            return
        seconds = min(wire.lifetime(response), MAX_TTL)
        if seconds > 0:
            now = time.monotonic()
            self._drop(key)
            self._entries[key] = (now, now + seconds, response)
            self._bytes += len(response)
            while len(self._entries) > MAX_CACHED or self._bytes > MAX_CACHED_BYTES:
                self._drop(next(iter(self._entries)))

    def _drop(self, key: tuple[object, ...]) -> None:
        if key in self._entries:
            self._bytes -= len(self._entries.pop(key)[2])


class Upstreams:
    """Asks servers on behalf of containers."""

    def __init__(self, loop: Loop, timers: Timers) -> None:
        self.loop = loop
        self.timers = timers
        self.penalties: dict[str, float] = {}
        #: How many questions are open, by container.
        self.open: Counter[str] = Counter()
        self._cache = Cache()

    def ask(self, query: Query, servers: Sequence[str], container: str, netns: int | None, *, tcp: bool, reply: Reply
            ) -> None:
        """Answer from memory, or ask; ``netns`` is an fd of the container's network namespace, to ask from there."""
        key = (tuple(servers), container if netns is not None else "", tcp, *query.key)
        kept = self._cache.get(key)
        if kept is not None:
            reply(wire.for_client(query, kept))
            return
        if not servers or self.open[container] >= MAX_OPEN_EACH or self.open.total() >= MAX_OPEN:
            reply(wire.answer(query, wire.SERVFAIL))
            return

        def done(response: bytes | None) -> None:
            self.open[container] -= 1
            if not self.open[container]:
                del self.open[container]
            if response is None:
                reply(wire.answer(query, wire.SERVFAIL))
                return
            self._cache.put(key, response)
            reply(wire.for_client(query, response))

        self.open[container] += 1
        now = time.monotonic()
        order = sorted(servers, key=lambda server: self.penalties.get(server, 0.0) > now)
        Exchange(self, query, order, netns, tcp, done).begin()

    def punish(self, server: str) -> None:
        self.penalties[server] = time.monotonic() + PENALTY

    def forgive(self, server: str) -> None:
        self.penalties.pop(server, None)


class Exchange:
    """One question on its way to the servers, in their order."""

    def __init__(self, upstreams: Upstreams, query: Query, servers: Sequence[str], netns: int | None, tcp: bool,
                 done: Callable[[bytes | None], None]) -> None:
        self.upstreams = upstreams
        self.query = query
        self._servers, self._netns, self._tcp = servers, netns, tcp
        self._done: Callable[[bytes | None], None] | None = done
        self._next = 0
        self._attempts: set[_Attempt] = set()
        self._fallback: bytes | None = None

    def begin(self) -> None:
        timers = self.upstreams.timers
        timers.after(DEADLINE, lambda: self._finish(self._fallback))
        for seconds in ROUNDS:
            timers.after(seconds, self._again)
        self.ask_next()

    def ask_next(self) -> None:
        """Ask the next server, and in a moment the one behind it."""
        while self._done is not None and self._next < len(self._servers):
            server = self._servers[self._next]
            self._next += 1
            if self._ask(server):
                if self._next < len(self._servers):
                    self.upstreams.timers.after(HEDGE, partial(self._hedge, self._next))
                return
        if self._done is not None and not self._attempts:
            self._finish(self._fallback)

    def answered(self, attempt: _Attempt, response: bytes) -> None:
        self._end(attempt)
        if wire.rcode(response) in _TRY_ANOTHER:
            self._fallback = response
            self.ask_next()
            return
        self.upstreams.forgive(attempt.server)
        for silent in self._attempts:
            self.upstreams.punish(silent.server)
        self._finish(response)

    def failed(self, attempt: _Attempt) -> None:
        """Nobody is there."""
        self._end(attempt)
        self.upstreams.punish(attempt.server)
        self.ask_next()

    def _hedge(self, position: int) -> None:
        if self._next == position:
            self.ask_next()

    def _again(self) -> None:
        if self._done is not None:
            for server in {attempt.server for attempt in self._attempts} if not self._tcp else ():
                self._ask(server)

    def _ask(self, server: str) -> bool:
        try:
            with _inside(self._netns):
                attempt = _Attempt(self, server, tcp=self._tcp)
        except OSError:
            self.upstreams.punish(server)
            return False
        self._attempts.add(attempt)
        return True

    def _end(self, attempt: _Attempt) -> None:
        self._attempts.discard(attempt)
        attempt.close()

    def _finish(self, response: bytes | None) -> None:
        if self._done is None:
            return
        done, self._done = self._done, None
        if response is None:
            for attempt in self._attempts:
                self.upstreams.punish(attempt.server)
        for attempt in list(self._attempts):
            self._end(attempt)
        done(response)


class _Attempt(Handler):
    """One server, asked once. A socket of its own for each question: the port is as hard to guess as the id."""

    def __init__(self, exchange: Exchange, server: str, *, tcp: bool) -> None:
        self._exchange = exchange
        self.server = server
        self._tcp = tcp
        self._number = secrets.randbelow(1 << 16)
        message = wire.asked(exchange.query, self._number)
        family, _, _, _, address = socket.getaddrinfo(server, PORT, type=socket.SOCK_DGRAM,
                                                      flags=socket.AI_NUMERICHOST)[0]
        self._socket = socket.socket(family, socket.SOCK_STREAM if tcp else socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        self._out = struct.pack(">H", len(message)) + message if tcp else b""
        self._received = b""
        try:
            if tcp:
                code = self._socket.connect_ex(address)
                if code not in (0, errno.EINPROGRESS):
                    raise OSError(code, os.strerror(code))
            else:
                self._socket.connect(address)
                self._socket.send(message)
        except OSError:
            self._socket.close()
            raise
        exchange.upstreams.loop.watch(self._socket.fileno(), OUT if tcp else IN, self)

    def ready(self, fd: int, events: int) -> None:
        try:
            if self._tcp:
                self._move()
                return
            response = self._socket.recv(65535)
        except BlockingIOError:
            return
        except OSError:
            self._exchange.failed(self)
            return
        if wire.belongs(self._exchange.query, self._number, response):
            self._exchange.answered(self, response)

    def _move(self) -> None:
        if self._out:
            self._out = self._out[self._socket.send(self._out):]
            if not self._out:
                self._exchange.upstreams.loop.watch(self._socket.fileno(), IN, self)
            return
        chunk = self._socket.recv(65535)
        if not chunk:
            raise ConnectionResetError
        self._received += chunk
        if len(self._received) >= 2 and len(self._received) >= 2 + int.from_bytes(self._received[:2], "big"):
            response = self._received[2:2 + int.from_bytes(self._received[:2], "big")]
            if not wire.belongs(self._exchange.query, self._number, response):
                raise ConnectionResetError
            self._exchange.answered(self, response)

    def close(self) -> None:
        self._exchange.upstreams.loop.forget(self._socket.fileno())
        self._socket.close()


@contextlib.contextmanager
def _inside(netns: int | None) -> Iterator[None]:
    """Run the block in a container's network namespace: this process has one thread, which comes back."""
    if netns is None:
        yield
        return
    home = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        if _libc.setns(netns, _CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), "setns")
        try:
            yield
        finally:
            if _libc.setns(home, _CLONE_NEWNET) != 0:
                raise SystemExit("cannot come back from a container's network namespace")
    finally:
        os.close(home)


_libc = ctypes.CDLL(None, use_errno=True)
