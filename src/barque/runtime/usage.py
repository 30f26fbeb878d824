"""Statistics in the form of ``runc events``, which engines and monitoring programs read."""

from __future__ import annotations

from typing import Any

from barque.runtime.cgroups.stats import UNLIMITED, BlkioEntry, CpuStats, MemoryStats, Stats

#: What version 1 itself shows where there is no limit: the greatest number of whole pages.
_NO_LIMIT_V1 = 0x7FFFFFFFFFFFF000


def document(stats: Stats) -> dict[str, Any]:
    return {
        "cpu": _cpu(stats.cpu), "memory": _memory(stats.memory),
        "pids": {"current": stats.pids.current} | ({} if stats.pids.limit == UNLIMITED else
                                                   {"limit": stats.pids.limit}),
        "blkio": _without_empty({"ioServiceBytesRecursive": _entries(stats.blkio_bytes),
                                 "ioServicedRecursive": _entries(stats.blkio_operations)}),
        "hugetlb": {size: {"usage": item.usage, "max": item.max_usage, "failcnt": item.failcnt}
                    for size, item in stats.hugetlb.items()},
    }


def _cpu(cpu: CpuStats) -> dict[str, Any]:
    usage: dict[str, Any] = {"total": cpu.total, "kernel": cpu.system, "user": cpu.user}
    if cpu.percpu:
        usage["percpu"] = cpu.percpu
    return {"usage": usage, "throttling": _without_empty({
        "periods": cpu.periods, "throttledPeriods": cpu.throttled_periods, "throttledTime": cpu.throttled_time})}


def _memory(memory: MemoryStats) -> dict[str, Any]:
    return {
        # Version 2 counts what it caches as "file".
        "cache": memory.stat.get("cache", memory.stat.get("file", 0)),
        "usage": {"limit": _limit(memory.limit), "usage": memory.usage, "max": memory.max_usage,
                  "failcnt": memory.failcnt},
        "swap": {"limit": _limit(memory.swap_limit), "usage": memory.swap_usage},
        "raw": memory.stat,
    }


def _limit(value: int) -> int:
    return min(value, _NO_LIMIT_V1)


def _entries(items: list[BlkioEntry]) -> list[dict[str, Any]]:
    return [{"major": item.major, "minor": item.minor, "op": item.op, "value": item.value} for item in items]


def _without_empty(tree: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in tree.items() if value}
