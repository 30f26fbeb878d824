"""The daemon's side of the zygote, for asyncio."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Callable, Sequence

import msgspec

from barque.errors import Unavailable
from barque.runtime.failure import RuntimeFailure
from barque.supervise import messages as m
from barque.supervise.backend import as_error
from barque.supervise.forkserver import ZygoteHandle
from barque.supervise.wire import ZYGOTE_ANSWERS, ProtocolError, receive_packet, send_packet

log = logging.getLogger("barque.supervise")

#: How often one request may see the zygote, or what it forked, die.
ATTEMPTS = 3


class ZygoteDied(Unavailable):
    text = "the process that starts containers has died"


class ForkDied(Unavailable):
    text = "a process has died before it could begin its work"


class ZygoteClient:
    """Asks for forks. A zygote that has died is replaced when the next fork is asked for."""

    def __init__(self, handle: ZygoteHandle, spawn: Callable[[], ZygoteHandle]) -> None:
        self._spawn = spawn
        self._handle: ZygoteHandle | None = None
        self._serial = 0
        self._pending: dict[int, asyncio.Future[m.ZygoteAnswer]] = {}
        self._use(handle)

    @property
    def pid(self) -> int | None:
        return self._handle.pid if self._handle is not None else None

    async def fork(self, kind: str, fds: Sequence[int] = ()) -> tuple[int, socket.socket]:
        """Fork a ``kind`` with ``fds``; returns its pid and our end of its channel (non-blocking, the caller's).

        Raises RuntimeFailure where the zygote refuses, :class:`ZygoteDied` or :class:`ForkDied` where it, or what it
        forks, dies time and again.
        """
        for attempt in range(ATTEMPTS):
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
            ours.setblocking(False)
            try:
                if self._handle is None:
                    self._use(self._spawn())
                with theirs:
                    forked = self._send(m.Fork(kind), [theirs.fileno(), *fds])
                answer = await self._while_open(ours, forked)
                assert isinstance(answer, m.Forked)
                return answer.pid, ours
            except BaseException as error:
                # Whatever was forked all the same finds its channel closed, and ends.
                ours.close()
                if not isinstance(error, ZygoteDied | ForkDied) or attempt == ATTEMPTS - 1:
                    raise
            finally:
                theirs.close()
        raise AssertionError("unreachable")

    async def _while_open(self, channel: socket.socket, forked: asyncio.Future[m.ZygoteAnswer]) -> m.ZygoteAnswer:
        """The answer, or ForkDied once nobody is left at the other end of ``channel``, on which nothing is said yet."""
        def hung_up() -> None:
            while self._receive():    # whoever gives an answer does so before it hangs up
                pass
            if not forked.done():
                forked.set_exception(ForkDied())

        loop = asyncio.get_running_loop()
        loop.add_reader(channel.fileno(), hung_up)
        try:
            return _checked(await forked)
        finally:
            loop.remove_reader(channel.fileno())

    async def kill(self, pid: int) -> None:
        """SIGKILL a fork; one that has ended already, or whose zygote has, is no error."""
        try:
            _checked(await self._send(m.Kill(pid)))
        except (Unavailable, RuntimeFailure) as error:
            log.debug("kill of fork %d: %s", pid, error)

    def close(self) -> None:
        self._lose()

    def _send(self, request: msgspec.Struct, fds: Sequence[int] = ()) -> asyncio.Future[m.ZygoteAnswer]:
        """Ask; the future gets the answer."""
        if self._handle is None:
            raise ZygoteDied
        self._serial += 1
        serial = self._serial
        try:
            send_packet(self._handle.control, serial, request, fds)
        except BlockingIOError:
            # It reads at once, and its buffer holds hundreds of packets: it hangs.
            raise Unavailable("the process that starts containers does not answer") from None
        except ConnectionError:
            self._lose()
            raise ZygoteDied from None
        future: asyncio.Future[m.ZygoteAnswer] = asyncio.get_running_loop().create_future()
        self._pending[serial] = future
        future.add_done_callback(lambda _: self._pending.pop(serial, None))
        return future

    def _use(self, handle: ZygoteHandle) -> None:
        self._handle = handle
        handle.control.setblocking(False)
        asyncio.get_running_loop().add_reader(handle.control.fileno(), self._receive)

    def _receive(self) -> bool:
        """Take in one answer; False if there is none."""
        if self._handle is None:
            return False
        try:
            packet = receive_packet(self._handle.control, ZYGOTE_ANSWERS)
        except BlockingIOError:
            return False
        except (ProtocolError, OSError) as error:
            log.error("zygote: %s", error)
            packet = None
        if packet is None:
            log.error("the zygote (pid %d) has died", self._handle.pid)
            self._lose()
            return False
        serial, answer, fds = packet
        for fd in fds:
            os.close(fd)
        future = self._pending.get(serial)
        if future is not None and not future.done():
            future.set_result(answer)
        return True

    def _lose(self) -> None:
        """Let go of the zygote, and fail what was asked of it."""
        if self._handle is None:
            return
        asyncio.get_running_loop().remove_reader(self._handle.control.fileno())
        self._handle.close()
        self._handle = None
        pending, self._pending = self._pending, {}
        for future in pending.values():
            if not future.done():
                future.set_exception(ZygoteDied())


def _checked(answer: m.ZygoteAnswer) -> m.ZygoteAnswer:
    if isinstance(answer, m.Failed):
        raise as_error(answer.failure)
    return answer
