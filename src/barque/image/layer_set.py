"""The layers of one image on their way to being unpacked: side by side, and committed in one step."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any

from barque.errors import DataLoss, InvalidArgument
from barque.image.tasks import results, stop
from barque.oci import media_types as mt
from barque.oci.descriptor import Descriptor
from barque.oci.digest import Digest
from barque.oci.image import ImageConfig, chain_ids
from barque.oci.manifest import Manifest
from barque.store.leases import Lease
from barque.store.snapshots import LayerSlot, Snapshots
from barque.store.tar.messages import UnpackResult

#: Unpacks a layer into its slot, by which time the content store has its blob.
Bring = Callable[[Descriptor, LayerSlot], Coroutine[Any, Any, UnpackResult]]


class LayersMismatch(DataLoss):
    text = "layers from manifest don't match image configuration"


class InvalidRootFs(DataLoss):
    text = "invalid rootfs in image configuration"


class UnsupportedArtifact(InvalidArgument):
    text = "unsupported media type {media_type}"


def check_types(manifest: Manifest) -> None:
    """Raises UnsupportedArtifact for layers that cannot be unpacked."""
    for layer in manifest.layers:
        if layer.media_type not in mt.LAYER_COMPRESSION:
            raise UnsupportedArtifact(media_type=layer.media_type)


def check_layers(manifest: Manifest, config: ImageConfig) -> tuple[str, ...]:
    """The diff ids, one for each layer; raises what is wrong with the two documents."""
    diff_ids = config.rootfs.diff_ids
    if config.rootfs.type != "layers" or (manifest.layers and not diff_ids):
        raise InvalidRootFs
    if len(diff_ids) != len(manifest.layers):
        raise LayersMismatch
    check_types(manifest)
    return diff_ids


async def unpack_all(snapshots: Snapshots, lease: Lease, layers: Sequence[Descriptor], diff_ids: Sequence[str],
                     bring: Bring, exists: Callable[[Descriptor], Awaitable[None]]) -> list[Descriptor]:
    """Unpack what is missing, all at once, and commit it in one step; returns the layers that were missing.

    ``exists`` is told of the others. The first failure ends everything, and nothing is left of it.
    """
    slots: list[LayerSlot] = []
    fresh: list[Descriptor] = []
    tasks: list[asyncio.Task[UnpackResult]] = []
    try:
        parent: Digest | None = None
        chain = list(chain_ids(diff_ids))
        held = await snapshots.hold(lease, chain)
        for layer, diff_id, chain_id in zip(layers, diff_ids, chain, strict=True):
            here = chain_id in held
            slot = None if here else await snapshots.prepare_layer(lease, chain_id, parent, diff_id)
            parent = chain_id
            if slot is None:
                await exists(layer)
                continue
            slots.append(slot)
            fresh.append(layer)
            tasks.append(asyncio.create_task(bring(layer, slot)))
        unpacked = await results(tasks)
        await snapshots.commit(list(zip(slots, unpacked, strict=True)), stored=True)
    finally:
        await stop(tasks)
        for slot in slots:
            await slot.abort()
    return fresh
