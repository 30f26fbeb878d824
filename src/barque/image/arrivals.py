"""The blobs of an image's layers on their way here, from the moment that its manifest is known.

Which of the layers are to be unpacked, and into what, stands in the configuration; their bytes do not wait for that.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from barque.image.client.repository import Repository
from barque.image.layers import Growth
from barque.image.plain import PlainFetcher
from barque.image.progress import Bar, Report, short
from barque.image.sources import remember
from barque.image.tasks import results, stop
from barque.oci.descriptor import Descriptor
from barque.oci.reference import Reference
from barque.store.content import ContentStore
from barque.store.leases import Lease

if TYPE_CHECKING:
    from typing import Self


class Arrival:
    """One blob. ``source``: a descriptor of the file that ``growth`` tells of; None where the store has the blob."""

    def __init__(self, bar: Bar) -> None:
        self.bar = bar
        self.task: asyncio.Task[None]
        self.source = -1
        self.growth: Growth | None = None
        self._begun = asyncio.Event()

    def begin(self, path: str, growth: Growth) -> None:
        self.source = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self.growth = growth
        self._begun.set()

    async def begun(self) -> None:
        """Until there is a file to read from, or the store has the blob. Raises what went wrong before that."""
        waiting = asyncio.create_task(self._begun.wait())
        try:
            await asyncio.wait([waiting, self.task], return_when=asyncio.FIRST_COMPLETED)
        finally:
            waiting.cancel()
        if self.growth is None:
            self.task.result()


class Arrivals:
    """An async context manager; leaving it ends what is still on its way."""

    def __init__(self, content: ContentStore, plain: PlainFetcher, layers: Sequence[Descriptor], ref: Reference,
                 report: Report) -> None:
        self._content = content
        self._plain = plain
        self._layers = layers
        self._ref = ref
        self._report = report
        self._missing: dict[str, Arrival] = {}
        self._noting: asyncio.Task[None]

    async def start(self, repository: Repository, lease: Lease) -> Self:
        """Let ``lease`` hold what is here and fetch the rest. Use the result with ``async with``."""
        here = await self._content.hold(lease, self._layers)
        for layer in self._layers:
            if layer.digest not in here and layer.digest not in self._missing:
                arrival = self._missing[layer.digest] = Arrival(Bar(self._report, short(layer.digest), held=True))
                arrival.task = asyncio.create_task(
                    self._plain.blob(repository, lease, layer, arrival.bar, arrival.begin))
        self._noting = asyncio.create_task(self._note())
        return self

    async def _note(self) -> None:
        await results([arrival.task for arrival in self._missing.values()])
        await remember(self._content, [layer.digest for layer in self._layers], self._ref)

    def of(self, layer: Descriptor) -> Arrival | None:
        """None where the blob was here from the beginning."""
        return self._missing.get(layer.digest)

    async def complete(self) -> None:
        """Until all blobs are stored, and it is noted where they are from. Raises what went wrong."""
        await self._noting

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await stop([self._noting, *(arrival.task for arrival in self._missing.values())])
        for arrival in self._missing.values():
            if arrival.source >= 0:
                os.close(arrival.source)
