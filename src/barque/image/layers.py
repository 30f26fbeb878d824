"""One layer on its way: download with resume, and the unpacking that follows behind it."""

from __future__ import annotations

import asyncio
import logging
import os
from concurrent.futures import ThreadPoolExecutor

import aiohttp

from barque.image.client.errors import BrokenTransfer, RegistryUnreachable
from barque.image.client.repository import Repository
from barque.image.progress import Bar
from barque.oci import media_types as mt
from barque.oci.descriptor import Descriptor
from barque.store.ingest import Ingest
from barque.store.snapshots import LayerSlot
from barque.store.tar.messages import UnpackRequest, UnpackResult
from barque.store.threads import uncut
from barque.store.workers import Workers, unpack_layer

log = logging.getLogger("barque.image.layers")
#: Bytes given to the store at a time.
_BATCH = 1 << 20
#: Bytes moved from file to pipe by one call.
_PUSH = 4 << 20


class UnpackSlots:
    """How many layers unpack at once: twice as many as there are processors.

    With one each the last layer of an image would often run alone; so its longest layers all run from the beginning.
    """

    def __init__(self) -> None:
        self.count = 2 * (os.cpu_count() or 1)
        self.free = asyncio.Semaphore(self.count)
        # Their own threads: one that feeds a worker sleeps in write(2) while the worker is busy.
        self.threads = ThreadPoolExecutor(self.count, thread_name_prefix="unpack")


class Growth:
    """Of a file that is still being filled: ``available`` bytes can be read."""

    def __init__(self, available: int = 0) -> None:
        self.available = available
        self.finished = False
        self._changed = asyncio.Event()

    def advance(self, available: int) -> None:
        self.available = available
        self._changed.set()

    def finish(self) -> None:
        """No more will come."""
        self.finished = True
        self._changed.set()

    async def wait_beyond(self, position: int) -> int:
        """Wait until more than ``position`` bytes are there or no more will come; how many there are."""
        while self.available <= position and not self.finished:
            self._changed.clear()
            await self._changed.wait()
        return self.available


class Download:
    """The bytes of one blob as they arrive in the ingest's file."""

    def __init__(self, ingest: Ingest, layer: Descriptor, bar: Bar, attempts: int, pause: float) -> None:
        self.growth = Growth(ingest.offset)
        self._ingest = ingest
        self._layer = layer
        self._bar = bar
        self._attempts = attempts
        self._pause = pause

    async def run(self, repository: Repository) -> None:
        """Receive the rest, going on where a broken connection left off. Raises the failure of the last attempt."""
        failures = 0
        while self._ingest.offset < self._layer.size:
            before = self._ingest.offset
            try:
                await self._receive(repository)
            except (BrokenTransfer, RegistryUnreachable) as error:
                # A connection that brought something was worth it: only fruitless attempts count.
                failures = 1 if self._ingest.offset > before else failures + 1
                if failures >= self._attempts:
                    raise
                log.info("layer %s: %s at %d bytes, trying again", self._layer.digest, error, self._ingest.offset)
                await self._wait(failures)
        self.growth.finish()

    async def _wait(self, failures: int) -> None:
        seconds = self._pause * float(2 ** (failures - 1))
        if seconds >= 1:
            self._bar.step(f"Retrying in {int(seconds)} second{'s' if int(seconds) != 1 else ''}")
        await asyncio.sleep(seconds)

    async def _receive(self, repository: Repository) -> None:
        digest = self._layer.checked_digest
        async with repository.blob(digest, self._ingest.offset) as (begin, stream):
            # A server without ranges sends all from the start: skip what is there already.
            skip = self._ingest.offset - begin
            writing: asyncio.Task[None] | None = None
            batch: list[bytes] = []
            size = 0
            try:
                while data := await stream.readany():
                    if skip:
                        dropped = min(skip, len(data))
                        data, skip = data[dropped:], skip - dropped
                    batch.append(data)
                    size += len(data)
                    if size >= _BATCH:
                        if writing is not None:
                            await writing
                        writing = asyncio.create_task(self._write(b"".join(batch)))
                        batch, size = [], 0
            except (aiohttp.ClientError, OSError, TimeoutError) as error:
                raise BrokenTransfer from error
            finally:
                if writing is not None:
                    await writing
                if batch:
                    await self._write(b"".join(batch))
        if self._ingest.offset < self._layer.size:
            raise BrokenTransfer

    async def _write(self, data: bytes) -> None:
        await self._ingest.write(data)
        self.growth.advance(self._ingest.offset)
        self._bar.move("Downloading", self._ingest.offset, self._layer.size)


async def unpack(workers: Workers, slots: UnpackSlots, source: int, layer: Descriptor, slot: LayerSlot, bar: Bar,
                 growth: Growth | None = None) -> UnpackResult:
    """Unpack the blob file ``source`` (the caller's descriptor: the file is renamed when its download is complete).

    With ``growth`` the file is still being filled.
    """
    request = UnpackRequest(compression=mt.LAYER_COMPRESSION[layer.media_type], expected_diff_id=slot.diff_id)
    async with slots.free:
        if growth is not None:
            return await unpack_behind(workers, slots, source, layer.size, slot.fs, request, growth, bar)
        bar.step("Extracting")
        return await unpack_layer(workers, source, slot.fs, request)


async def unpack_behind(workers: Workers, slots: UnpackSlots, source: int, size: int, directory: str,
                        request: UnpackRequest, growth: Growth, bar: Bar) -> UnpackResult:
    """Unpack a file that will have ``size`` bytes while it is being filled."""
    reading, writing = os.pipe2(os.O_CLOEXEC)
    feeding = asyncio.create_task(_feed(slots, source, writing, size, bar, growth))
    try:
        return await unpack_layer(workers, reading, directory, request)
    finally:
        os.close(reading)  # wakes a feeder that sleeps in write(2): EPIPE
        feeding.cancel()
        await asyncio.gather(feeding, return_exceptions=True)


async def _feed(slots: UnpackSlots, source: int, pipe: int, size: int, bar: Bar, growth: Growth) -> None:
    """Move the file into the pipe as it grows; close the pipe at the end, or when the worker is gone."""
    loop = asyncio.get_running_loop()
    position = 0
    try:
        while position < size:
            available = await growth.wait_beyond(position)
            if available <= position:
                return  # the download failed: whoever started it says so
            # To its end, however often this is cancelled: the thread uses both descriptors.
            position += await uncut(loop.run_in_executor(slots.threads, os.sendfile, pipe, source, position,
                                                         min(_PUSH, available - position)))
            if growth.finished:
                bar.move("Extracting", position, size)
    except BrokenPipeError:
        return
    finally:
        os.close(pipe)
