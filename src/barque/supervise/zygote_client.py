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

#: How many zygotes one request may see die.
ATTEMPTS = 3


class ZygoteDied(Unavailable):
    text = "the process that starts containers has died"


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

        Raises RuntimeFailure where the zygote refuses, :class:`ZygoteDied` where it dies time and again.
        """
        for attempt in range(ATTEMPTS):
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
            ours.setblocking(False)
            try:
                if self._handle is None:
                    self._use(self._spawn())
                answer = await self._call(m.Fork(kind), [theirs.fileno(), *fds])
                assert isinstance(answer, m.Forked)
                return answer.pid, ours
            except BaseException as error:
                # Whatever was forked all the same finds its channel closed, and ends.
                ours.close()
                if not isinstance(error, ZygoteDied) or attempt == ATTEMPTS - 1:
                    raise
            finally:
                theirs.close()
        raise AssertionError("unreachable")

    async def kill(self, pid: int) -> None:
        """SIGKILL a fork; one that has ended already, or whose zygote has, is no error."""
        try:
            await self._call(m.Kill(pid))
        except (Unavailable, RuntimeFailure) as error:
            log.debug("kill of fork %d: %s", pid, error)

    def close(self) -> None:
        self._lose()

    async def _call(self, request: msgspec.Struct, fds: Sequence[int] = ()) -> m.ZygoteAnswer:
        if self._handle is None:
            raise ZygoteDied
        self._serial += 1
        serial = self._serial
        future: asyncio.Future[m.ZygoteAnswer] = asyncio.get_running_loop().create_future()
        self._pending[serial] = future
        try:
            send_packet(self._handle.control, serial, request, fds)
            answer = await future
        except BlockingIOError:
            # It reads at once, and its buffer holds hundreds of packets: it hangs.
            raise Unavailable("the process that starts containers does not answer") from None
        except ConnectionError:
            self._lose()
            raise ZygoteDied from None
        finally:
            self._pending.pop(serial, None)
        if isinstance(answer, m.Failed):
            raise as_error(answer.failure)
        return answer

    def _use(self, handle: ZygoteHandle) -> None:
        self._handle = handle
        handle.control.setblocking(False)
        asyncio.get_running_loop().add_reader(handle.control.fileno(), self._readable)

    def _readable(self) -> None:
        assert self._handle is not None
        try:
            packet = receive_packet(self._handle.control, ZYGOTE_ANSWERS)
        except BlockingIOError:
            return
        except (ProtocolError, OSError) as error:
            log.error("zygote: %s", error)
            packet = None
        if packet is None:
            log.error("the zygote (pid %d) has died", self._handle.pid)
            self._lose()
            return
        serial, answer, fds = packet
        for fd in fds:
            os.close(fd)
        future = self._pending.get(serial)
        if future is not None and not future.done():
            future.set_result(answer)

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
