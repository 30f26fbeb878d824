"""What a cgroup has used, in one shape for both versions. Times in nanoseconds, sizes in bytes."""

from __future__ import annotations

import msgspec

#: Where the kernel says "no limit" (version 1 shows the page-aligned maximum instead; that is translated).
UNLIMITED = (1 << 64) - 1


class CpuStats(msgspec.Struct):
    """``percpu`` is empty on version 2, which does not count by processor."""

    total: int = 0
    user: int = 0
    system: int = 0
    percpu: list[int] = msgspec.field(default_factory=list)
    periods: int = 0
    throttled_periods: int = 0
    throttled_time: int = 0


class MemoryStats(msgspec.Struct):
    """``swap_usage`` counts memory and swap together on version 1, swap alone on version 2; ``stat`` is memory.stat."""

    usage: int = 0
    max_usage: int = 0
    limit: int = UNLIMITED
    failcnt: int = 0
    swap_usage: int = 0
    swap_limit: int = UNLIMITED
    stat: dict[str, int] = msgspec.field(default_factory=dict)


class PidsStats(msgspec.Struct):
    current: int = 0
    limit: int = UNLIMITED


class BlkioEntry(msgspec.Struct):
    """``op`` is Read, Write, Sync, Async, Discard or Total."""

    major: int
    minor: int
    op: str
    value: int


class HugetlbStats(msgspec.Struct):
    usage: int = 0
    max_usage: int = 0
    failcnt: int = 0


class Stats(msgspec.Struct):
    cpu: CpuStats = msgspec.field(default_factory=CpuStats)
    memory: MemoryStats = msgspec.field(default_factory=MemoryStats)
    pids: PidsStats = msgspec.field(default_factory=PidsStats)
    blkio_bytes: list[BlkioEntry] = msgspec.field(default_factory=list)
    blkio_operations: list[BlkioEntry] = msgspec.field(default_factory=list)
    hugetlb: dict[str, HugetlbStats] = msgspec.field(default_factory=dict)
