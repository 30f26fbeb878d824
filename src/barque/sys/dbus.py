"""A minimal D-Bus client (D-Bus Specification 0.42): EXTERNAL authentication, calls and signals.

Values travel as Python's int, bool, float, str, list, tuple (struct) and dict; a variant is ``(signature, value)``.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
import time
from collections.abc import Callable
from typing import Any

import msgspec

METHOD_CALL, METHOD_RETURN, ERROR, SIGNAL = 1, 2, 3, 4
_PATH, _INTERFACE, _MEMBER, _ERROR_NAME, _REPLY_SERIAL, _DESTINATION, _SENDER, _SIGNATURE = range(1, 9)
_FIELD_TYPES = {_PATH: "o", _INTERFACE: "s", _MEMBER: "s", _ERROR_NAME: "s", _REPLY_SERIAL: "u", _DESTINATION: "s",
                _SENDER: "s", _SIGNATURE: "g"}
_FIXED = {"y": "B", "n": "h", "q": "H", "i": "i", "u": "I", "x": "q", "t": "Q", "d": "d"}
_ALIGN = {"y": 1, "g": 1, "v": 1, "n": 2, "q": 2, "i": 4, "u": 4, "b": 4, "s": 4, "o": 4, "a": 4, "x": 8, "t": 8,
          "d": 8, "(": 8, "{": 8}
#: The specification allows 128 MiB; nothing that is asked here comes near this.
_MAX_MESSAGE = 1 << 24
_MAX_DEPTH = 64


class ProtocolError(ValueError):
    """What came is not D-Bus, or not what may be expected here."""


class CallFailed(OSError):
    """The peer answered a call with an error."""

    def __init__(self, name: str, text: str) -> None:
        super().__init__(errno.EREMOTEIO, f"{name}: {text}" if text else name)
        self.name = name


class Message(msgspec.Struct):
    kind: int
    serial: int = 0
    path: str = ""
    interface: str = ""
    member: str = ""
    error_name: str = ""
    reply_serial: int = 0
    destination: str = ""
    sender: str = ""
    signature: str = ""
    body: list[Any] = msgspec.field(default_factory=list)


def split(signature: str) -> list[str]:
    """The complete types of a signature: ``sa(sv)u`` -> s, a(sv), u. Raises :class:`ProtocolError`."""
    result, at = [], 0
    while at < len(signature):
        end = _type_end(signature, at, 0)
        result.append(signature[at:end])
        at = end
    return result


def _type_end(signature: str, at: int, depth: int) -> int:
    if depth > _MAX_DEPTH or at >= len(signature) or signature[at] not in _ALIGN:
        raise ProtocolError(f"bad signature {signature!r}")
    char = signature[at]
    if char == "a":
        return _type_end(signature, at + 1, depth + 1)
    if char not in "({":
        return at + 1
    close = ")" if char == "(" else "}"
    at += 1
    while at < len(signature) and signature[at] != close:
        at = _type_end(signature, at, depth + 1)
    if at >= len(signature):
        raise ProtocolError(f"bad signature {signature!r}")
    return at + 1


class Writer:
    """Marshals values; alignment counts from the beginning of the buffer."""

    def __init__(self) -> None:
        self.data = bytearray()

    def pad(self, boundary: int) -> None:
        self.data += bytes(-len(self.data) % boundary)

    def value(self, kind: str, value: Any) -> None:
        self.pad(_ALIGN[kind[0]])
        code = kind[0]
        if code in _FIXED:
            self.data += struct.pack("<" + _FIXED[code], value)
        elif code == "b":
            self.data += struct.pack("<I", bool(value))
        elif code in "so":
            raw = value.encode()
            self.data += struct.pack("<I", len(raw)) + raw + b"\0"
        elif code == "g":
            self.data += bytes([len(value)]) + value.encode() + b"\0"
        elif code == "v":
            self.value("g", value[0])
            self.value(value[0], value[1])
        elif code == "a":
            self._array(kind[1:], value)
        else:
            for part, one in zip(split(kind[1:-1]), value, strict=True):
                self.value(part, one)

    def _array(self, kind: str, values: Any) -> None:
        length_at = len(self.data)
        self.data += bytes(4)
        self.pad(_ALIGN[kind[0]])
        start = len(self.data)
        for one in values.items() if isinstance(values, dict) else values:
            self.value(kind, one)
        struct.pack_into("<I", self.data, length_at, len(self.data) - start)


class Reader:
    """The reverse; ``data`` begins at an 8-byte boundary of the message. Raises :class:`ProtocolError`."""

    def __init__(self, data: bytes, little: bool = True) -> None:
        self._data = data
        self._at = 0
        self._order = "<" if little else ">"

    def value(self, kind: str, depth: int = 0) -> Any:
        if depth > _MAX_DEPTH:
            raise ProtocolError("nested too deeply")
        code = kind[0]
        self._pad(_ALIGN[code])
        if code in _FIXED:
            return self._fixed(_FIXED[code])
        if code == "b":
            return bool(self._fixed("I"))
        if code in "so":
            return self._text(self._fixed("I"))
        if code == "g":
            return self._text(self._fixed("B"))
        if code == "v":
            inner = self.value("g")
            if len(split(inner)) != 1:
                raise ProtocolError(f"a variant of type {inner!r}")
            return inner, self.value(inner, depth + 1)
        if code == "a":
            return self._array(kind[1:], depth + 1)
        return tuple(self.value(part, depth + 1) for part in split(kind[1:-1]))

    def _array(self, kind: str, depth: int) -> Any:
        length = self._fixed("I")
        self._pad(_ALIGN[kind[0]])
        end = self._at + length
        if end > len(self._data):
            raise ProtocolError("an array longer than its message")
        values = []
        while self._at < end:
            values.append(self.value(kind, depth))
        return dict(values) if kind[0] == "{" else values

    def _pad(self, boundary: int) -> None:
        self._at += -self._at % boundary

    def _fixed(self, code: str) -> Any:
        size = struct.calcsize("=" + code)
        return struct.unpack(self._order + code, self._take(size))[0]

    def _text(self, length: int) -> str:
        raw = self._take(length + 1)
        return raw[:-1].decode(errors="replace")

    def _take(self, count: int) -> bytes:
        if self._at + count > len(self._data):
            raise ProtocolError("the message ends too early")
        self._at += count
        return self._data[self._at - count:self._at]


def encode(message: Message) -> bytes:
    body = Writer()
    for kind, value in zip(split(message.signature), message.body, strict=True):
        body.value(kind, value)
    named = ((_PATH, message.path), (_INTERFACE, message.interface), (_MEMBER, message.member),
             (_ERROR_NAME, message.error_name), (_REPLY_SERIAL, message.reply_serial),
             (_DESTINATION, message.destination), (_SENDER, message.sender), (_SIGNATURE, message.signature))
    out = Writer()
    out.data += struct.pack("<cBBBII", b"l", message.kind, 0, 1, len(body.data), message.serial)
    out.value("a(yv)", [(code, (_FIELD_TYPES[code], value)) for code, value in named if value])
    out.pad(8)
    return bytes(out.data + body.data)


def message_length(head: bytes) -> int:
    """The length of the whole message from its first 16 bytes. Raises :class:`ProtocolError`."""
    order = {b"l": "<", b"B": ">"}.get(head[:1])
    if order is None:
        raise ProtocolError("neither little nor big endian")
    body, _, fields = struct.unpack_from(order + "III", head, 4)
    length = 16 + fields + -fields % 8 + body
    if length > _MAX_MESSAGE:
        raise ProtocolError(f"a message of {length} bytes")
    return int(length)


def decode(data: bytes) -> Message:
    """One whole message. Raises :class:`ProtocolError`."""
    little = data[:1] == b"l"
    body_length, serial, fields_length = struct.unpack_from("<III" if little else ">III", data, 4)
    message = Message(kind=data[1], serial=serial)
    names = {_PATH: "path", _INTERFACE: "interface", _MEMBER: "member", _ERROR_NAME: "error_name",
             _REPLY_SERIAL: "reply_serial", _DESTINATION: "destination", _SENDER: "sender", _SIGNATURE: "signature"}
    # The array of fields begins at 12; a reader counts alignment from an 8-byte boundary.
    header = Reader(data[8:16 + fields_length], little)
    header.value("u")
    for code, (_, value) in header.value("a(yv)"):
        if code in names:
            setattr(message, names[code], value)
    body = Reader(data[len(data) - body_length:], little)
    message.body = [body.value(kind) for kind in split(message.signature)]
    return message


class Connection:
    """One authenticated connection; every wait has the same deadline of ``timeout`` seconds (TimeoutError).

    On a bus :meth:`hello` comes first; systemd's private socket has no bus daemon and wants none.
    """

    def __init__(self, path: str, timeout: float = 30.0) -> None:
        self._timeout = timeout
        self._serial = 0
        self._buffer = b""
        self._signals: list[Message] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            self._socket.settimeout(timeout)
            self._socket.connect(path)
            self._authenticate()
        except BaseException:
            self._socket.close()
            raise

    def _authenticate(self) -> None:
        """SASL EXTERNAL: the kernel vouches for our uid; the NUL byte carries credentials where they are wanted.

        BEGIN goes along, before any answer, as sd-bus has it: were it to arrive in one read with the first message,
        systemd would leave that message lying until more came.
        """
        uid = str(os.geteuid()).encode().hex().encode()
        self._socket.sendall(b"\0AUTH EXTERNAL " + uid + b"\r\nBEGIN\r\n")
        while b"\r\n" not in self._buffer:
            self._receive()
        line, _, self._buffer = self._buffer.partition(b"\r\n")
        if not line.startswith(b"OK "):
            raise PermissionError(13, f"D-Bus refuses to authenticate uid {os.geteuid()}: {line.decode()!r}")

    def hello(self) -> str:
        """Register with the bus; our unique name."""
        bus = "org.freedesktop.DBus"
        return str(self.call(bus, "/org/freedesktop/DBus", bus, "Hello")[0])

    def call(self, destination: str, path: str, interface: str, member: str, signature: str = "",
             *values: Any) -> list[Any]:
        """Call a method and wait for its answer; raises :class:`CallFailed`. Signals met meanwhile are kept."""
        self._serial += 1
        self._socket.sendall(encode(Message(METHOD_CALL, self._serial, path, interface, member,
                                            destination=destination, signature=signature, body=list(values))))
        deadline = time.monotonic() + self._timeout
        while True:
            message = self._next(deadline)
            if message.kind == SIGNAL:
                self._signals.append(message)
            elif message.reply_serial == self._serial and message.kind == METHOD_RETURN:
                return message.body
            elif message.reply_serial == self._serial and message.kind == ERROR:
                raise CallFailed(message.error_name, str(message.body[0]) if message.body else "")

    def wait_signal(self, member: str, wanted: Callable[[list[Any]], bool]) -> list[Any]:
        """The body of the first signal ``member`` that ``wanted`` accepts, also among those already received."""
        deadline = time.monotonic() + self._timeout
        while True:
            while self._signals:
                message = self._signals.pop(0)
                if message.member == member and wanted(message.body):
                    return message.body
            message = self._next(deadline)
            if message.kind == SIGNAL:
                self._signals.append(message)

    def close(self) -> None:
        self._socket.close()

    def _next(self, deadline: float) -> Message:
        while len(self._buffer) < 16 or len(self._buffer) < message_length(self._buffer[:16]):
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError(110, "no answer over D-Bus in time")
            self._socket.settimeout(left)
            self._receive()
        length = message_length(self._buffer[:16])
        data, self._buffer = self._buffer[:length], self._buffer[length:]
        return decode(data)

    def _receive(self) -> None:
        data = self._socket.recv(65536)
        if not data:
            raise ConnectionResetError(104, "the D-Bus peer closed the connection")
        self._buffer += data
