"""A shipper's life: be told what to do, connect to the target, take the monitor's connection, pass on until its end.

Over its channel it gets one :data:`ShipOrder` and answers with an empty line or the reason why it cannot do that; then
it says there, a line each, what goes wrong later. The channel may go away, and a later daemon come by the second of its
two sockets; the container's monitor, which came by the first, may not.
"""

from __future__ import annotations

import encodings.idna
import encodings.punycode
import os
import select
import socket
import time
from collections import deque
from typing import Protocol

import msgspec

from barque.supervise.entries import Cutter, Entry
from barque.supervise.log_sink import PIECE, open_file
from barque.supervise.messages import STDERR, STDOUT
from barque.supervise.shippers.connection import GRACE, GivenUp, Patience, dial_error
from barque.supervise.shippers.fluentd import Fluentd
from barque.supervise.shippers.gelf import Gelf
from barque.supervise.shippers.journald import Journald
from barque.supervise.shippers.orders import FileOrder, FluentdOrder, GelfOrder, JournaldOrder, ShipOrder, SyslogOrder
from barque.supervise.shippers.syslog import Syslog
from barque.sys import caps

#: Imported by Python itself when a name is resolved.
PRELOADED = (encodings.idna, encodings.punycode)
_orders: msgspec.msgpack.Decoder[ShipOrder] = msgspec.msgpack.Decoder(ShipOrder)


#: As many complaints are kept while no daemon is there.
UNHEARD = 16


class Voice:
    """Tells a daemon in words what goes wrong: the one that started this process, or one that came after it."""

    def __init__(self, channel: socket.socket, listening: socket.socket) -> None:
        """``listening`` does not block."""
        self._channel: socket.socket | None = channel
        self._listening = listening
        self._unheard: deque[str] = deque(maxlen=UNHEARD)

    def say(self, text: str) -> None:
        self._unheard.append(text.replace("\n", " "))
        self.catch_up()

    def catch_up(self) -> None:
        """Say what nobody has heard so far, where somebody is there now."""
        while self._unheard and (listener := self._listener()) is not None:
            try:
                listener.send(self._unheard[0].encode(errors="replace") + b"\n", socket.MSG_DONTWAIT)
            except BlockingIOError:
                return
            except OSError:
                listener.close()
                self._channel = None
            else:
                self._unheard.popleft()

    def _listener(self) -> socket.socket | None:
        if self._channel is None:
            try:
                self._channel, _ = self._listening.accept()
            except OSError:
                pass    # nobody has come
        return self._channel


class Target(Protocol):
    """Where entries go. ``send`` raises OSError for an entry that is lost, GivenUp once nothing more can be sent."""

    def send(self, stream: int, entry: Entry) -> None: ...
    def close(self) -> None: ...


class Sink(Protocol):
    """Takes pieces of output as they come, and their end."""

    def take(self, stream: int, data: bytes, time: int) -> None: ...
    def finish(self, time: int) -> None: ...


class Lines:
    """Cuts pieces into entries for a target."""

    def __init__(self, target: Target, patience: Patience, voice: Voice) -> None:
        self._target = target
        self._patience = patience
        self._voice = voice
        self._cutters = {STDOUT: Cutter(), STDERR: Cutter()}
        self._lost = 0

    def take(self, stream: int, data: bytes, time: int) -> None:
        self._send(stream, self._cutters[stream].feed(data, time))

    def finish(self, time: int) -> None:
        for stream, cutter in self._cutters.items():
            self._send(stream, cutter.end(time))
        self._target.close()

    def _send(self, stream: int, entries: list[Entry]) -> None:
        self._voice.catch_up()
        for entry in entries:
            try:
                self._target.send(stream, entry)
            except OSError as error:
                if not self._lost:
                    self._voice.say(f"the log target takes no messages: {error}")
                self._lost += 1
                self._patience.check()
            else:
                if self._lost:
                    self._voice.say(f"the log target takes messages again; lost in between: {self._lost}")
                    self._lost = 0


class File:
    """Leaves the cutting to the file, which also compresses what it has rotated."""

    def __init__(self, order: FileOrder) -> None:
        self._file = open_file(order.log)

    def take(self, stream: int, data: bytes, time: int) -> None:
        self._file.write(stream, data)
        while self._file.work():
            pass

    def finish(self, time: int) -> None:
        self._file.close()


def open_sink(order: ShipOrder, patience: Patience, voice: Voice) -> Sink:
    """Raises OSError whose text is dockerd's."""
    target: Target
    try:
        match order:
            case FileOrder():
                return File(order)
            case JournaldOrder():
                target = Journald(order, patience)
            case SyslogOrder():
                target = Syslog(order, patience)
            case FluentdOrder():
                target = Fluentd(order, patience)
            case GelfOrder():
                target = Gelf(order, patience)
    except OSError as error:
        raise OSError(_reason(order, error)) from None
    return Lines(target, patience, voice)


def _reason(order: ShipOrder, error: OSError) -> str:
    if isinstance(order, FileOrder | JournaldOrder):
        return str(error)
    text = dial_error(order.network.removesuffix("+tls").replace("tls", "tcp"), order.address, error)
    return f"gelf: cannot connect to GELF endpoint: {order.address} {text}" if isinstance(order, GelfOrder) else text


def be(channel: socket.socket, fds: list[int]) -> int:
    """The shipper behind the listening sockets ``fds``: one for the monitor, one for daemons."""
    os.setsid()
    os.dup2(0, 2)    # as the monitor does
    os.chdir("/")
    daemons = socket.socket(fileno=fds[1])
    with socket.socket(fileno=fds[0]) as listening, channel.makefile("rb") as stream:
        length = int.from_bytes(stream.read(4), "big")
        request = stream.read(length)
        if not length or len(request) < length:
            return 1    # who asked has given up
        # The target is waited for as long as somebody waits for this answer.
        patience = Patience(channel, grace=0)
        try:
            caps.set_sets(0, 0, 0)    # what it sends was written by a container, what it is answered comes from afar
            sink = open_sink(_orders.decode(request), patience, Voice(channel, daemons))
            channel.sendall(b"\n")
        except GivenUp:
            return 1
        except OSError as error:
            channel.sendall(f"{error}\n".encode())
            return 1
        source = _accept(listening, channel)
    if source is None:
        return 1
    patience.follow(source, GRACE)
    _pass_on(source, sink)
    return 0


def _accept(listening: socket.socket, channel: socket.socket) -> socket.socket | None:
    """The monitor's connection, or None where the daemon goes away before there is one."""
    poller = select.poll()
    poller.register(listening, select.POLLIN)
    poller.register(channel, select.POLLRDHUP)
    ready = [fd for fd, _ in poller.poll()]
    return listening.accept()[0] if listening.fileno() in ready else None


def _pass_on(source: socket.socket, sink: Sink) -> None:
    with source, source.makefile("rb", buffering=1 << 18) as stream:
        try:
            while len(head := stream.read(PIECE.size)) == PIECE.size:
                number, length, moment = PIECE.unpack(head)
                sink.take(number, stream.read(length), moment)
            sink.finish(time.time_ns())
        except GivenUp:
            pass    # the container is gone, and the target does not listen
