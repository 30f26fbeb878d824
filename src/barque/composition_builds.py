"""The builder, put together over the stores, the images and the containers of one engine."""

from __future__ import annotations

import os
from contextlib import AsyncExitStack
from functools import partial

from barque.build.cache import BuildCache
from barque.build.context import ScratchSpace
from barque.build.export import Exporter
from barque.build.layers import LayerStore
from barque.build.parts import Parts
from barque.build.remote import Fetcher
from barque.build.steps.files import FileSteps
from barque.build.steps.mounts import CacheMounts
from barque.composition_images import ImageParts, Stores, proxies_of
from barque.engine.build_steps import ContainerSteps
from barque.engine.builds import BaseImageSource, BuildService
from barque.engine.commit import Committer
from barque.engine.containers.context import Context
from barque.image.names import ImageNames
from barque.store.gc import collect
from barque.store.layout import Layout
from barque.supervise.client import Supervisor


async def open_builds(stack: AsyncExitStack, layout: Layout, stores: Stores, images: ImageParts, context: Context,
                      workers: Supervisor) -> BuildService:
    """Removes what builds of an earlier daemon have left; ``stack`` closes the connections."""
    fetcher = Fetcher(proxies_of(context.config).of)
    stack.push_async_callback(fetcher.close)
    layers = LayerStore(stores.content, stores.snapshots)
    cache = BuildCache(stores.db)
    steps = ContainerSteps(context)
    parts = Parts(
        leases=stores.leases, cache=cache, layers=layers, files=FileSteps(workers, layers),
        images=BaseImageSource(images.resolver, images.service, stores.db), runner=steps,
        exporter=_exporter(stores, context), fetcher=fetcher,
        cache_mounts=CacheMounts(os.path.join(layout.root, "build", "mounts"), cache), workers=workers)
    service = BuildService(parts, ScratchSpace(os.path.join(layout.root, "build", "scratch")),
                           partial(collect, stores.db, stores.content, stores.snapshots), context.emit)
    await service.clean()
    await steps.clean()
    return service


def committer(stores: Stores, images: ImageParts, context: Context) -> Committer:
    layers = LayerStore(stores.content, stores.snapshots)
    return Committer(context, images.resolver, stores.leases, layers, _exporter(stores, context))


def _exporter(stores: Stores, context: Context) -> Exporter:
    def tagged(image_id: str, name: str) -> None:
        context.emit("image", "tag", image_id, {"name": name})

    return Exporter(stores.content, ImageNames(stores.db), tagged)
