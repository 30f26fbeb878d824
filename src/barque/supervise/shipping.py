"""The daemon's side of the shippers, for asyncio."""

from __future__ import annotations

import asyncio
import logging
import socket

import msgspec

from barque.errors import Internal
from barque.supervise.rundir import RunDir, by_short_name
from barque.supervise.shippers.orders import ShipOrder
from barque.supervise.zygote_client import ZygoteClient

log = logging.getLogger("barque.supervise")
_encode = msgspec.msgpack.Encoder().encode


class LogTargetRefused(Internal):
    """The log target cannot be had; the message says why, in dockerd's words."""


class Shipper:
    """A process that lives: what it complains about goes into the daemon's log, its end is noticed."""

    def __init__(self, container_id: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writer = writer
        self.listening = asyncio.create_task(_relay(reader, writer, container_id), name="shipper")

    async def wait_end(self) -> None:
        await asyncio.wait({self.listening})

    def let_go(self) -> None:
        """Hear no more of it; one to which no monitor has come ends."""
        self._writer.close()


class Shippers:
    """Starts shippers, and finds those that an earlier daemon started."""

    def __init__(self, zygote: ZygoteClient) -> None:
        self._zygote = zygote
        self._listening: set[asyncio.Task[None]] = set()

    async def start(self, run_dir: RunDir, order: ShipOrder) -> Shipper:
        """Returns once the target is connected and the shipper waits for the monitor."""
        run_dir.make()
        with run_dir.listen_for_log() as listening:
            _, channel = await self._zygote.fork("shipper", listening)
        reader, writer = await asyncio.open_connection(sock=channel)
        try:
            request = _encode(order)
            writer.write(len(request).to_bytes(4, "big") + request)
            answer = await reader.readline()
            if answer != b"\n":
                raise LogTargetRefused(answer.decode(errors="replace").strip() or "the shipper has died")
        except BaseException:
            writer.close()
            raise
        return self._heard(Shipper(run_dir.container_id, reader, writer))

    async def find(self, run_dir: RunDir) -> Shipper | None:
        """None if it does not live."""
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        try:
            by_short_name(run_dir.shipper_socket, sock.connect)
        except OSError:
            sock.close()
            return None
        return self._heard(Shipper(run_dir.container_id, *await asyncio.open_connection(sock=sock)))

    def _heard(self, shipper: Shipper) -> Shipper:
        self._listening.add(shipper.listening)
        shipper.listening.add_done_callback(self._listening.discard)
        return shipper

    async def close(self) -> None:
        """Hear no more complaints; shippers go on."""
        for task in self._listening:
            task.cancel()
        if self._listening:
            await asyncio.wait(self._listening)


async def _relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, container_id: str) -> None:
    try:
        while line := await reader.readline():
            log.warning("log of container %s: %s", container_id[:12], line.decode(errors="replace").strip())
    except (ConnectionError, ValueError):
        pass    # it died, or has said something longer than a line
    finally:
        writer.close()
