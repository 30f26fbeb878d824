"""The builder, put together over the stores, the images and the containers of one engine."""

from __future__ import annotations

import os
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial

from barque.build.cache import BuildCache
from barque.build.context import ScratchSpace
from barque.build.export import Exporter
from barque.build.history import BuildHistory
from barque.build.kept import KeptContexts
from barque.build.layers import LayerStore
from barque.build.parts import Parts
from barque.build.portable_cache import PortableCache
from barque.build.remote import Fetcher
from barque.build.steps.cache_mounts import CacheMounts
from barque.build.steps.files import FileSteps
from barque.composition_images import ImageParts, Stores, proxies_of
from barque.engine.build_cache import BuildCacheService
from barque.engine.build_outputs import BuildOutputs, Offers
from barque.engine.build_steps import ContainerSteps
from barque.engine.builds import BaseImageSource, BuildService
from barque.engine.commit import Committer
from barque.engine.containers.context import Context
from barque.engine.registry_cache import RegistryCaches
from barque.image.names import ImageNames
from barque.image.save import Saver
from barque.store.gc import collect
from barque.store.layout import Layout
from barque.supervise.client import Supervisor


@dataclass(frozen=True)
class Builds:
    service: BuildService
    cache: BuildCacheService


async def open_builds(stack: AsyncExitStack, layout: Layout, stores: Stores, images: ImageParts, context: Context,
                      workers: Supervisor) -> Builds:
    """Removes what builds of an earlier daemon have left; ``stack`` closes the connections."""
    fetcher = Fetcher(proxies_of(context.config).of)
    stack.push_async_callback(fetcher.close)
    layers = LayerStore(stores.content, stores.snapshots)
    cache = BuildCache(stores.db)
    portable = PortableCache(stores.content, cache, stores.db)
    steps = ContainerSteps(context)
    exporter = _exporter(stores, context)
    parts = Parts(
        leases=stores.leases, cache=cache, layers=layers, files=FileSteps(workers, layers),
        images=BaseImageSource(images.resolver, images.service, stores.db), runner=steps, exporter=exporter,
        fetcher=fetcher, cache_mounts=CacheMounts(os.path.join(layout.root, "build", "mounts"), cache),
        kept_contexts=KeptContexts(os.path.join(layout.root, "build", "contexts"), cache), workers=workers)
    registries = RegistryCaches(stores.content, images.transport)
    offers = Offers()
    outputs = BuildOutputs(stores.content, stores.snapshots, workers, exporter,
                           Saver(stores.content, images.resolver, ImageNames(stores.db)), images.service, portable,
                           registries, offers)
    service = BuildService(parts, ScratchSpace(os.path.join(layout.root, "build", "scratch")),
                           BuildHistory(stores.db), outputs, offers, registries, context.emit)
    await service.clean()
    await steps.clean()
    return Builds(service, BuildCacheService(parts, stores.content, portable,
                                             partial(collect, stores.db, stores.content, stores.snapshots),
                                             context.emit))


def committer(stores: Stores, images: ImageParts, context: Context) -> Committer:
    layers = LayerStore(stores.content, stores.snapshots)
    return Committer(context, images.resolver, stores.leases, layers, _exporter(stores, context))


def _exporter(stores: Stores, context: Context) -> Exporter:
    def tagged(image_id: str, name: str) -> None:
        context.emit("image", "tag", image_id, {"name": name})

    return Exporter(stores.content, ImageNames(stores.db), tagged)
