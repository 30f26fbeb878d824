"""Sockets for what has to start fast: the module ``socket`` first makes enumerations of its constants, in 3 ms."""

from __future__ import annotations

import _socket
import struct
from _socket import AF_INET, AF_UNIX, SOCK_DGRAM, SOCK_SEQPACKET, SOCK_STREAM, sethostname
from collections.abc import Sequence

__all__ = ["AF_INET", "AF_UNIX", "SOCK_DGRAM", "SOCK_SEQPACKET", "SOCK_STREAM", "Socket", "pair", "receive", "send",
           "sethostname"]

_MAX_PASSED = 16
_FD = struct.Struct("i")


class Socket(_socket.socket):
    """With what ``socket.socket`` adds to its base; like all descriptors of Python's it is closed by exec."""

    def __enter__(self) -> Socket:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def accept(self) -> Socket:
        return Socket(fileno=self._accept()[0])  # type: ignore[attr-defined]


def pair(kind: int = SOCK_STREAM) -> tuple[Socket, Socket]:
    """Two connected sockets of the unix family."""
    one, other = _socket.socketpair(AF_UNIX, kind)
    return Socket(fileno=one.detach()), Socket(fileno=other.detach())


def send(sock: _socket.socket, data: bytes, fds: Sequence[int] = ()) -> None:
    """Send one message with ``fds`` attached (SCM_RIGHTS); the sender keeps its own copies."""
    if fds:
        sock.sendmsg([data], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, b"".join(map(_FD.pack, fds)))])
    else:
        sock.send(data)


def receive(sock: _socket.socket, size: int) -> tuple[bytes, list[int]]:
    """One message and the descriptors (O_CLOEXEC, now the caller's) that came with it; ``b""`` at the end."""
    data, attached, _, _ = sock.recvmsg(size, _socket.CMSG_LEN(_MAX_PASSED * _FD.size), _socket.MSG_CMSG_CLOEXEC)
    return data, [fd for level, kind, body in attached if (level, kind) == (_socket.SOL_SOCKET, _socket.SCM_RIGHTS)
                  for (fd,) in _FD.iter_unpack(body)]
