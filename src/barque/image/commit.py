"""``docker commit``: what a container changed becomes a layer of its own on top of the image it was made from."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from barque.image.layer_set import unpack_all
from barque.image.made import MadeImages, now
from barque.image.resolve import ResolvedImage
from barque.oci import media_types as mt
from barque.oci.descriptor import Descriptor
from barque.oci.image import History, ImageConfig, RootFS, RunConfig
from barque.oci.platform import host
from barque.oci.reference import Reference
from barque.store.snapshots import Snapshots
from barque.store.workers import Workers, pack_tree

#: The archive without entries: a container that changed no file adds no layer.
_EMPTY_DIFF_ID = "sha256:5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef"


@dataclass(frozen=True)
class CommitRequest:
    """``run`` is the new image's whole configuration; ``parent`` is None for a container without an image."""

    container_id: str
    parent: ResolvedImage | None
    run: RunConfig
    author: str = ""
    comment: str = ""
    created_by: str = ""
    ref: Reference | None = None


class Committer:
    """The container must not change meanwhile: whoever calls pauses it."""

    def __init__(self, made: MadeImages, snapshots: Snapshots, workers: Workers) -> None:
        self._made = made
        self._snapshots = snapshots
        self._workers = workers

    async def commit(self, request: CommitRequest) -> str:
        """Returns the image's id. Raises NoSuchSnapshot, PackFailed, OSError."""
        upper = await self._snapshots.container_upper(request.container_id)
        with self._made.scratch() as (fd, path):
            packed = await pack_tree(self._workers, upper, fd)
            layer = Descriptor(media_type=mt.OCI_LAYER_GZIP, digest=packed.digest, size=packed.length)
            config = _config(request, packed.diff_id)
            layers = list(request.parent.manifest.layers) if request.parent else []
            async with self._made.lease(f"commit {request.container_id}") as lease:
                if packed.diff_id != _EMPTY_DIFF_ID:
                    layers.append(layer)
                    await self._made.adopt(lease, layer, path)
                await unpack_all(self._snapshots, lease, layers, config.rootfs.diff_ids, self._made.unpack,
                                 self._made.hold(lease))
                return await self._made.record(lease, config, layers, request.ref)


def _config(request: CommitRequest, diff_id: str) -> ImageConfig:
    empty = diff_id == _EMPTY_DIFF_ID
    parent = request.parent.config if request.parent else ImageConfig(
        os=host().os, architecture=host().architecture, variant=host().variant)
    created = now()
    entry = History(created=created, created_by=request.created_by, author=request.author, comment=request.comment,
                    empty_layer=empty)
    return msgspec.structs.replace(
        parent, created=created, author=request.author, config=request.run,
        rootfs=RootFS(diff_ids=parent.rootfs.diff_ids + (() if empty else (diff_id,))),
        history=(*(parent.history or ()), entry))
