"""All layers of an image made one: what was replaced or deleted on the way is gone for good."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

import msgspec

from barque.engine.containers.archive import streamed
from barque.errors import InvalidArgument
from barque.image.imports import Importer
from barque.image.resolve import Images
from barque.oci.image import History, ImageConfig, RootFS
from barque.oci.platform import Platform
from barque.oci.reference import Reference
from barque.store.gc import GcReport
from barque.store.snapshots import Snapshots
from barque.store.workers import Workers
from barque.supervise.archive_messages import View

Emit = Callable[[str, str, str, Mapping[str, str]], None]


class Flattener:
    def __init__(self, images: Images, snapshots: Snapshots, importer: Importer, workers: Workers,
                 collect: Callable[[], Awaitable[GcReport]], emit: Emit) -> None:
        self._images = images
        self._snapshots = snapshots
        self._importer = importer
        self._workers = workers
        self._collect = collect
        self._emit = emit

    async def flatten(self, text: str, platform: Platform | None, ref: Reference | None) -> str:
        """Make the image and give its id; the same image always gives the same one. Without ``ref`` it is dangling.

        Raises NoSuchImage, InvalidArgument for an image without layers.
        """
        image = await self._images.resolve(text, platform)
        if image.chain_id is None:
            raise InvalidArgument(f"{text} has no layers to flatten")
        mount = await self._snapshots.image_mount(image.chain_id)
        view = View(upper=mount.lower[0], lower=list(mount.lower[1:]))
        pieces = streamed(self._workers, view, (), "/", text, whole=True)

        def config(diff_id: str) -> ImageConfig:
            step = History(created=image.config.created, created_by="barque image flatten",
                           comment=f"{len(image.chain)} layers of {image.id}")
            return msgspec.structs.replace(image.config, rootfs=RootFS(diff_ids=(diff_id,)), history=(step,))

        try:
            made = await self._importer.make(pieces, config, ref)
        except BaseException:
            await self._collect()
            raise
        self._emit("image", "flatten", made, {"name": ref.familiar if ref else made, "from": image.id})
        return made
