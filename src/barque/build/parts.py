"""What every build uses, and what the stages of one build share."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from barque.build.args import BuildArguments
from barque.build.cache import BuildCache, CacheSession
from barque.build.context import BuildContext
from barque.build.export import Exporter
from barque.build.kept import KeptContexts
from barque.build.layers import LayerStore
from barque.build.options import BuildOptions
from barque.build.ports import BaseImages, StepRunner, Workers
from barque.build.remote import Fetcher
from barque.build.state import State
from barque.build.steps.cache_mounts import CacheMounts
from barque.build.steps.files import FileSteps, Surveyed
from barque.oci.descriptor import Descriptor
from barque.oci.platform import Platform
from barque.store.leases import Lease, Leases

if TYPE_CHECKING:
    from barque.build.cache_images import CacheImage
    from barque.build.lookup import CacheSource


@dataclass(frozen=True, kw_only=True)
class Parts:
    leases: Leases
    cache: BuildCache
    layers: LayerStore
    files: FileSteps
    images: BaseImages
    runner: StepRunner
    exporter: Exporter
    fetcher: Fetcher
    cache_mounts: CacheMounts
    kept_contexts: KeptContexts
    workers: Workers


@dataclass(kw_only=True)
class Site:
    """``found``: the cache as this build sees it; ``sources``: further ones; ``only``: the images whose steps count, if
    not all do. ``results``: what each stage has come to, by its number; ``bases``: what it began with; ``keys``: its
    cached steps; ``below``: the stage that it is built on. ``materials``: the images used. ``surveyed``: a look at the
    context for all stages.
    """

    parts: Parts
    options: BuildOptions
    context: BuildContext
    scratch: str
    lease: Lease
    arguments: BuildArguments
    platform: Platform
    escape: str
    sources: Sequence[CacheSource]
    only: Sequence[CacheImage] | None
    found: CacheSession
    surveyed: Surveyed
    results: dict[int, asyncio.Future[State]] = field(default_factory=dict)
    bases: dict[int, State] = field(default_factory=dict)
    below: dict[int, int] = field(default_factory=dict)
    keys: dict[int, list[str]] = field(default_factory=dict)
    materials: dict[str, Descriptor] = field(default_factory=dict)
