"""What all images that are made here have in common: their blobs, their unpacked layers, their name."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, contextmanager
from datetime import UTC, datetime

import msgspec

from barque.image.layers import UnpackSlots, unpack
from barque.image.names import ImageNames, with_id
from barque.image.progress import Bar, short
from barque.oci import media_types as mt
from barque.oci.descriptor import Descriptor
from barque.oci.image import ImageConfig
from barque.oci.manifest import Manifest
from barque.oci.platform import Platform
from barque.oci.reference import Reference
from barque.store.content import ContentStore
from barque.store.leases import Lease, Leases
from barque.store.snapshots import LayerSlot
from barque.store.tar.messages import UnpackResult
from barque.store.workers import Workers


def now() -> str:
    """The time in RFC 3339, as configurations have it."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


class MadeImages:
    def __init__(self, content: ContentStore, leases: Leases, names: ImageNames, workers: Workers,
                 slots: UnpackSlots) -> None:
        self._content = content
        self._leases = leases
        self._names = names
        self._workers = workers
        self._slots = slots

    def lease(self, why: str) -> AbstractAsyncContextManager[Lease]:
        return self._leases.hold(why)

    @contextmanager
    def scratch(self) -> Iterator[tuple[int, str]]:
        """An empty file, as descriptor and path; gone after the block unless it was adopted."""
        fd, path = self._content.scratch()
        try:
            yield fd, path
        finally:
            os.close(fd)
            try:
                os.unlink(path)
            except FileNotFoundError:
                pass

    async def adopt(self, lease: Lease, layer: Descriptor, path: str) -> None:
        await self._content.adopt(lease, layer, path)

    def hold(self, lease: Lease) -> Callable[[Descriptor], Awaitable[None]]:
        """Keeps the blob of a layer that is unpacked already, if it is still there."""
        async def keep(layer: Descriptor) -> None:
            if await self._content.info(layer.digest) is not None:
                async with await self._content.ingest(lease, layer) as ingest:
                    if ingest.exists:
                        await ingest.commit()
        return keep

    async def unpack(self, layer: Descriptor, slot: LayerSlot) -> UnpackResult:
        """Unpack a stored layer; see ``layer_set.Bring``."""
        with self._content.open(layer.digest) as file:
            return await unpack(self._workers, self._slots, file.fileno(), layer, slot,
                                Bar(lambda _: None, short(layer.digest)))

    async def record(self, lease: Lease, config: ImageConfig, layers: Sequence[Descriptor],
                     ref: Reference | None) -> str:
        """Store configuration and manifest, give the image its name (none: it is dangling), and return its id."""
        stored = await self._content.put(lease, mt.OCI_CONFIG, msgspec.json.encode(config))
        described = Descriptor(media_type=stored.media_type, digest=str(stored.digest), size=stored.size)
        manifest = Manifest(schema_version=2, media_type=mt.OCI_MANIFEST, config=described, layers=tuple(layers))
        stored = await self._content.put(lease, mt.OCI_MANIFEST, msgspec.json.encode(manifest))
        target = with_id(Descriptor(
            media_type=stored.media_type, digest=stored.digest, size=stored.size,
            platform=Platform(os=config.os, architecture=config.architecture, variant=config.variant)),
            described.digest)
        if ref is not None:
            await self._names.put(str(ref), target)
        else:
            await self._names.keep_dangling(target)
        return described.digest
