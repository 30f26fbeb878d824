"""The daemon's side of the shippers, for asyncio."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

import msgspec

from barque.errors import Internal
from barque.supervise.rundir import RunDir
from barque.supervise.shippers.orders import ShipOrder
from barque.supervise.zygote_client import ZygoteClient

log = logging.getLogger("barque.supervise")
_encode = msgspec.msgpack.Encoder().encode


class LogTargetRefused(Internal):
    """The log target cannot be had; the message says why, in dockerd's words."""


class Shippers:
    """Starts shippers and puts what they complain about into the daemon's log."""

    def __init__(self, zygote: ZygoteClient) -> None:
        self._zygote = zygote
        self._listening: set[asyncio.Task[None]] = set()

    async def start(self, run_dir: RunDir, order: ShipOrder) -> Callable[[], None]:
        """Returns once the target is connected, with what ends a shipper that nothing was sent to yet."""
        run_dir.make()
        with run_dir.listen_for_log() as listening:
            _, channel = await self._zygote.fork("shipper", [listening.fileno()])
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
        task = asyncio.create_task(_relay(reader, writer, run_dir), name="shipper")
        self._listening.add(task)
        task.add_done_callback(self._listening.discard)
        return writer.close

    async def close(self) -> None:
        """Hear no more complaints; shippers go on."""
        for task in self._listening:
            task.cancel()
        if self._listening:
            await asyncio.wait(self._listening)


async def _relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, run_dir: RunDir) -> None:
    try:
        while line := await reader.readline():
            log.warning("log of container %s: %s", run_dir.container_id[:12], line.decode(errors="replace").strip())
    except (ConnectionError, ValueError):
        pass    # it died, or has said something longer than a line
    finally:
        writer.close()
