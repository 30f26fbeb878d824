"""``--cache-from``: images whose history says that they were made by the same steps."""

from __future__ import annotations

from collections.abc import Sequence

from barque.build.layers import Layer
from barque.build.lookup import Found, Identity
from barque.build.ports import BaseImage
from barque.build.state import State
from barque.oci.image import History


class CacheImage:
    """An image that is here. Meets ``lookup.CacheSource``."""

    def __init__(self, image: BaseImage) -> None:
        self._image = image

    async def find(self, identity: Identity, state: State) -> Found | None:
        if not identity.told_by_history:
            return None
        entry = following(self._image.config.history or (), self._image.config.rootfs.diff_ids, state,
                          identity.created_by)
        if entry is None:
            return None
        if entry.empty_layer:
            return Found(entry.created)
        index = len(state.diff_ids)
        return Found(entry.created, self._image.manifest.layers[index], self._image.config.rootfs.diff_ids[index])


    def leads_to(self, state: State, created_by: str, layer: Layer | None) -> bool:
        """Whether the step after ``state``, which made ``layer``, is part of this image."""
        diff_ids = self._image.config.rootfs.diff_ids
        if following(self._image.config.history or (), diff_ids, state, created_by) is None:
            return False
        return layer is None or diff_ids[len(state.diff_ids)] == layer.diff_id


def following(history: Sequence[History], diff_ids: Sequence[str], state: State, created_by: str) -> History | None:
    """The step ``created_by`` after ``state`` in the history of an image that went the same way so far."""
    done = len(state.history)
    if len(history) <= done or history[done].created_by != created_by:
        return None
    if tuple(diff_ids[:len(state.diff_ids)]) != state.diff_ids or not _same(history, state.history):
        return None
    entry = history[done]
    return entry if entry.empty_layer or len(diff_ids) > len(state.diff_ids) else None


def _same(theirs: Sequence[History], ours: Sequence[History]) -> bool:
    return all(one.created_by == other.created_by and one.empty_layer == other.empty_layer
               for one, other in zip(theirs, ours, strict=False))
