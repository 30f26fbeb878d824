"""Make a container: check what is asked, complete it from the image and the settings, reserve its parts, store it."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field

import msgspec

from barque.config import BUILTIN_RUNTIMES
from barque.engine import clock, names
from barque.engine.containers import (
    health,
    host_warnings,
    image_mounts,
    labelling,
    merge,
    mounts,
    networking,
    publish,
    to_spec,
    validate,
)
from barque.engine.containers.context import Context
from barque.engine.containers.model import Container, MountPoint
from barque.engine.containers.options import (
    ContainerConfig,
    HostConfig,
    NetworkingConfig,
    words,
)
from barque.engine.containers.registry import Live, NoSuchContainer
from barque.engine.containers.security import check_security_options
from barque.engine.containers.volume_use import make_volumes, remove_anonymous
from barque.engine.logging import drivers, plan
from barque.errors import InvalidArgument, NotFound
from barque.failpoints import hit
from barque.oci import platform as platforms
from barque.oci.image import ImageConfig
from barque.oci.platform import Platform

ULIMITS = frozenset(["as", "core", "cpu", "data", "fsize", "locks", "memlock", "msgqueue", "nice", "nofile", "nproc",
                     "rss", "rtprio", "rttime", "sigpending", "stack"])


@dataclass(frozen=True)
class Created:
    id: str
    warnings: list[str] = field(default_factory=list)


async def create(ctx: Context, name: str, config: ContainerConfig, host: HostConfig,
                 endpoints: NetworkingConfig | None, platform: str = "") -> Created:
    """Store a new container; nothing of it runs yet, and nothing is left of it where this raises."""
    validate.check(config, host, endpoints, ctx.host.cpus)
    warnings = check_host(ctx, host)
    if not config.image:
        raise InvalidArgument("invalid reference format")
    image = await ctx.images.resolve(config.image, platforms.parse(platform) if platform else None)
    warnings += [] if platform else _foreign(image.config)
    config = merge.merge_image(config, image.config)
    host = merge.complete_host(host, ctx.config, cgroup_v2=ctx.host.cgroup_v2, thermal_paths=ctx.host.thermal_paths)
    publish.publications(config, host)
    health.check(config)
    drivers.check(host.log_config.type, host.log_config.config or {})
    points = mounts.collect(config, host, _inherited(ctx, host))
    _check_sources(points)
    _check_driver(host.volume_driver, points)
    labels = labelling.choose(ctx, host)
    container_id = names.new_id()
    command = [*words(config.entrypoint), *words(config.cmd)]
    container = Container(
        id=container_id, name="", created=clock.now(), image=config.image, image_id=image.id,
        chain_id=image.chain_id, path=command[0], args=command[1:], host_config=host, mounts=points,
        config=_with_hostname(ctx, config, host, container_id),
        endpoints=networking.asked(ctx, config, host, endpoints), process_label=labels.process,
        mount_label=labels.mount,
        log_path=plan.path(container_id, host.log_config.type, host.log_config.config or {},
                           ctx.state_dir(container_id)))
    with ctx.metrics.timed("container", "create"):
        live = await ctx.tasks.shielded(_make(ctx, container, name.removeprefix("/")), f"create {container_id[:12]}")
    ctx.event(live, "create")
    return Created(container_id, [*warnings, *networking.firewall_warnings(ctx, container)])


async def _make(ctx: Context, container: Container, name: str) -> Live:
    async with AsyncExitStack() as undo:
        if name:
            ctx.registry.reserve(name, container.id)
        else:
            name = ctx.registry.free_name(container.id)
        container.name = name
        undo.callback(ctx.registry.unreserve, name)
        await ctx.snapshots.create_container(None, container.id, container.chain_id)
        undo.push_async_callback(ctx.snapshots.remove_container, container.id)
        hit("container.create.after-snapshot")
        undo.push_async_callback(image_mounts.drop, ctx, container)
        await image_mounts.hold(ctx, container)
        undo.push_async_callback(remove_anonymous, ctx, container)
        with ctx.registry.being_made(container):
            await make_volumes(ctx, container)
            directory = ctx.state_dir(container.id)
            os.makedirs(directory, mode=0o710, exist_ok=True)
            undo.callback(shutil.rmtree, directory, ignore_errors=True)
            live = await ctx.registry.add(container)
        undo.pop_all()
    hit("container.create.after-row")
    return live


def check_host(ctx: Context, host: HostConfig) -> list[str]:
    """What depends on this machine and its settings; returns warnings, raises as :func:`validate.check`."""
    if host.runtime not in ("", *BUILTIN_RUNTIMES, *ctx.config.runtimes):
        raise InvalidArgument(f"unknown or invalid runtime name: {host.runtime}")
    to_spec.capability_names(host, ctx.host.capabilities)
    check_security_options(host, ctx.host, selinux=ctx.config.selinux_enabled)
    if host.init or (host.init is None and ctx.config.init):
        ctx.host.init(ctx.config.init_path)
    for limit in host.ulimits or ():
        if limit.name not in ULIMITS:
            raise InvalidArgument(f"invalid ulimit type: {limit.name}")
        if limit.soft > limit.hard >= 0 or (limit.soft < 0 <= limit.hard):
            raise InvalidArgument(f"ulimit soft limit must be less than or equal to hard limit: {limit.soft} > "
                                  f"{limit.hard}")
    for link in host.extra_hosts or ():
        if ":" not in link:
            raise InvalidArgument(f'bad format for add-host: "{link}"')
    for what, wanted, there in (("CPUs", host.cpuset_cpus, ctx.host.cpu_list),
                                ("memory nodes", host.cpuset_mems, ctx.host.memory_nodes)):
        if not validate.numbers(wanted) <= validate.numbers(there):
            raise InvalidArgument(f"Requested {what} are not available - requested {wanted}, available: {there}")
    _check_others(ctx, host)
    return host_warnings.warnings(host, ctx.host)


def _check_others(ctx: Context, host: HostConfig) -> None:
    """The containers that this one refers to; whose network it shares is only asked when it starts, as dockerd does."""
    if host.pid_mode.startswith("container:"):
        _other(ctx, host.pid_mode.partition(":")[2])
    kind, _, ref = host.ipc_mode.partition(":")
    if kind == "container" and _other(ctx, ref).host_config.ipc_mode not in ("shareable", "host"):
        raise InvalidArgument(f"cannot join IPC namespace of container {ref}: non-shareable IPC (hint: use "
                              "IpcMode:shareable for the donor container)")
    for link in host.links or ():
        ref = link.partition(":")[0]
        try:
            _other(ctx, ref)
        except InvalidArgument as error:
            raise InvalidArgument(f"could not get container for {ref}: {error.message}") from None


def _other(ctx: Context, ref: str) -> Container:
    """Not NotFound, which clients take for a missing image."""
    try:
        return ctx.registry.find(ref).container
    except NoSuchContainer as error:
        raise InvalidArgument(error.message) from None


def _foreign(config: ImageConfig) -> list[str]:
    """dockerd's warning about an image of another platform that nobody asked for. Some images do not say theirs."""
    found = Platform(os=config.os, architecture=config.architecture, variant=config.variant)
    if not (found.os and found.architecture) or found.satisfies(platforms.host()):
        return []
    return [f"The requested image's platform ({found}) does not match the detected host platform ({platforms.host()}) "
            "and no specific platform was requested"]


def _inherited(ctx: Context, host: HostConfig) -> Iterable[MountPoint]:
    for item in host.volumes_from or ():
        ref, _, mode = item.partition(":")
        if not ref:
            raise InvalidArgument(f"malformed volumes-from specification: {item}")
        yield from mounts.inherit(_other(ctx, ref).mounts, mode)


def _check_sources(points: Iterable[MountPoint]) -> None:
    for point in points:
        if point.type == "bind" and not point.create_source and not os.path.lexists(point.source):
            raise InvalidArgument('invalid mount config for type "bind": bind source path does not exist: '
                                  + point.source)


def _check_driver(name: str, points: Iterable[MountPoint]) -> None:
    """Another driver than ours matters where a volume is to be made by it."""
    if name not in ("", "local") and any(point.type == "volume" for point in points):
        raise NotFound(f'error looking up volume plugin {name}: plugin "{name}" not found')


def _with_hostname(ctx: Context, config: ContainerConfig, host: HostConfig, container_id: str) -> ContainerConfig:
    name = config.hostname or container_id[:12]
    if host.network_mode == "host" and not config.hostname:
        name = ctx.host.name
    elif host.network_mode.startswith("container:"):
        with contextlib.suppress(NoSuchContainer):
            name = ctx.registry.find(host.network_mode.partition(":")[2]).container.config.hostname
    return msgspec.structs.replace(config, hostname=name)
