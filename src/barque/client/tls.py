"""TLS over a connected socket, with a half-close that keeps the reading side: ssl.SSLSocket has none."""

from __future__ import annotations

import ssl

from barque.client.http import READ_SIZE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from barque.client.http import Socket


class TlsSocket:
    """Meets http.Socket. recv() leaves nothing decrypted behind, so polling the descriptor is enough."""

    def __init__(self, raw: Socket, context: ssl.SSLContext, server_name: str) -> None:
        self._raw = raw
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=server_name)
        self._backlog = b""
        self._handshake()

    def _flush(self) -> None:
        if data := self._backlog + self._outgoing.read():
            self._backlog = b""
            self._raw.sendall(data)

    def _fill(self) -> bool:
        data = self._raw.recv(READ_SIZE)
        if data:
            self._incoming.write(data)
        else:
            self._incoming.write_eof()
        return bool(data)

    def _handshake(self) -> None:
        while True:
            try:
                self._tls.do_handshake()
                self._flush()
                return
            except ssl.SSLWantReadError:
                self._flush()
                self._fill()

    def sendall(self, data: bytes, /) -> None:
        self._tls.write(data)
        self._flush()

    def send(self, data: bytes, flags: int, /) -> int:
        """As socket.send with MSG_DONTWAIT: BlockingIOError while an earlier record is not out."""
        while self._backlog:
            self._backlog = self._backlog[self._raw.send(self._backlog, flags) :]
        sent = self._tls.write(data)
        self._backlog = self._outgoing.read()
        try:
            while self._backlog:
                self._backlog = self._backlog[self._raw.send(self._backlog, flags) :]
        except BlockingIOError:
            pass  # the next call sends the rest of the record
        return sent

    def recv(self, size: int, /) -> bytes:
        while True:
            parts = []
            try:
                while part := self._tls.read(size):
                    parts.append(part)
                return b"".join(parts)
            except ssl.SSLWantReadError:
                if parts:
                    return b"".join(parts)
                self._flush()
                self._fill()
            except (ssl.SSLEOFError, ssl.SSLZeroReturnError):
                return b"".join(parts)

    def shutdown(self, how: int, /) -> None:
        """Send close_notify, whatever ``how``: nothing is undecrypted here, so unwrap() only wants to read."""
        try:
            self._tls.unwrap()
        except ssl.SSLError:
            pass
        self._flush()

    def fileno(self) -> int:
        return self._raw.fileno()

    def close(self) -> None:
        self._raw.close()
