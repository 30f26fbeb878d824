"""A look into images: what each layer adds, replaces, deletes and wastes, and how two images differ."""

from __future__ import annotations

import asyncio
import heapq
import os
from collections.abc import Sequence
from typing import Any

from barque.errors import Unsupported
from barque.image.history import steps
from barque.image.resolve import Images, ResolvedImage
from barque.oci.platform import Platform
from barque.store.snapshots import Snapshots
from barque.store.union import ADDED, DELETED, REPLACED, LayerChanges, Union, differences


class TooDeep(Unsupported):
    text = "the image has directories within directories too deep to look into"


class Explorer:
    def __init__(self, images: Images, snapshots: Snapshots) -> None:
        self._images = images
        self._snapshots = snapshots

    async def layers(self, text: str, platform: Platform | None, files: int) -> list[dict[str, Any]]:
        """Bottom first; of each layer the ``files`` largest changes are named. Raises NoSuchImage, OSError."""
        image = await self._images.resolve(text, platform)
        found = await asyncio.to_thread(_changes, await self._directories(image))
        made = [step.history.created_by for step in reversed(steps(image.config, image.layer_sizes))
                if not step.history.empty_layer]
        made += [""] * (len(found) - len(made))
        return [_layer(image, number, changes, made[number], files) for number, changes in enumerate(found)]

    async def diff(self, one: str, other: str) -> list[dict[str, Any]]:
        """What the image ``other`` has, lacks or has otherwise than ``one``. Raises NoSuchImage, OSError."""
        both = [await self._directories(await self._images.resolve(text)) for text in (one, other)]
        return await asyncio.to_thread(_differences, *both)

    async def _directories(self, image: ResolvedImage) -> list[str]:
        return [(await self._snapshots.image_lower(chain_id))[0] for chain_id in image.chain]


def _union(directories: Sequence[str]) -> tuple[Union, list[LayerChanges]]:
    union = Union()
    try:
        return union, [union.add(directory) for directory in directories]
    except RecursionError:
        raise TooDeep from None


def _changes(directories: Sequence[str]) -> list[LayerChanges]:
    return _union(directories)[1]


def _layer(image: ResolvedImage, number: int, found: LayerChanges, created_by: str, files: int) -> dict[str, Any]:
    counts = {kind.capitalize(): dict(zip(("Files", "Bytes"), found.count(kind), strict=True))
              for kind in (ADDED, REPLACED, DELETED)}
    largest = heapq.nsmallest(files, found.changes, key=lambda change: (-change.size, change.path))
    return {"ChainId": image.chain[number], "DiffId": image.config.rootfs.diff_ids[number],
            "Digest": image.manifest.layers[number].digest, "Size": image.layer_sizes[number],
            "Compressed": image.manifest.layers[number].size, "CreatedBy": created_by,
            **counts, "Wasted": found.wasted,
            "Largest": [{"Kind": change.kind, "Path": os.fsdecode(change.path), "Size": change.size}
                        for change in largest]}


def _differences(one: Sequence[str], other: Sequence[str]) -> list[dict[str, Any]]:
    found = []
    try:
        items = list(differences(_union(one)[0], _union(other)[0]))
    except RecursionError:
        raise TooDeep from None
    for item in items:
        kind = "A" if item.before < 0 else "D" if item.after < 0 else "C"
        found.append({"Kind": kind, "Path": os.fsdecode(item.path), "Before": item.before, "After": item.after,
                      "What": item.what})
    return found
