"""HTTP/1.1 over a connected socket: as much as an Engine API client needs, without http.client (which costs 40 ms).

A :class:`Connection` carries one exchange at a time. After a response's body was read to its end the connection may
carry the next one; after an upgrade it belongs to the caller as a raw byte stream.
"""

from __future__ import annotations

from barque import fastjson

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Any, Protocol

    class Socket(Protocol):
        """A connected stream socket: ``_socket.socket``, or its stand-ins for TLS."""

        def sendall(self, data: bytes, /) -> None: ...
        def send(self, data: bytes, flags: int, /) -> int: ...
        def recv(self, size: int, /) -> bytes: ...
        def shutdown(self, how: int, /) -> None: ...
        def fileno(self) -> int: ...
        def close(self) -> None: ...


READ_SIZE = 64 * 1024
MAX_HEADER = 64 * 1024
SHUT_WR = 1
_UNRESERVED = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")


class ProtocolError(OSError):
    """The peer does not speak HTTP/1.1, or hung up in the middle of a message."""


def quote(text: str, safe: bytes = b"") -> str:
    """Percent-encode, all but RFC 3986's unreserved characters and ``safe``."""
    return "".join(chr(c) if c in _UNRESERVED or c in safe else f"%{c:02X}" for c in text.encode())


def query_string(query: dict[str, Any]) -> str:
    """``?a=1&b=x`` with the keys sorted (as Go sends them); lists repeat their key, None is left out."""
    parts = []
    for key in sorted(query):
        value = query[key]
        for item in value if isinstance(value, (list, tuple)) else (value,):
            if item is not None:
                text = ("1" if item else "0") if isinstance(item, bool) else str(item)
                parts.append(f"{quote(key)}={quote(text)}")
    return "?" + "&".join(parts) if parts else ""


class Connection:
    """A socket and what was read from it beyond the message in hand."""

    def __init__(self, sock: Socket) -> None:
        self.sock = sock
        self.pending = b""
        self.closed = False

    def send(self, method: str, target: str, headers: dict[str, str], body: bytes | Iterable[bytes] | None) -> None:
        """Send a request. A body that is no bytes goes out chunk by chunk as it is produced."""
        fields = dict(headers)
        if isinstance(body, bytes):
            fields["Content-Length"] = str(len(body))
        elif body is not None:
            fields["Transfer-Encoding"] = "chunked"
        elif method in ("POST", "PUT"):
            fields["Content-Length"] = "0"
        lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        head = f"{method} {target} HTTP/1.1\r\n{lines}\r\n".encode("latin-1", "replace")
        if isinstance(body, bytes):
            self.sock.sendall(head + body)
            return
        self.sock.sendall(head)
        if body is not None:
            for chunk in body:
                if chunk:
                    self.sock.sendall(b"%x\r\n%b\r\n" % (len(chunk), chunk))
            self.sock.sendall(b"0\r\n\r\n")

    def receive(self) -> bytes:
        """What comes next, at most READ_SIZE bytes; b"" at the end of the stream."""
        if self.pending:
            data, self.pending = self.pending, b""
            return data
        return self.sock.recv(READ_SIZE)

    def read_line(self) -> bytes:
        while (end := self.pending.find(b"\r\n")) < 0:
            if len(self.pending) > MAX_HEADER:
                raise ProtocolError("header line too long")
            data = self.sock.recv(READ_SIZE)
            if not data:
                raise ProtocolError("EOF" if not self.pending else "unexpected EOF")
            self.pending += data
        line, self.pending = self.pending[:end], self.pending[end + 2 :]
        return line

    def response(self, method: str) -> Response:
        """Read the head of the response to ``method``; raises :class:`ProtocolError`."""
        while True:
            line = self.read_line().split(b" ", 2)
            if len(line) < 2 or not line[0].startswith(b"HTTP/1.") or not line[1].isdigit():
                raise ProtocolError("malformed HTTP response")
            headers: dict[str, str] = {}
            while field := self.read_line():
                name, _, value = field.partition(b":")
                headers[name.decode("latin-1").strip().lower()] = value.decode("utf-8", "replace").strip()
                if len(headers) > 200:
                    raise ProtocolError("too many header fields")
            status = int(line[1])
            if status >= 200 or status == 101:
                return Response(self, method, status, headers)

    def half_close(self) -> None:
        """No more bytes from this side; the other may go on."""
        try:
            self.sock.shutdown(SHUT_WR)
        except OSError:
            pass  # the peer is gone, which the reading side reports

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            self.sock.close()


class Response:
    """A response whose body is still on the wire: read it with exactly one of read(), chunks(), documents()."""

    def __init__(self, connection: Connection, method: str, status: int, headers: dict[str, str]) -> None:
        self.connection = connection
        self.status = status
        self.headers = headers
        self.upgraded = status == 101
        self._chunked = "chunked" in headers.get("transfer-encoding", "").lower()
        length = headers.get("content-length")
        self._left: int | None = int(length) if length is not None and length.isdigit() and not self._chunked else None
        if method == "HEAD" or status in (204, 304):
            self._left, self._chunked = 0, False
        self.reusable = (self._chunked or self._left is not None) and headers.get("connection", "").lower() != "close"

    def chunks(self) -> Iterator[bytes]:
        """The body as it arrives; raises :class:`ProtocolError` where it ends too early."""
        if self._chunked:
            yield from self._chunked_body()
            return
        while self._left is None or self._left > 0:
            data = self.connection.receive()
            if not data:
                if self._left is None:
                    return
                raise ProtocolError("unexpected EOF")
            if self._left is not None:
                if len(data) > self._left:
                    self.connection.pending = data[self._left :]
                    data = data[: self._left]
                self._left -= len(data)
            yield data

    def _chunked_body(self) -> Iterator[bytes]:
        connection = self.connection
        while True:
            size_text = connection.read_line().split(b";")[0].strip()
            try:
                size = int(size_text, 16)
            except ValueError:
                raise ProtocolError("malformed chunk") from None
            if size == 0:
                while connection.read_line():
                    pass
                return
            while size:
                data = connection.receive()
                if not data:
                    raise ProtocolError("unexpected EOF")
                if len(data) > size:
                    connection.pending = data[size:]
                    data = data[:size]
                size -= len(data)
                yield data
            connection.read_line()

    def read(self) -> bytes:
        return b"".join(self.chunks())

    def json(self) -> Any:
        body = self.read()
        return fastjson.loads(body) if body.strip() else None

    def documents(self) -> Iterator[Any]:
        """The body as a stream of JSON documents."""
        documents: Iterator[Any] = fastjson.documents(self.chunks())
        return documents

    def close(self) -> None:
        self.connection.close()
