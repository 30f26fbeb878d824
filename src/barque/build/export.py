"""From the last state of a build to an image with names."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from barque.build.state import State
from barque.image.names import ImageNames, with_id
from barque.image.resolve import PARENT
from barque.oci import media_types
from barque.oci.descriptor import Descriptor
from barque.oci.reference import Reference
from barque.store.content import ContentStore
from barque.store.leases import Lease

#: Told of each name that an image was given: the image's id and the name.
Tagged = Callable[[str, str], None]


class Exporter:
    def __init__(self, content: ContentStore, names: ImageNames, tagged: Tagged) -> None:
        self._content = content
        self._names = names
        self._tagged = tagged

    async def export(self, lease: Lease, state: State, tags: Sequence[Reference], parent: str = "") -> None:
        """Store configuration and manifest, and point the names at them; without names the image is dangling.

        ``parent``: the image that it is said to come from.
        """
        known = await self._known(state.image_id)
        target = await self.store(lease, state)
        if parent and known is None:
            await self._content.label(state.image_id, PARENT, parent)
        await self.name(state, target, tags)

    async def store(self, lease: Lease, state: State, annotations: Mapping[str, str] | None = None) -> Descriptor:
        """Store configuration and manifest, held by ``lease``; what a name of the image stands for."""
        known = None if annotations else await self._known(state.image_id)
        if known is None and state.target is not None and not annotations:
            known = with_id(state.target, state.image_id)
        return known or with_id(await self._stored(lease, state, annotations or {}), state.image_id)

    async def name(self, state: State, target: Descriptor, tags: Sequence[Reference]) -> None:
        """Point the names at ``target``, which :meth:`store` gave; without names the image is dangling."""
        if not tags:
            if await self._known(state.image_id) is None:
                await self._names.keep_dangling(target)
            return
        names = [tag.with_default_tag() for tag in tags]
        await self._names.point([str(name) for name in names], target)
        for name in names:
            self._tagged(state.image_id, name.familiar)

    async def keep(self, lease: Lease, state: State) -> None:
        """Make the state before a step that failed an image without a name, to look into it."""
        if state.target is None and state.image_id:
            await self.export(lease, state, ())

    async def _known(self, image_id: str) -> Descriptor | None:
        """What the image is stored as, if it has a name already."""
        return next((row.target for row in await self._names.list() if str(row.id) == image_id), None)

    async def _stored(self, lease: Lease, state: State, annotations: Mapping[str, str]) -> Descriptor:
        await self._content.put(lease, media_types.OCI_CONFIG, state.encoded())
        manifest = await self._content.put(lease, media_types.OCI_MANIFEST, state.manifest(annotations))
        return Descriptor(media_type=manifest.media_type, digest=manifest.digest, size=manifest.size,
                          platform=state.platform)
