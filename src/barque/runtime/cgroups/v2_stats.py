"""Reading version 2's counters, in the shape that docker's statistics have (as runc maps them)."""

from __future__ import annotations

import os

from barque.runtime.cgroups.base import pairs, read_or
from barque.runtime.cgroups.stats import (
    UNLIMITED,
    BlkioEntry,
    CpuStats,
    HugetlbStats,
    MemoryStats,
    PidsStats,
    Stats,
)

_IO = {"rbytes": ("Read", True), "wbytes": ("Write", True), "dbytes": ("Discard", True),
       "rios": ("Read", False), "wios": ("Write", False), "dios": ("Discard", False)}


def collect(path: str) -> Stats:
    """The counters of the cgroup at ``path``; zero where a controller is missing."""
    octets, operations = _io(read_or(path, "io.stat"))
    return Stats(cpu=_cpu(pairs(read_or(path, "cpu.stat"))), memory=_memory(path),
                 pids=PidsStats(_number(read_or(path, "pids.current")), _limit(read_or(path, "pids.max"))),
                 blkio_bytes=octets, blkio_operations=operations, hugetlb=_hugetlb(path))


def _cpu(stat: dict[str, int]) -> CpuStats:
    """cpu.stat counts microseconds."""
    return CpuStats(total=stat.get("usage_usec", 0) * 1000, user=stat.get("user_usec", 0) * 1000,
                    system=stat.get("system_usec", 0) * 1000, periods=stat.get("nr_periods", 0),
                    throttled_periods=stat.get("nr_throttled", 0), throttled_time=stat.get("throttled_usec", 0) * 1000)


def _memory(path: str) -> MemoryStats:
    return MemoryStats(
        usage=_number(read_or(path, "memory.current")),
        max_usage=_number(read_or(path, "memory.peak")),
        limit=_limit(read_or(path, "memory.max")),
        failcnt=pairs(read_or(path, "memory.events")).get("max", 0),
        swap_usage=_number(read_or(path, "memory.swap.current")),
        swap_limit=_limit(read_or(path, "memory.swap.max")),
        stat=pairs(read_or(path, "memory.stat")))


def _io(text: str) -> tuple[list[BlkioEntry], list[BlkioEntry]]:
    """(bytes, operations) from lines of ``8:0 rbytes=1 wbytes=2 rios=3 ...``."""
    octets: list[BlkioEntry] = []
    operations: list[BlkioEntry] = []
    for line in text.splitlines():
        device, _, rest = line.partition(" ")
        major, _, minor = device.partition(":")
        for word in rest.split():
            key, _, value = word.partition("=")
            if key in _IO and minor.isdigit():
                op, in_bytes = _IO[key]
                (octets if in_bytes else operations).append(BlkioEntry(int(major), int(minor), op, int(value)))
    return octets, operations


def _hugetlb(path: str) -> dict[str, HugetlbStats]:
    """By page size; the files themselves tell which there are."""
    found = {}
    try:
        names = os.listdir(path)
    except FileNotFoundError:
        return {}
    for name in names:
        if name.startswith("hugetlb.") and name.endswith(".current") and ".rsvd." not in name:
            size = name.removeprefix("hugetlb.").removesuffix(".current")
            found[size] = HugetlbStats(usage=_number(read_or(path, name)),
                                       failcnt=pairs(read_or(path, f"hugetlb.{size}.events")).get("max", 0))
    return found


def _number(text: str) -> int:
    return int(text.strip() or 0)


def _limit(text: str) -> int:
    value = text.strip()
    return UNLIMITED if value in ("", "max") else int(value)
