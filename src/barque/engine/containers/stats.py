"""What a container uses now, in the shape of docker's stats."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from typing import Any

from barque.engine import clock
from barque.engine.containers.cgroup import container_cgroup
from barque.engine.containers.context import Context
from barque.engine.containers.registry import Live
from barque.runtime.cgroups.stats import UNLIMITED, BlkioEntry, MemoryStats, Stats

PERIOD = 1.0


async def stream(ctx: Context, live: Live, *, one_shot: bool, once: bool) -> AsyncIterator[dict[str, Any]]:
    """One sample a second with the one before as ``precpu_stats``; ``once``: one, ``one_shot``: without waiting for
    two.
    """
    before = empty(live)
    if not one_shot and live.facts.alive:
        before = await sample(ctx, live, before)
        await asyncio.sleep(PERIOD)
    while True:
        now = await sample(ctx, live, before) if live.facts.alive else empty(live)
        yield now
        if once or live.removed:
            return
        before = now
        await asyncio.sleep(PERIOD)


def empty(live: Live) -> dict[str, Any]:
    """What docker says about a container that does not run."""
    cpu = {"cpu_usage": {"total_usage": 0, "usage_in_kernelmode": 0, "usage_in_usermode": 0},
           "throttling_data": {"periods": 0, "throttled_periods": 0, "throttled_time": 0}}
    return {"name": live.container.slashed, "id": live.id, "read": clock.ZERO, "preread": clock.ZERO, "num_procs": 0,
            "pids_stats": {}, "blkio_stats": {}, "storage_stats": {}, "cpu_stats": cpu, "precpu_stats": cpu,
            "memory_stats": {}}


async def sample(ctx: Context, live: Live, before: dict[str, Any]) -> dict[str, Any]:
    try:
        stats = await asyncio.to_thread(container_cgroup(live).stats)
    except OSError:
        return empty(live)  # it has just ended
    return render(live, stats, before, ctx.host.cpus) | {"networks": await asyncio.to_thread(interfaces,
                                                                                             live.facts.pid)}


def render(live: Live, stats: Stats, before: dict[str, Any], cpus: int) -> dict[str, Any]:
    """Docker's shape; what ``before`` said of the processor becomes ``precpu_stats``."""
    usage: dict[str, Any] = {"total_usage": stats.cpu.total, "usage_in_kernelmode": stats.cpu.system,
                             "usage_in_usermode": stats.cpu.user}
    if stats.cpu.percpu:
        usage["percpu_usage"] = stats.cpu.percpu
    cpu = {"cpu_usage": usage, "system_cpu_usage": system_cpu(), "online_cpus": cpus,
           "throttling_data": {"periods": stats.cpu.periods, "throttled_periods": stats.cpu.throttled_periods,
                               "throttled_time": stats.cpu.throttled_time}}
    pids: dict[str, int] = {"current": stats.pids.current}
    if stats.pids.limit != UNLIMITED:
        pids["limit"] = stats.pids.limit
    return {"name": live.container.slashed, "id": live.id, "read": clock.now(), "preread": before["read"],
            "num_procs": 0,
            "pids_stats": pids, "blkio_stats": _block(stats), "storage_stats": {}, "cpu_stats": cpu,
            "precpu_stats": before["cpu_stats"], "memory_stats": _memory(stats.memory)}


def _memory(memory: MemoryStats) -> dict[str, Any]:
    """Without a limit of its own the container has all of the machine's memory."""
    limit = memory.limit if memory.limit != UNLIMITED else os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    result: dict[str, Any] = {"usage": memory.usage, "stats": memory.stat, "limit": limit}
    if memory.max_usage:
        result["max_usage"] = memory.max_usage
    if memory.failcnt:
        result["failcnt"] = memory.failcnt
    return result


def _block(stats: Stats) -> dict[str, Any]:
    def entries(items: list[BlkioEntry]) -> list[dict[str, Any]]:
        return [{"major": item.major, "minor": item.minor, "op": item.op, "value": item.value} for item in items]

    return {"io_service_bytes_recursive": entries(stats.blkio_bytes),
            "io_serviced_recursive": entries(stats.blkio_operations),
            "io_queue_recursive": None, "io_service_time_recursive": None, "io_wait_time_recursive": None,
            "io_merged_recursive": None, "io_time_recursive": None, "sectors_recursive": None}


def interfaces(pid: int) -> dict[str, dict[str, int]]:
    """Counters of the links in the network namespace of ``pid`` (proc_pid_net(5)); empty when it has gone."""
    result: dict[str, dict[str, int]] = {}
    try:
        with open(f"/proc/{pid}/net/dev", encoding="ascii") as file:
            lines = file.read().splitlines()[2:]
    except OSError:
        return result
    for line in lines:
        name, _, rest = line.partition(":")
        fields = [int(part) for part in rest.split()]
        if name.strip() != "lo":
            result[name.strip()] = {
                "rx_bytes": fields[0], "rx_packets": fields[1], "rx_errors": fields[2], "rx_dropped": fields[3],
                "tx_bytes": fields[8], "tx_packets": fields[9], "tx_errors": fields[10], "tx_dropped": fields[11]}
    return result


def system_cpu() -> int:
    """Nanoseconds that all processors of the host have spent so far (proc_stat(5), in ticks of 10 ms)."""
    with open("/proc/stat", encoding="ascii") as file:
        fields = file.readline().split()[1:9]
    return sum(map(int, fields)) * 10_000_000
