"""What every build uses, and what the stages of one build share."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from barque.build.args import BuildArguments
from barque.build.cache import BuildCache, CacheSession
from barque.build.cache_images import CacheImages
from barque.build.context import BuildContext
from barque.build.export import Exporter
from barque.build.layers import LayerStore
from barque.build.options import BuildOptions
from barque.build.ports import BaseImages, StepRunner, Workers
from barque.build.remote import Fetcher
from barque.build.state import State
from barque.build.steps.files import FileSteps
from barque.build.steps.mounts import CacheMounts
from barque.oci.platform import Platform
from barque.store.leases import Lease, Leases


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
    workers: Workers


@dataclass(kw_only=True)
class Site:
    """``found``: the cache as this build sees it. ``results``: what each stage has come to, by its number."""

    parts: Parts
    options: BuildOptions
    context: BuildContext
    scratch: str
    lease: Lease
    arguments: BuildArguments
    platform: Platform
    escape: str
    cache_images: CacheImages
    found: CacheSession
    results: dict[int, asyncio.Future[State]] = field(default_factory=dict)
