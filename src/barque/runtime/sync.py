"""The talk between the caller of create() or exec_process() and the process that becomes the container's.

One SOCK_SEQPACKET pair, one message per packet, one byte of kind and a JSON body where there is more to say.

    message     from    body                    when
    GO          caller  -                       the cgroup is joined and the id maps are written
    NAMESPACES  child   -                       only with hooks: mounts are done, the root not yet switched
    RESUME      caller  -                       the hooks of the runtime's side have run
    READY       child   {"warnings": [...]}     all is done but the exec; with a terminal, its master comes along
    START       caller  -                       exec now; may come over the start socket instead (see StartSocket)
    LISTENER    child   descriptor's number     after START, only with a notifying filter, which is loaded now
    TAKEN       caller  -                       the listener is with its agent
    FAILED      child   RuntimeFailure          instead of any of the child's; the child exits
    (end)       child   -                       after START: the exec closed the socket, the program runs

Each end is a class whose methods are its legal messages.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import msgspec

from barque.runtime.failure import RuntimeFailure
from barque.sys import sockets
from barque.sys.sockets import Socket

GO = b"G"
NAMESPACES = b"N"
RESUME = b"R"
READY = b"Y"
START = b"S"
LISTENER = b"L"
TAKEN = b"T"
FAILED = b"F"

_MAX_MESSAGE = 65536


def pair() -> tuple[Socket, Socket]:
    """(the caller's end, the child's end), both O_CLOEXEC."""
    return sockets.pair(sockets.SOCK_SEQPACKET)


def _body(packet: bytes) -> Any:
    return msgspec.json.decode(packet[1:])


class CallerEnd:
    """The caller's side. Every wait raises RuntimeFailure: the child's own, or that the child died."""

    def __init__(self, sock: Socket) -> None:
        self._socket = sock

    def go(self) -> None:
        self._send(GO)

    def wait_namespaces(self) -> None:
        self._expect(NAMESPACES)

    def resume(self) -> None:
        self._send(RESUME)

    def wait_ready(self) -> tuple[list[str], int | None]:
        """(warnings, the terminal's master if there is one, now the caller's)."""
        packet, passed = self._expect(READY)
        return list(_body(packet)["warnings"]), passed[0] if passed else None

    def order_start(self) -> None:
        self._send(START)

    def wait_exec(self, take_listener: Callable[[int], None] | None = None) -> None:
        """After START: return when the exec has closed the child's end.

        ``take_listener`` gets the number of the child's seccomp listener, if it has one.
        """
        packet, _ = self._receive()
        if packet[:1] == LISTENER and take_listener is not None:
            take_listener(int(packet[1:]))
            self._send(TAKEN)
            packet, _ = self._receive()
        if packet:
            raise _failure(packet)

    def close(self) -> None:
        self._socket.close()

    def _send(self, packet: bytes) -> None:
        try:
            self._socket.send(packet)
        except (BrokenPipeError, ConnectionResetError):
            # The child has failed; the reason, if it left one, is what the next wait reads.
            pass

    def _expect(self, kind: bytes) -> tuple[bytes, list[int]]:
        packet, passed = self._receive()
        if packet[:1] != kind:
            raise _failure(packet)
        return packet, passed

    def _receive(self) -> tuple[bytes, list[int]]:
        try:
            return sockets.receive(self._socket, _MAX_MESSAGE)
        except ConnectionResetError:
            # The child closed its end with a message of ours unread. The error is told once, ahead of what the child
            # had sent, which is still there.
            return sockets.receive(self._socket, _MAX_MESSAGE)


def _failure(packet: bytes) -> RuntimeFailure:
    if packet[:1] == FAILED:
        return RuntimeFailure.from_dict(_body(packet))
    if not packet:
        return RuntimeFailure("init", detail="the container's first process died before it was set up")
    return RuntimeFailure("init", detail=f"unexpected message {packet[:1]!r}")


class ChildEnd:
    """The child's side. A caller that went away makes the waits raise RuntimeFailure: the child is to give up then."""

    def __init__(self, sock: Socket, gate: Socket | None = None) -> None:
        self._socket = sock
        self._gate = gate

    def wait_go(self) -> None:
        self._expect(GO)

    def namespaces(self) -> None:
        self._socket.send(NAMESPACES)

    def wait_resume(self) -> None:
        self._expect(RESUME)

    def ready(self, warnings: list[str], master: int | None) -> None:
        body = msgspec.json.encode({"warnings": warnings})
        sockets.send(self._socket, READY + body, [] if master is None else [master])

    def wait_start(self) -> None:
        """Wait for START: from the caller, or with a gate from whoever connects to it, who is answered from then on."""
        if self._gate is not None:
            self._socket.close()
            self._socket = self._gate.accept()
        self._expect(START)

    def offer_listener(self, fd: int) -> None:
        """Tell of the seccomp listener and wait until it was taken.

        By write(2), which a filter may not make wait, and read(2), which waits no longer than for the listener.
        """
        os.write(self._socket.fileno(), LISTENER + str(fd).encode())
        if os.read(self._socket.fileno(), 16) != TAKEN:
            raise RuntimeFailure("seccomp listener", detail="the runtime went away before it took the listener")

    def failed(self, failure: RuntimeFailure) -> None:
        try:
            self._socket.send(FAILED + msgspec.json.encode(failure.to_dict()))
        except OSError:
            # Nobody is left to be told.
            pass

    def _expect(self, kind: bytes) -> None:
        packet = self._socket.recv(16)
        if packet != kind:
            raise RuntimeFailure("init", detail=f"the runtime went away or sent {packet!r} instead of {kind!r}")
