"""Descriptors: passing them over unix sockets, and moving them to fixed numbers for an exec."""

from __future__ import annotations

import fcntl
import os
import socket
from collections.abc import Sequence

_MAX_PASSED = 16


def send(sock: socket.socket, data: bytes, fds: Sequence[int] = ()) -> None:
    """Send one message with ``fds`` attached (SCM_RIGHTS); the sender keeps its own copies."""
    if fds:
        socket.send_fds(sock, [data], list(fds))
    else:
        sock.send(data)


def receive(sock: socket.socket, size: int) -> tuple[bytes, list[int]]:
    """One message and the descriptors (O_CLOEXEC, now the caller's) that came with it; ``b""`` at the end."""
    data, fds, _, _ = socket.recv_fds(sock, size, _MAX_PASSED, socket.MSG_CMSG_CLOEXEC)
    return data, fds


def place(sources: Sequence[int], first: int = 0) -> None:
    """Put copies of ``sources`` at ``first``, ``first + 1`` ... that survive an exec; sources are left open.

    Whatever was open there is closed, except that a source within the range is saved first.
    """
    end = first + len(sources)
    moved = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, end) if first <= fd < end and fd != first + index else fd
             for index, fd in enumerate(sources)]
    for index, fd in enumerate(moved):
        if fd == first + index:
            os.set_inheritable(fd, True)
        else:
            os.dup2(fd, first + index, inheritable=True)
