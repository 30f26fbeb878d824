"""Blobs on their way to one repository of a registry."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from barque.image.client import uploads
from barque.image.client.repository import Repository
from barque.image.progress import Bar, Report
from barque.image.tasks import results, stop
from barque.oci.descriptor import Descriptor


@dataclass(frozen=True)
class PushItem:
    """A blob to send: the file with its bytes, how it is called in progress, and where else the registry has it."""

    descriptor: Descriptor
    path: str
    label: str
    sources: tuple[str, ...] = ()


class Sender:
    """At most five layers at once, as dockerd does."""

    def __init__(self, repository: Repository, report: Report) -> None:
        self._repository = repository
        self._report = report
        self._turns = asyncio.Semaphore(5)

    async def layers(self, items: list[PushItem]) -> None:
        unique = {item.descriptor.digest: item for item in reversed(items)}
        for item in unique.values():
            Bar(self._report, item.label).step("Preparing")
        tasks = [asyncio.create_task(self._layer(item)) for item in unique.values()]
        try:
            await results(tasks)
        finally:
            await stop(tasks)

    async def _layer(self, item: PushItem) -> None:
        bar = Bar(self._report, item.label)
        if self._turns.locked():
            bar.step("Waiting")
        async with self._turns:
            await self.send(item, bar)

    async def config(self, item: PushItem) -> None:
        await self.send(item, Bar(lambda _: None, ""))

    async def send(self, item: PushItem, bar: Bar) -> None:
        digest = item.descriptor.checked_digest
        if await self._repository.has_blob(digest):
            bar.step("Layer already exists")
            return
        location = None
        for source in item.sources:
            location = await uploads.mount(self._repository, digest, source)
            if location is None:
                bar.step(f"Mounted from {source}")
                return
        if location is None:
            location = await uploads.begin(self._repository)
        size = item.descriptor.size
        await uploads.send_blob(self._repository, digest, item.path, location,
                                lambda sent: bar.move("Pushing", sent, size))
        bar.step("Pushed")
