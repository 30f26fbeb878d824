"""From the last state of a build to an image with names."""

from __future__ import annotations

from collections.abc import Callable, Sequence

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
        target = known or with_id(state.target or await self._stored(lease, state), state.image_id)
        if parent and known is None:
            await self._content.label(state.image_id, PARENT, parent)
        if not tags:
            if known is None:
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

    async def _stored(self, lease: Lease, state: State) -> Descriptor:
        await self._content.put(lease, media_types.OCI_CONFIG, state.encoded())
        manifest = await self._content.put(lease, media_types.OCI_MANIFEST, state.manifest())
        return Descriptor(media_type=manifest.media_type, digest=manifest.digest, size=manifest.size,
                          platform=state.platform)
