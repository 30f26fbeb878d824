"""SELinux labels of containers (``--selinux-enabled``): which one gets which, and the files that have to have them."""

from __future__ import annotations

import asyncio

from barque.engine import selinux
from barque.engine.containers.context import Context
from barque.engine.containers.model import Container, MountPoint
from barque.engine.containers.options import HostConfig
from barque.engine.containers.security import split
from barque.engine.containers.to_spec import Files
from barque.errors import InvalidArgument

_NONE = selinux.Labels("", "")


def choose(ctx: Context, host: HostConfig) -> selinux.Labels:
    """The labels of a new container; none where the engine gives none."""
    if not ctx.config.selinux_enabled:
        return _NONE
    taken = {selinux.level_of(holder.process_label) for holder in ctx.registry.holders()}
    return selinux.choose(selinux.of_host(), _options(ctx, host), taken)


def _options(ctx: Context, host: HostConfig) -> list[str]:
    """What was asked for, or what goes with the namespaces that are shared."""
    asked = [value for name, value in map(split, host.security_opt or ()) if name == "label"]
    if asked:
        return asked
    if host.privileged or "host" in (host.ipc_mode, host.pid_mode):
        return ["disable"]
    others = {ctx.registry.find(ref).container.process_label for kind, _, ref in (
        host.ipc_mode.partition(":"), host.pid_mode.partition(":")) if kind == "container"}
    if len(others) > 1:
        raise InvalidArgument("--ipc and --pid containers SELinux labels aren't the same")
    return [option for label in others for option in (selinux.same_as(label) if label else ["disable"])]


async def relabel(container: Container, files: Files) -> None:
    """Before the start: the container's own files under /etc, and what is mounted with ``z`` or ``Z``."""
    if not container.mount_label:
        return
    of_another = container.network_mode.startswith("container:")
    wanted = [(path, of_another) for path in (files.hostname, files.hosts, files.resolv_conf)]
    wanted += [(point.source, shared) for point in container.mounts if (shared := _shared(point)) is not None]
    for path, shared in wanted:
        await asyncio.to_thread(selinux.relabel, path, container.mount_label, shared=shared)


def _shared(point: MountPoint) -> bool | None:
    """Whether all containers are to see the source, or this one alone; None where its label is nobody's concern."""
    modes = point.mode.split(",")
    if point.type not in ("bind", "volume") or not {"z", "Z"} & set(modes):
        return None
    return "z" in modes
