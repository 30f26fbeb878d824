"""Finding what a step of a stage made before: in the cache of this engine, then in those that the client named."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol

from barque.build import clock, why
from barque.build.cache import CacheEntry, Facts
from barque.build.layers import Layer, chain
from barque.build.parts import Site
from barque.build.state import State
from barque.oci.descriptor import Descriptor
from barque.store.leases import Lease

#: Brings a blob into the store, held by the lease.
Fetch = Callable[[Lease, Descriptor], Awaitable[None]]


@dataclass(frozen=True)
class Identity:
    """What makes a step the same as one of another build.

    ``created_by``: its line of history; ``told_by_history``: that line says all there is.
    """

    key: str
    created_by: str
    facts: Facts
    told_by_history: bool = True


@dataclass(frozen=True)
class Made:
    """What a step made: when, and its layer if it made one."""

    created: str
    layer: Layer | None


@dataclass(frozen=True)
class Found:
    """What another cache says that a step made; ``noted``: nanoseconds since 1970, 0 for what this engine's own cache
    need not know.
    """

    created: str
    layer: Descriptor | None = None
    diff_id: str = ""
    size: int = 0
    noted: int = 0
    fetch: Fetch | None = None


class CacheSource(Protocol):
    async def find(self, identity: Identity, state: State) -> Found | None:
        """The step after ``state``, where this source knows it."""


class Lookup:
    """``why`` says why the last step that was looked for has to run."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._rebuilt = False
        self.why = ""

    async def find(self, identity: Identity, state: State) -> Made | None:
        """The step after ``state``, with its layer there to be built on."""
        self.why = ""
        if self._site.options.no_cache:
            self.why = why.OFF
            return None
        entry = await self._site.found.find(identity.key)
        counts = entry is not None and self._counts(entry, identity, state)
        made = await self._own(entry, state) if entry is not None and counts else None
        made = made or await self._elsewhere(identity, state)
        if made is None:
            nearest = await self._site.parts.cache.nearest(identity.facts)
            self.why = why.NOT_NAMED if entry is not None and not counts else why.explain(
                identity.facts, nearest, rebuilt=self._rebuilt)
            self._rebuilt = True
        return made

    def _counts(self, entry: CacheEntry, identity: Identity, state: State) -> bool:
        return self._site.only is None or any(image.leads_to(state, identity.created_by, entry.made)
                                              for image in self._site.only)

    async def _own(self, entry: CacheEntry, state: State) -> Made | None:
        created, layer = clock.rfc3339(entry.created), entry.made
        if layer is None or (entry.whole and layer.chain_id == chain(state.chain_id, layer.diff_id)):
            return Made(created, layer)
        found = Found(created, layer.descriptor, layer.diff_id, layer.size)
        return await self._brought(found, layer.descriptor, state)

    async def _elsewhere(self, identity: Identity, state: State) -> Made | None:
        for source in self._site.sources:
            found = await source.find(identity, state)
            if found is None:
                continue
            made = Made(found.created, None) if found.layer is None else await self._brought(found, found.layer, state)
            if made is not None:
                if found.noted:
                    await self._site.parts.cache.add(identity.key, state.image_id, identity.created_by, made.layer,
                                                     found.noted, identity.facts)
                return made
        return None

    async def _brought(self, found: Found, descriptor: Descriptor, state: State) -> Made | None:
        layer = await self._site.parts.layers.bring(self._site.lease, self._site.parts.workers, state.chain_id,
                                                    descriptor, found.diff_id, found.fetch)
        return Made(found.created, layer) if layer is not None else None
