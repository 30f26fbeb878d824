"""``docker import``: an image of one layer from a tar archive of a root file system."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass

from barque.errors import InvalidArgument
from barque.image.layer_set import unpack_all
from barque.image.made import MadeImages, now
from barque.image.pipes import fed
from barque.oci import media_types as mt
from barque.oci.descriptor import Descriptor
from barque.oci.image import History, ImageConfig, RootFS, RunConfig
from barque.oci.platform import Platform, host
from barque.oci.reference import Reference
from barque.store.snapshots import Snapshots
from barque.store.tar.compress import BadStream, open_stream
from barque.store.tar.pack import Packed, Packer
from barque.store.workers import InvalidArchive

#: Applies Dockerfile instructions (``docker import --change``) to a configuration; raises InvalidArgument.
Changes = Callable[[RunConfig, Sequence[str]], RunConfig]


class EmptyImport(InvalidArgument):
    text = "failed to import: the archive is empty"


@dataclass(frozen=True)
class ImportRequest:
    """``source`` is for the history: "-" or a URL."""

    ref: Reference | None
    message: str = ""
    source: str = "-"
    changes: tuple[str, ...] = ()
    platform: Platform | None = None


class Importer:
    def __init__(self, made: MadeImages, snapshots: Snapshots, changes: Changes) -> None:
        self._made = made
        self._snapshots = snapshots
        self._changes = changes

    async def bring_in(self, request: ImportRequest, pieces: AsyncIterator[bytes]) -> str:
        """Returns the image's id. Raises InvalidArgument (changes), InvalidArchive, OSError."""
        run = self._changes(RunConfig(), request.changes)
        return await self.make(pieces, lambda diff_id: _config(request, run, diff_id), request.ref)

    async def make(self, pieces: AsyncIterator[bytes], config_of: Callable[[str], ImageConfig],
                   ref: Reference | None) -> str:
        """An image whose one layer is the archive in ``pieces``; ``config_of`` is given the layer's diff id."""
        with self._made.scratch() as (fd, path):
            packed = await fed(pieces, lambda read: _pack(read, fd))
            layer = Descriptor(media_type=mt.OCI_LAYER_GZIP, digest=packed.digest, size=packed.length)
            async with self._made.lease("import") as lease:
                await self._made.adopt(lease, layer, path)
                await unpack_all(self._snapshots, lease, [layer], [packed.diff_id], self._made.unpack,
                                 self._made.hold(lease))
                return await self._made.record(lease, config_of(packed.diff_id), [layer], ref)


def _config(request: ImportRequest, run: RunConfig, diff_id: str) -> ImageConfig:
    created = now()
    platform = request.platform or host()
    return ImageConfig(
        created=created, architecture=platform.architecture, os=platform.os, variant=platform.variant, config=run,
        rootfs=RootFS(diff_ids=(diff_id,)),
        history=(History(created=created, comment=request.message or f"Imported from {request.source}"),))


def _pack(read: Callable[[], bytes], out: int) -> Packed:
    """Write an archive, compressed in whatever way, as gzip to ``out``. Blocks."""
    packer = Packer(out)
    try:
        for block in open_stream("", read):
            packer.write(block)
    except BadStream as error:
        raise InvalidArchive(reason=error) from error
    packed = packer.finish()
    if not packed.size:
        raise EmptyImport
    return packed
