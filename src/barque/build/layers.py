"""From the writable layer of a step to a stored one: archive, digests and compression in one pass, then the rows."""

from __future__ import annotations

import hashlib
import os
import queue
import threading
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from isal import isal_zlib

from barque.build.stubs import remove_stubs
from barque.oci import media_types
from barque.oci.descriptor import Descriptor
from barque.store.content import ContentStore
from barque.store.leases import Lease
from barque.store.snapshots import LayerSlot, Snapshots
from barque.store.tar.diff import write_diff
from barque.store.tar.messages import UnpackRequest
from barque.store.threads import to_the_end
from barque.store.tree import disk_usage, walk
from barque.store.workers import Workers, unpack_layer

#: The archive without entries: 1024 zero bytes. docker counts such a step as one without a layer.
EMPTY_DIFF_ID = "sha256:5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef"
#: gzip header: deflate, no name, no time, unknown system: the same input gives the same bytes.
_GZIP_WINDOW = 31
_LEVEL = 1
_BLOCK = 1 << 20
_QUEUE = 8
#: Writes an archive, piece by piece, in a thread; the bytes of file contents, and of link targets, in it.
Produce = Callable[[Callable[[bytes], object]], int]


@dataclass(frozen=True)
class Layer:
    """A layer that is stored. ``size``: bytes of file contents, and of link targets, as docker counts them."""

    descriptor: Descriptor
    diff_id: str
    chain_id: str
    size: int


@dataclass(frozen=True)
class Packed:
    diff_id: str
    digest: str
    length: int
    size: int


class LayerStore:
    def __init__(self, content: ContentStore, snapshots: Snapshots) -> None:
        self._content = content
        self.snapshots = snapshots

    async def seal(self, lease: Lease, container_id: str, parent: str | None, epoch: int = -1,
                   mount_points: Sequence[str] = ()) -> Layer | None:
        """Make the writable layer ``container_id`` over the chain ``parent`` a layer; None where nothing changed.

        Nothing is left of the writable layer. ``epoch`` caps the times of its files, in seconds, where not negative.
        ``mount_points`` are no part of the layer where they were made only for their mounts.
        """
        upper = await self.snapshots.container_upper(container_id)
        if mount_points:
            await to_the_end(remove_stubs, upper, await self.snapshots.image_lower(parent), mount_points)
        layer = await self._stored(lease, upper, parent, epoch)
        if layer is None:
            await self.snapshots.remove_container(container_id)
        else:
            await self.snapshots.promote(lease, container_id, layer.chain_id, layer.diff_id, layer.size)
        return layer

    async def bring(self, lease: Lease, workers: Workers, parent: str | None, descriptor: Descriptor, diff_id: str,
                    fetch: Callable[[Lease, Descriptor], Awaitable[None]] | None = None) -> Layer | None:
        """The layer over the chain ``parent``, unpacked if it is not yet; None where its blob is nowhere to be had."""
        if await self._content.info(descriptor.digest) is None:
            if fetch is None:
                return None
            await fetch(lease, descriptor)
        chain_id = chain(parent, diff_id)
        slot = await self.snapshots.prepare_layer(lease, chain_id, parent, diff_id)
        if slot is not None:
            async with slot:
                await self._unpack(workers, slot, descriptor)
        info = await self.snapshots.layer(chain_id)
        return Layer(descriptor, diff_id, chain_id, info.size if info else 0)

    async def _unpack(self, workers: Workers, slot: LayerSlot, descriptor: Descriptor) -> None:
        with self._content.open(descriptor.digest) as archive:
            request = UnpackRequest(compression=media_types.LAYER_COMPRESSION[descriptor.media_type],
                                    expected_diff_id=slot.diff_id)
            await slot.commit(await unpack_layer(workers, archive.fileno(), slot.fs, request))

    async def copy(self, lease: Lease, workers: Workers, container_id: str, parent: str | None) -> Layer | None:
        """As :meth:`seal`, but the writable layer stays, and the stored one is unpacked from its archive."""
        layer = await self._stored(lease, await self.snapshots.container_upper(container_id), parent, -1)
        if layer is None:
            return None
        slot = await self.snapshots.prepare_layer(lease, layer.chain_id, parent, layer.diff_id)
        if slot is not None:
            async with slot:
                await self._unpack(workers, slot, layer.descriptor)
        return layer

    async def write(self, lease: Lease, workers: Workers, parent: str | None, produce: Produce) -> Layer | None:
        """A layer over the chain ``parent`` from an archive that ``produce`` writes; None for an empty one."""
        layer = await self._packed(lease, parent, produce)
        return None if layer is None else await self.bring(lease, workers, parent, layer.descriptor, layer.diff_id)

    async def _stored(self, lease: Lease, upper: str, parent: str | None, epoch: int) -> Layer | None:
        """The archive of ``upper`` as a blob; None where it would be empty."""
        return await self._packed(lease, parent, lambda write: _produce(upper, epoch, write))

    async def _packed(self, lease: Lease, parent: str | None, produce: Produce) -> Layer | None:
        fd, path = self._content.scratch()
        try:
            packed = await to_the_end(_pack, produce, fd)
            if packed.diff_id == EMPTY_DIFF_ID:
                await to_the_end(_drop, path)
                return None
            descriptor = Descriptor(media_type=media_types.OCI_LAYER_GZIP, digest=packed.digest, size=packed.length)
            await self._content.adopt(lease, descriptor, path)
        except BaseException:
            await to_the_end(_drop, path)
            raise
        return Layer(descriptor, packed.diff_id, chain(parent, packed.diff_id), packed.size)


def chain(parent: str | None, diff_id: str) -> str:
    """The chain id of a layer over ``parent``."""
    return diff_id if parent is None else "sha256:" + hashlib.sha256(f"{parent} {diff_id}".encode()).hexdigest()


def _drop(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass


def _pack(produce: Produce, out: int) -> Packed:
    """Write the compressed archive to ``out``, which is closed."""
    sink = _Sink(out)
    try:
        return sink.finish(produce(sink.write))
    finally:
        sink.close()
        os.close(out)


def _produce(upper: str, epoch: int, write: Callable[[bytes], object]) -> int:
    directory = os.open(upper, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if epoch >= 0:
            cap_times(directory, epoch)
        write_diff(directory, write)
        return disk_usage(directory)
    finally:
        os.close(directory)


def cap_times(directory: int, epoch: int) -> None:
    """Set every modification time later than ``epoch`` (seconds) to it, the directories' after what is in them."""
    limit = epoch * 1_000_000_000
    late: list[tuple[bytes, ...]] = []
    for fd, path, _, others in walk(directory):
        for name in others:
            if os.lstat(name, dir_fd=fd).st_mtime_ns > limit:
                os.utime(name, ns=(limit, limit), dir_fd=fd, follow_symlinks=False)
        if os.fstat(fd).st_mtime_ns > limit:
            late.append(path)
    for path in reversed(late):
        os.utime(b"/".join(path) or b".", ns=(limit, limit), dir_fd=directory, follow_symlinks=False)


class _Sink:
    """Hashes the archive in the caller's thread; compresses, hashes and writes the rest in another one."""

    def __init__(self, out: int) -> None:
        self._out = out
        self._plain = hashlib.sha256()
        self._packed = hashlib.sha256()
        self._length = 0
        self._pending: list[bytes] = []
        self._waiting = 0
        self._blocks: queue.Queue[bytes | None] = queue.Queue(_QUEUE)
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._compress, daemon=True)
        self._thread.start()

    def write(self, data: bytes) -> None:
        self._pending.append(bytes(data))
        self._waiting += len(data)
        if self._waiting >= _BLOCK:
            self._send()

    def _send(self) -> None:
        block = b"".join(self._pending)
        self._pending, self._waiting = [], 0
        self._plain.update(block)
        self._blocks.put(block)
        if self._error is not None:
            raise self._error

    def finish(self, size: int) -> Packed:
        self._send()
        self.close()
        if self._error is not None:
            raise self._error
        return Packed("sha256:" + self._plain.hexdigest(), "sha256:" + self._packed.hexdigest(), self._length, size)

    def close(self) -> None:
        if self._thread.is_alive():
            self._blocks.put(None)
            self._thread.join()

    def _compress(self) -> None:
        """Until the end of the archive, come what may: else the caller would wait for ever, for room or for the end."""
        compressor = isal_zlib.compressobj(_LEVEL, isal_zlib.DEFLATED, _GZIP_WINDOW)
        ended = False
        while not ended:
            block = self._blocks.get()
            ended = block is None
            if self._error is not None:
                continue
            try:
                self._emit(compressor.flush() if block is None else compressor.compress(block))
            except Exception as error:  # the boundary of the thread: raised again in the caller's
                self._error = error

    def _emit(self, data: bytes) -> None:
        self._packed.update(data)
        self._length += len(data)
        view = memoryview(data)
        while view:
            view = view[os.write(self._out, view):]
