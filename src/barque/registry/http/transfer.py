"""Bytes between sockets and memory or files, for threads: these calls hold no lock of the interpreter, so that several
transfers use several processors.

A thread stays with a client while that keeps up, and for some megabytes at most: then it is somebody else's turn.
"""

from __future__ import annotations

import asyncio
import os
import select
import socket
from concurrent.futures import ThreadPoolExecutor

from barque.registry.http.messages import FilePart
from barque.registry.threads import in_thread

#: Bytes that one turn of a thread sends at most.
_TURN = 8 << 20
#: Whether a client keeps up: how long it may do nothing, in milliseconds.
_MOMENT = 2


def _ready(fd: int, event: int) -> bool:
    poll = select.poll()
    poll.register(fd, event)
    return bool(poll.poll(_MOMENT))


def receive(fd: int, view: memoryview) -> int:
    """The number of bytes that came from the socket within a moment. 0: none did, or none will, which who asks next
    finds out."""
    try:
        return os.readv(fd, [view])
    except BlockingIOError:
        return receive(fd, view) if _ready(fd, select.POLLIN) else 0
    except ConnectionError:
        return 0


def _send(fd: int, file: int, begin: int, end: int) -> int:
    """The position behind what the client took in this turn. Raises OSError."""
    while begin < end:
        try:
            count = os.sendfile(fd, file, begin, end - begin)
        except BlockingIOError:
            if not _ready(fd, select.POLLOUT):
                break
            continue
        if not count:
            raise ConnectionResetError("the file has become shorter")
        begin += count
    return begin


async def send_file(threads: ThreadPoolExecutor, sock: socket.socket, part: FilePart) -> None:
    """``sock`` does not block, and nobody else writes to it. Raises OSError."""
    begin = part.begin
    while begin < part.end:
        end = min(begin + _TURN, part.end)
        begin = await in_thread(threads, _send, sock.fileno(), part.file.fileno(), begin, end)
        if begin < end:
            await _writable(sock)


async def _writable(sock: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()
    loop.add_writer(sock, ready.set_result, None)
    try:
        await ready
    finally:
        loop.remove_writer(sock)
