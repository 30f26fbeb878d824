"""Change limits, the restart policy and the published ports of a container, running or not."""

from __future__ import annotations

import asyncio
import errno
import os
from typing import Any

import msgspec

from barque.engine.containers import machine, networking, to_spec, validate
from barque.engine.containers.cgroup import container_cgroup
from barque.engine.containers.context import Context
from barque.engine.containers.options import HostConfig
from barque.engine.containers.registry import Live
from barque.errors import Conflict, Internal, InvalidArgument
from barque.oci.runtime_spec import Resources

#: What an update may change; the rest of a container stays what it was made as.
FIELDS = frozenset(["cpu_shares", "memory", "blkio_weight", "cpu_period", "cpu_quota", "cpu_realtime_period",
                    "cpu_realtime_runtime", "cpuset_cpus", "cpuset_mems", "memory_reservation", "memory_swap",
"nano_cpus", "pids_limit", "restart_policy"])
#: And its published ports: what to add (as PortBindings), which host ports to take away.
PORTS = frozenset(["publish_add", "publish_remove"])


async def update(ctx: Context, ref: str, changes: dict[str, Any]) -> list[str]:
    """Apply ``changes`` (fields of HostConfig that are set, and PORTS); returns warnings. All or nothing."""
    live = ctx.registry.find(ref)
    unknown = sorted(set(changes) - FIELDS - PORTS)
    if unknown:
        raise InvalidArgument(f"cannot update {', '.join(unknown)} of a container")
    return await ctx.tasks.shielded(_update(ctx, live.id, changes), f"update {live.id[:12]}")


async def _update(ctx: Context, ref: str, changes: dict[str, Any]) -> list[str]:
    live = ctx.registry.find(ref)
    warnings: list[str] = []
    async with live.lock:
        if live.facts.status in (machine.Status.REMOVING, machine.Status.DEAD):
            raise Conflict(f"Container is marked for removal and cannot be \"update\": {live.id}")
        before = live.container.host_config
        after = _changed(before, {key: value for key, value in changes.items() if key in FIELDS})
        validate.check_host(after, ctx.host.cpus)
        if live.facts.alive:
            limits = msgspec.structs.replace(to_spec.resources(after), devices=[], block_io=None)
            warnings = await asyncio.to_thread(_limit, live, limits)
        if PORTS & set(changes):
            after = await networking.republish(ctx, live, after, changes.get("publish_add") or {},
                                               changes.get("publish_remove") or [])
        live.container.host_config = after
        await ctx.registry.save(live)
    ctx.event(live, "update")
    return warnings


def _limit(live: Live, limits: Resources) -> list[str]:
    cgroup = container_cgroup(live)
    try:
        return cgroup.apply(limits)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENODEV) and not all(map(os.path.exists, cgroup.paths().values())):
            return []  # it has ended, and the engine has yet to hear of it: the limits are for its next start
        raise Internal(f"Cannot update container {live.id}: {error.strerror} ({error.filename})") from None


def _changed(host: HostConfig, changes: dict[str, Any]) -> HostConfig:
    """``host`` with ``changes``; the two ways to limit processor time exclude each other, as docker has it."""
    if changes.get("nano_cpus") and (host.cpu_period or host.cpu_quota):
        raise Conflict("Conflicting options: Nano CPUs cannot be updated as CPU Period or Quota has already been set")
    if (changes.get("cpu_period") or changes.get("cpu_quota")) and host.nano_cpus:
        raise Conflict("Conflicting options: CPU Period and Quota cannot be updated as NanoCPUs has already been set")
    policy = changes.get("restart_policy")
    if host.auto_remove and policy is not None and policy.name not in ("", "no"):
        raise InvalidArgument("Restart policy cannot be updated because AutoRemove is enabled for the container")
    memory = changes.get("memory", 0)
    if memory and "memory_swap" not in changes and 0 < host.memory_swap < memory:
        raise Conflict("Memory limit should be smaller than already set memoryswap limit, update the memoryswap at the "
                       "same time")
    return msgspec.structs.replace(host, **changes)
