"""``--cache-from``: images whose history says that they were made by the same steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from barque.build.layers import Layer
from barque.build.ports import BaseImage
from barque.build.state import State
from barque.oci.image import History, chain_ids
from barque.store.snapshots import Snapshots


@dataclass(frozen=True)
class Made:
    """What an image has where a step would come: when it was made, and its layer if it made one."""

    created: str
    layer: Layer | None


class CacheImages:
    def __init__(self, images: Sequence[BaseImage], snapshots: Snapshots) -> None:
        self._images = images
        self._snapshots = snapshots

    async def find(self, state: State, created_by: str) -> Made | None:
        """The step ``created_by`` after ``state``, if one of the images went the same way so far."""
        for image in self._images:
            entry = _next(image, state, created_by)
            if entry is None:
                continue
            if entry.empty_layer:
                return Made(entry.created, None)
            layer = await self._layer(image, len(state.diff_ids))
            if layer is not None:
                return Made(entry.created, layer)
        return None

    async def _layer(self, image: BaseImage, index: int) -> Layer | None:
        diff_ids = image.config.rootfs.diff_ids
        chain = str(list(chain_ids(diff_ids[:index + 1]))[-1])
        stored = await self._snapshots.layer(chain)
        if stored is None:
            return None
        return Layer(image.manifest.layers[index], diff_ids[index], chain, stored.size)


def _next(image: BaseImage, state: State, created_by: str) -> History | None:
    history = image.config.history or ()
    done = len(state.history)
    diff_ids = image.config.rootfs.diff_ids
    if len(history) <= done or history[done].created_by != created_by:
        return None
    if diff_ids[:len(state.diff_ids)] != state.diff_ids or not _same(history, state.history):
        return None
    entry = history[done]
    return entry if entry.empty_layer or len(diff_ids) > len(state.diff_ids) else None


def _same(theirs: Sequence[History], ours: Sequence[History]) -> bool:
    return all(one.created_by == other.created_by and one.empty_layer == other.empty_layer
               for one, other in zip(theirs, ours, strict=False))
