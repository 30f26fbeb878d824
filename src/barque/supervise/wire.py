"""Framing of the messages, without I/O of its own but for the two calls that pass descriptors.

On a stream, a frame is::

    0      4        8          8 + length
    +------+--------+----------+
    |length| serial | message  |     length: of the message alone; both numbers big-endian
    +------+--------+----------+

The message is msgpack, a map with its type under "type". On SOCK_SEQPACKET, which keeps the borders itself, a packet is
serial and message. Serial 0 belongs to no request.
"""

from __future__ import annotations

import array
import os
import socket
from collections.abc import Sequence
from struct import Struct
from typing import Any, Generic, TypeVar

import msgspec

from barque.supervise import messages as m

T = TypeVar("T")

HEADER = Struct("!II")
SERIAL = Struct("!I")
#: A create order with 500 layers takes some 100 kB; anything near this is not ours.
MAX_MESSAGE = 16 << 20
#: Messages to and from the zygote are tiny; orders and results go over the child's own channel.
MAX_PACKET = 16 << 10
MAX_FDS = 16

#: Plain numbers: arithmetic with the enums of the socket module writes to twenty pages of whoever does it first after a
#: fork, and the zygote's of one fork to the next are copies that each container pays for.
_RIGHTS = (int(socket.SOL_SOCKET), int(socket.SCM_RIGHTS))
_CUT_OFF = int(socket.MSG_TRUNC | socket.MSG_CTRUNC)
_CLOEXEC = int(socket.MSG_CMSG_CLOEXEC)
_NO_WAIT = int(socket.MSG_CMSG_CLOEXEC | socket.MSG_DONTWAIT)
_NOSIGNAL = int(socket.MSG_NOSIGNAL)

_encoder = msgspec.msgpack.Encoder()
#: Built once, before the zygote forks: building a decoder allocates and inspects types.
REQUESTS: msgspec.msgpack.Decoder[m.Request] = msgspec.msgpack.Decoder(m.Request)
ANSWERS: msgspec.msgpack.Decoder[m.Answer] = msgspec.msgpack.Decoder(m.Answer)
ZYGOTE_REQUESTS: msgspec.msgpack.Decoder[m.ZygoteRequest] = msgspec.msgpack.Decoder(m.ZygoteRequest)
ZYGOTE_ANSWERS: msgspec.msgpack.Decoder[m.ZygoteAnswer] = msgspec.msgpack.Decoder(m.ZygoteAnswer)


class ProtocolError(Exception):
    """The other end does not speak this protocol; the connection is of no further use."""


def encode(serial: int, message: msgspec.Struct) -> bytes:
    payload = _encoder.encode(message)
    return HEADER.pack(len(payload), serial) + payload


class Decoder(Generic[T]):
    """Takes bytes as they come with :meth:`feed`, gives whole messages with :meth:`next`."""

    def __init__(self, decoder: msgspec.msgpack.Decoder[T]) -> None:
        self._decoder = decoder
        self._buffer = bytearray()

    def feed(self, data: bytes) -> None:
        self._buffer += data

    def next(self) -> tuple[int, T] | None:
        """The next serial and message, or None until more bytes have come; raises :class:`ProtocolError`."""
        if len(self._buffer) < HEADER.size:
            return None
        length, serial = HEADER.unpack_from(self._buffer)
        if length > MAX_MESSAGE:
            raise ProtocolError(f"a message of {length} bytes")
        end = HEADER.size + length
        if len(self._buffer) < end:
            return None
        payload = bytes(self._buffer[HEADER.size:end])
        del self._buffer[:end]
        return serial, _decode(self._decoder, payload)

    @property
    def pending(self) -> bool:
        return bool(self._buffer)

    def rest(self) -> bytes:
        """Take what follows the last message: the beginning of the byte stream that the connection became."""
        data = bytes(self._buffer)
        self._buffer.clear()
        return data


def _decode(decoder: msgspec.msgpack.Decoder[T], payload: bytes) -> T:
    try:
        return decoder.decode(payload)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ProtocolError(str(error)) from None


def encode_packet(message: msgspec.Struct) -> bytes:
    """What follows the serial in a packet."""
    return _encoder.encode(message)


def send_packet(sock: socket.socket, serial: int, message: msgspec.Struct, fds: Sequence[int] = ()) -> None:
    """Send one packet on a SOCK_SEQPACKET socket; the descriptors are duplicated, the sender keeps its own."""
    ancillary: list[tuple[int, int, Any]] = []
    if fds:
        ancillary.append((*_RIGHTS, array.array("i", fds)))
    sock.sendmsg([SERIAL.pack(serial), _encoder.encode(message)], ancillary, _NOSIGNAL)


def receive_packet(sock: socket.socket, decoder: msgspec.msgpack.Decoder[T], *,
                   wait: bool = True) -> tuple[int, T, list[int]] | None:
    """One packet and the descriptors in it (now the caller's, close-on-exec); None at the end of the connection."""
    data, ancillary, flags, _ = sock.recvmsg(MAX_PACKET, socket.CMSG_SPACE(MAX_FDS * 4),
                                             _CLOEXEC if wait else _NO_WAIT)
    fds = array.array("i")
    for level, kind, content in ancillary:
        if (level, kind) == _RIGHTS:
            fds.frombytes(content[:len(content) - len(content) % fds.itemsize])
    try:
        if not data:
            return None
        if flags & _CUT_OFF or len(data) < SERIAL.size:
            raise ProtocolError("a packet that is cut off")
        message = _decode(decoder, data[SERIAL.size:])
        return SERIAL.unpack_from(data)[0], message, fds.tolist()
    except ProtocolError:
        for fd in fds:
            os.close(fd)
        raise
