"""Images in and out of archives: save, load and import, as docker's API has them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence

from barque.image.imports import Importer, ImportRequest
from barque.image.load import Loader
from barque.image.progress import Progress, Report
from barque.image.save import Archive, Saver
from barque.oci.platform import Platform
from barque.store.gc import GcReport

Download = Callable[[str, Report], AsyncIterator[bytes]]
Emit = Callable[[str, str, str, Mapping[str, str]], None]


class ImageArchives:
    def __init__(self, saver: Saver, loader: Loader, importer: Importer, download: Download,
                 collect: Callable[[], Awaitable[GcReport]], emit: Emit) -> None:
        self._saver = saver
        self._loader = loader
        self._importer = importer
        self._download = download
        self._collect = collect
        self._emit = emit

    async def plan(self, texts: Sequence[str], platforms: Sequence[Platform]) -> Archive:
        """What ``GET /images/get`` will send. Raises NoSuchImage, NoSuchPlatform, DataLoss."""
        archive = await self._saver.plan(texts, platforms)
        for image_id in archive.image_ids:
            self._emit("image", "save", image_id, {"name": image_id})
        return archive

    def save(self, archive: Archive) -> AsyncIterator[bytes]:
        return self._saver.stream(archive)

    async def load(self, pieces: AsyncIterator[bytes], platforms: Sequence[Platform], report: Report) -> None:
        """``POST /images/load``. Raises BadArchive and whatever is wrong with an image in it."""
        try:
            loaded = await self._loader.load(pieces, platforms, report)
        except BaseException:
            await self._collect()
            raise
        for image in loaded:
            self._emit("image", "load", image.image_id, {"name": image.image_id})

    async def bring_in(self, request: ImportRequest, sent: AsyncIterator[bytes] | None, report: Report) -> None:
        """``POST /images/create?fromSrc``: an image of one layer from a root file system as tar.

        The archive is what the client ``sent``, or else what is behind the request's URL.
        """
        pieces = self._download(request.source, report) if sent is None else sent
        try:
            image_id = await self._importer.bring_in(request, pieces)
        except BaseException:
            await self._collect()
            raise
        self._emit("image", "import", image_id, {"name": request.ref.familiar if request.ref else image_id})
        report(Progress(status=image_id))
