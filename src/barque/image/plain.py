"""Fetching what is kept as it is: blobs and manifests of which nothing is unpacked."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from barque.image.client.errors import LayerVerificationFailed
from barque.image.client.repository import Repository
from barque.image.layers import Download, Growth
from barque.image.progress import Bar
from barque.image.remote import manifest as manifest_bytes
from barque.image.tasks import results, stop
from barque.image.turns import Turns
from barque.oci.descriptor import Descriptor
from barque.oci.manifest import Manifest, parse
from barque.store.content import ContentStore
from barque.store.ingest import DigestMismatch
from barque.store.leases import Lease


class PlainFetcher:
    """``turns``: how many downloads run at once; ``attempts`` and ``pause`` as in fetch.Limits."""

    def __init__(self, content: ContentStore, turns: Turns, attempts: int, pause: float) -> None:
        self._content = content
        self._turns = turns
        self._attempts = attempts
        self._pause = pause

    async def blobs(self, repository: Repository, lease: Lease, wanted: list[tuple[Descriptor, Bar]]) -> None:
        """Side by side; the first failure ends all."""
        unique = {descriptor.digest: (descriptor, bar) for descriptor, bar in wanted}
        tasks = [asyncio.create_task(self.blob(repository, lease, *each)) for each in unique.values()]
        try:
            await results(tasks)
        finally:
            await stop(tasks)

    async def blob(self, repository: Repository, lease: Lease, descriptor: Descriptor, bar: Bar,
                   begun: Callable[[str, Growth], None] = lambda *_: None) -> None:
        """``begun`` is told of the file that the bytes go into before they are verified, unless they are all here."""
        async with await self._content.ingest(lease, descriptor) as ingest:
            if not ingest.exists:
                download = Download(ingest, descriptor, bar, self._attempts, self._pause)
                begun(ingest.path, download.growth)
                if self._turns.locked():
                    bar.step("Waiting")
                async with self._turns:
                    await download.run(repository)
                bar.step("Verifying Checksum")
            try:
                await ingest.commit()
            except DigestMismatch as error:
                raise LayerVerificationFailed(digest=descriptor.digest) from error
            bar.step("Download complete")

    async def manifest(self, repository: Repository, lease: Lease, entry: Descriptor) -> None:
        """A manifest with all that it refers to, such as an attestation. Raises InvalidManifest and as pulling does."""
        body = await manifest_bytes(repository, self._content, entry)
        document = parse(body, entry.media_type)
        if isinstance(document, Manifest):
            silent = Bar(lambda _: None, "")
            await self.blobs(repository, lease, [(blob, silent) for blob in (document.config, *document.layers)])
        await self._content.put(lease, entry.media_type, body)
