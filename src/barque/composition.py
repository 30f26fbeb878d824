"""What the daemon is made of: opened in order, closed in the reverse one. The second half of the composition root.

It is apart from :mod:`barque.daemon` so that the zygote is running before any of this is imported.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, fields, replace
from functools import partial

from aiohttp import web

from barque.api import app, listeners, metrics
from barque.api.buildkit import door as buildkit
from barque.api.listeners import Listener
from barque.api.routes import archive, attach, checkpoints, containers, execs, lifecycle, networks, system, unsupported
from barque.api.routes import build as build_routes
from barque.api.routes import commit as commit_routes
from barque.api.routes import volumes as volume_routes
from barque.api.server import ApiServer
from barque.composition_builds import committer, open_builds
from barque.composition_images import ImageParts, Stores, open_images
from barque.config import Config
from barque.engine import host as hosts
from barque.engine import selinux
from barque.engine import system as system_model
from barque.engine.containers import defaults, reconcile, shutdown
from barque.engine.containers.cgroup import PARENT as CGROUP_PARENT
from barque.engine.containers.context import Context
from barque.engine.containers.execs import Execs
from barque.engine.containers.model import Container
from barque.engine.containers.networking import Memberships
from barque.engine.containers.registry import Registry
from barque.engine.events import EventBus
from barque.engine.networks import NetworkService
from barque.engine.system import load_id
from barque.engine.volume_copies import VolumeCopies
from barque.engine.volumes import Volumes
from barque.network.model import DEFAULT_POOLS, AddressPool, NetworkSettings, NetworkSpec, Sandbox
from barque.network.stack import Network
from barque.runtime import cgroups
from barque.store.boot import CleanUp, clean_up
from barque.store.content import ContentStore
from barque.store.db import Database, Documents
from barque.store.layout import Layout
from barque.store.leases import Leases
from barque.store.snapshots import Snapshots
from barque.supervise.client import Supervisor
from barque.supervise.forkserver import ZygoteHandle
from barque.sys import caps

log = logging.getLogger("barque.daemon")


def sandboxes(registry: Registry) -> list[tuple[str, Sandbox]]:
    """Every container that has a network now, by name."""
    return [(live.container.name, live.container.sandbox) for live in registry if live.container.sandbox is not None]


class VolumeUsers:
    """Which containers use a volume: the registry knows."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    def users_of(self, name: str) -> Sequence[str]:
        return [container.id for container in self._registry.holders()
                if any(point.type == "volume" and point.name == name for point in container.mounts)]


#: What a reload changes; everything else needs a restart.
RELOADABLE = frozenset({"labels", "debug", "log_level", "live_restore", "shutdown_timeout", "default_runtime",
                        "runtimes", "insecure_registries", "registry_mirrors", "max_concurrent_downloads",
                        "max_concurrent_uploads", "http_proxy",
                        "https_proxy", "no_proxy"})


@dataclass(frozen=True)
class Engine:
    context: Context
    server: ApiServer
    images: ImageParts

    def reload(self, config: Config) -> tuple[list[str], list[str]]:
        """Take over what can change while containers run: the names of what did, and of what needs a restart."""
        before = self.context.config
        changed = sorted(item.name for item in fields(Config)
                         if getattr(config, item.name) != getattr(before, item.name))
        taken = [name for name in changed if name in RELOADABLE]
        self.context.config = replace(before, **{name: getattr(config, name) for name in taken})
        self.images.reload(self.context.config)
        self.context.emit("daemon", "reload", self.context.host.name, {
            name.replace("_", "-"): str(getattr(config, name)) for name in taken})
        return taken, [name for name in changed if name not in RELOADABLE]

    async def shut_down(self) -> None:
        """Take no more requests; stop the containers, unless they are to live on."""
        await self.server.stop_accepting()
        if not self.context.config.live_restore:
            await shutdown.stop_all(self.context, self.context.config.shutdown_timeout)


def api_ports(config: Config, sockets: Sequence[Listener]) -> tuple[int, ...]:
    """TCP ports where whoever comes is let in: not for containers. With client certificates all may try."""
    if config.tls.verify:
        return ()
    return tuple(sorted({listener.sock.getsockname()[1] for listener in sockets
                         if listener.sock.family in (socket.AF_INET, socket.AF_INET6)}))


def network_settings(config: Config, guarded: tuple[int, ...]) -> NetworkSettings:
    pools = tuple(AddressPool(pool.base, pool.size) for pool in config.default_address_pools) or DEFAULT_POOLS
    publish = config.default_bind_ip if config.default_bind_ip not in ("", "0.0.0.0") else None
    return NetworkSettings(exec_root=config.exec_root, bip=config.bip or None, fixed_cidr=config.fixed_cidr or None,
                           mtu=config.mtu, pools=pools, publish_ip=publish, icc=config.icc,
                           obey_input=config.publish_obey_input, api_ports=guarded)


def _swap_limit(layout: cgroups.Layout) -> bool:
    """Whether swap can be limited: always on version 2, on version 1 only where the kernel was told to count it."""
    if layout.version == "v2":
        return True
    return any("memory" in tree.controllers and os.path.exists(f"{tree.mountpoint}/memory.memsw.limit_in_bytes")
               for tree in layout.v1)


def look_around(config: Config) -> hosts.Host:
    """Raises BarqueError where the host lacks what ``config`` has to have."""
    if config.selinux_enabled:
        selinux.check_host()
    layout = cgroups.host_layout()
    _, permitted, _ = caps.get_sets()
    host = hosts.probe(tuple(caps.to_names(permitted & caps.bounding())), tuple(defaults.thermal_paths()),
                       cgroup_v2=layout.version == "v2",
                       controllers=frozenset("blkio" if name == "io" else name for name in layout.controllers),
                       swap_limit=_swap_limit(layout))
    if host.apparmor and host.apparmor_parser is None:
        log.warning("AppArmor is enabled on this host, but there is no apparmor_parser: containers run without a "
                    "profile unless they name one")
    return host


async def open_engine(stack: AsyncExitStack, config: Config, layout: Layout, zygote: ZygoteHandle,
                      environment: Mapping[str, str]) -> Engine:
    """Bring everything up and serve; ``stack`` ends it. Raises BarqueError or OSError where something is in the way."""
    host = look_around(config)
    # The sockets come first: what they say about a second daemon is better than any later error.
    sockets = listeners.open_all(config.hosts, config.group, environment, tls=config.tls.enabled,
                                 verify=config.tls.verify,
                                 allow_insecure_tcp=config.allow_insecure_tcp)
    measured = [listeners.open_metrics(config.metrics_addr)] if config.metrics_addr else []
    for listener in (*sockets, *measured):
        stack.callback(listener.close)
    if config.cgroup_driver == "cgroupfs":
        stack.callback(cgroups.remove_if_empty, CGROUP_PARENT)
    supervisor = await Supervisor.start(config.exec_root, zygote)
    stack.push_async_callback(supervisor.close)
    db = await Database.open(layout.database)
    stack.push_async_callback(db.close)
    leases = Leases(db)
    content = ContentStore(layout, db)
    snapshots = Snapshots(layout, db)
    snapshots.removals.workers = supervisor
    stack.push_async_callback(snapshots.wait_removed)
    removed = await clean_up(layout, db, leases, snapshots)
    if removed != CleanUp(0, 0, 0, 0):
        log.info("dropped what a crash left: %d leases, %d downloads, %d blobs, %d layers", removed.leases,
                 removed.ingests, removed.blobs, removed.snapshots)
    bus = EventBus()
    bus.load(f"{layout.root}/events.json")
    stack.callback(_save_events, bus, f"{layout.root}/events.json")
    registry = Registry(Documents(db, "containers", Container))
    network = await Network.open(network_settings(config, api_ports(config, sockets)))
    stack.push_async_callback(_close_network, network, registry)
    users = VolumeUsers(registry)
    volumes = Volumes(layout, db, supervisor, users, bus.emit)
    await volumes.clean()
    stores = Stores(layout, db, content, snapshots, leases)
    images = await open_images(stack, config, stores, supervisor, registry, bus)
    context = Context(config=config, host=host, registry=registry, images=images.resolver, snapshots=snapshots,
                      volumes=volumes, networks=network, supervisor=supervisor, emit=bus.emit,
                      containers_dir=layout.containers)
    stack.push_async_callback(context.tasks.close)
    service = NetworkService(network, Documents(db, "networks", NetworkSpec), lambda: sandboxes(registry), bus.emit)
    await network.reconcile(await reconcile.adopt_all(context), await service.stored())
    await reconcile.settle(context)
    engine_id = load_id(f"{layout.root}/engine-id")
    if measured:
        await serve_metrics(stack, partial(system_model.metrics, context, engine_id, bus), measured)
    builds = await open_builds(stack, layout, stores, images, context, supervisor)
    others = [*images.routes, *commit_routes.routes(committer(stores, images, context)),
              *build_routes.routes(builds.service, builds.cache),
              *buildkit.routes(builds.service, builds.cache, engine_id, partial(_host_gateway, config, network)),
              *volume_routes.routes(volumes, VolumeCopies(volumes, context.volume_mounts, supervisor)),
              *networks.routes(service, Memberships(context)),
              *system.routes(context, bus, engine_id, images.service,
                             system_model.VolumeUsage(volumes, users), builds.cache)]
    server = await serve(stack, context, others, sockets)
    return Engine(context, server, images)


def _host_gateway(config: Config, network: Network) -> str:
    """What host-gateway stands for; "" where there is no default bridge."""
    bridges = [info.gateway for info in network.networks() if info.name == "bridge"]
    return config.host_gateway_ip or next(iter(bridges), "")


def _save_events(bus: EventBus, path: str) -> None:
    try:
        bus.save(path)
    except OSError as error:
        log.warning("the events are forgotten: %s", error)


async def _close_network(network: Network, registry: Registry) -> None:
    """Links and rules go with the last container; those that run on keep theirs."""
    await network.close(remove=not any(live.facts.alive for live in registry))


async def serve_metrics(stack: AsyncExitStack, text: Callable[[], str], sockets: Sequence[Listener]) -> None:
    server = ApiServer(metrics.build(text))
    stack.push_async_callback(server.close)
    await server.start(sockets, None)


async def serve(stack: AsyncExitStack, context: Context, others: Sequence[web.RouteDef],
                sockets: Sequence[Listener]) -> ApiServer:
    config = context.config
    routes = [*containers.routes(context), *archive.routes(context),
              *checkpoints.routes(context, experimental=config.experimental), *lifecycle.routes(context),
              *attach.routes(context, experimental=config.experimental),
              *execs.routes(Execs(context), experimental=config.experimental), *others, *unsupported.routes()]
    server = ApiServer(app.build(routes, experimental=config.experimental))
    stack.push_async_callback(server.close)
    await server.start(sockets, listeners.tls_context(config.tls) if config.tls.enabled else None)
    return server
