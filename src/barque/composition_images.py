"""The image side of the engine, put together: names, registry client, the service and its routes."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial

from aiohttp import web

from barque.api.routes import fsck as fsck_routes
from barque.api.routes import image_contents as content_routes
from barque.api.routes import images as image_routes
from barque.config import Config
from barque.engine.commit import apply_changes
from barque.engine.containers.registry import Registry
from barque.engine.events import EventBus
from barque.engine.image_archives import ImageArchives
from barque.engine.image_attestations import Attestations
from barque.engine.image_budget import ImageBudget
from barque.engine.image_explorer import Explorer
from barque.engine.image_flatten import Flattener
from barque.engine.image_removal import ImageUser
from barque.engine.images import ImageService
from barque.errors import NotFound
from barque.image.client.download import download
from barque.image.client.hosts import HostConfig
from barque.image.client.login import login
from barque.image.client.proxies import Proxies
from barque.image.client.transport import Transport
from barque.image.fetch import Limits, Puller
from barque.image.imports import Importer
from barque.image.layers import UnpackSlots
from barque.image.load import Loader
from barque.image.made import MadeImages
from barque.image.names import ImageNames
from barque.image.push import Pusher
from barque.image.resolve import Images
from barque.image.save import Saver
from barque.image.trust.check import TrustCheck
from barque.image.trust.policy import load as load_policy
from barque.image.turns import Turns
from barque.image.use import ImageUse
from barque.store.content import ContentStore
from barque.store.db import Database
from barque.store.fsck import Damage, check
from barque.store.gc import collect
from barque.store.layout import Layout
from barque.store.leases import Leases
from barque.store.snapshots import Snapshots
from barque.store.verify import restore_torn
from barque.supervise.client import Supervisor

CERTIFICATES = "/etc/barque/certs.d"


@dataclass(frozen=True)
class Stores:
    """What images are kept in."""

    layout: Layout
    db: Database
    content: ContentStore
    snapshots: Snapshots
    leases: Leases


@dataclass(frozen=True)
class ImageParts:
    resolver: Images
    service: ImageService
    routes: list[web.RouteDef]
    transport: Transport
    puller: Puller
    uploads: Turns

    def reload(self, config: Config) -> None:
        self.transport.hosts = registry_hosts(config)
        self.puller.limit(config.max_concurrent_downloads, config.max_download_attempts)
        self.uploads.resize(config.max_concurrent_uploads)


class ImageUsers:
    """Which containers were made from an image or show it: the registry of containers knows."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    def users_of_image(self, image_id: str) -> Sequence[ImageUser]:
        return [ImageUser(live.id, live.facts.alive) for live in self._registry
                if image_id in (live.container.image_id, *(point.image_id for point in live.container.mounts))]

    def image_of(self, container_id: str) -> str:
        """Empty for a container that is gone."""
        try:
            return self._registry.find(container_id).container.image_id
        except NotFound:
            return ""


def proxies_of(config: Config) -> Proxies:
    """Raises InvalidProxy."""
    return Proxies(config.http_proxy, config.https_proxy, config.no_proxy)


def registry_hosts(config: Config) -> HostConfig:
    """Which registries may be reached how."""
    return HostConfig(
        mirrors=config.registry_mirrors, insecure=config.insecure_registries, certs_dir=CERTIFICATES,
        proxies=proxies_of(config))


async def open_images(stack: AsyncExitStack, config: Config, stores: Stores, workers: Supervisor, registry: Registry,
                      bus: EventBus) -> ImageParts:
    """Unpack again what a power cut tore, and open. Before anything is mounted.

    ``stack`` closes the connections.
    """
    stack.push_async_callback(stores.snapshots.settler.wait)
    stack.push_async_callback(stores.snapshots.removals.close)
    await restore_torn(stores.db, stores.content, stores.snapshots, workers)
    transport = Transport(registry_hosts(config))
    stack.push_async_callback(transport.close)
    names = ImageNames(stores.db)
    resolver = Images(names, stores.content, stores.snapshots)
    limits = Limits(downloads=config.max_concurrent_downloads, attempts=config.max_download_attempts)
    puller = Puller(stores.content, stores.snapshots, stores.leases, names, workers, transport, limits,
                    TrustCheck(load_policy(config.signature_policy)) if config.signature_policy else None)
    stack.callback(puller.close)
    pusher = Pusher(stores.content, names, transport, config.max_concurrent_uploads)
    sweep = partial(collect, stores.db, stores.content, stores.snapshots)
    users, use = ImageUsers(registry), ImageUse(stores.db)
    await use.load()
    service = ImageService(resolver, names, stores.snapshots, puller, pusher, users, sweep, bus.emit, use.last)
    budget = ImageBudget(config.image_disk_budget, stores.db, resolver, use, users.image_of,
                         lambda image_id: bool(users.users_of_image(image_id)), service.discard)
    bus.observers.append(budget.heard)
    stack.push_async_callback(budget.close)
    slots = UnpackSlots()
    stack.callback(slots.threads.shutdown)
    made = MadeImages(stores.content, stores.leases, names, workers, slots)
    importer = Importer(made, stores.snapshots, apply_changes)
    archives = ImageArchives(
        Saver(stores.content, resolver, names),
        Loader(stores.content, stores.snapshots, stores.leases, names, workers, slots),
        importer, partial(download, transport), sweep, bus.emit)
    flattener = Flattener(resolver, stores.snapshots, importer, workers, sweep, bus.emit)
    routes = [*content_routes.routes(Attestations(resolver, stores.content), Explorer(resolver, stores.snapshots),
                                     flattener),
              *image_routes.routes(service, archives, partial(login, transport))]

    async def fsck(*, repair: bool, deep: bool) -> list[Damage]:
        return await check(stores.layout, stores.db, stores.content, stores.snapshots, repair=repair,
                           workers=workers, deep=deep, leases=stores.leases)

    return ImageParts(resolver, service, [*routes, *fsck_routes.routes(fsck)], transport, puller,
                      pusher.uploads)
