"""Reading version 1's counters."""

from __future__ import annotations

import os

from barque.runtime.cgroups.base import exists, pairs, read_or
from barque.runtime.cgroups.stats import (
    UNLIMITED,
    BlkioEntry,
    CpuStats,
    HugetlbStats,
    MemoryStats,
    PidsStats,
    Stats,
)

#: The page counter's maximum in bytes, for any page size: "no limit".
_NO_LIMIT = 0x7FFFFFFFFFFF0000


def collect(paths: dict[str, str]) -> Stats:
    """The counters of the cgroup whose directories are ``paths``; zero where a controller is missing."""
    stats = Stats(cpu=_cpu(paths))
    if memory := paths.get("memory"):
        stats.memory = _memory(memory)
    if pids := paths.get("pids"):
        limit = read_or(pids, "pids.max", "max").strip()
        stats.pids = PidsStats(_number(read_or(pids, "pids.current")), UNLIMITED if limit == "max" else int(limit))
    if blkio := paths.get("blkio"):
        # With the BFQ scheduler the bfq files count, else the throttling layer does, which sees all requests too.
        kind = "bfq" if _entries(read_or(blkio, "blkio.bfq.io_serviced_recursive")) else "throttle"
        stats.blkio_bytes = _entries(read_or(blkio, f"blkio.{kind}.io_service_bytes_recursive"))
        stats.blkio_operations = _entries(read_or(blkio, f"blkio.{kind}.io_serviced_recursive"))
    if hugetlb := paths.get("hugetlb"):
        stats.hugetlb = {size: _hugetlb(hugetlb, size) for size in huge_page_sizes()
                         if exists(hugetlb, f"hugetlb.{size}.usage_in_bytes")}
    return stats


def huge_page_sizes() -> list[str]:
    """The kernel's huge pages as cgroup files name them, such as ``2MB``."""
    try:
        names = os.listdir("/sys/kernel/mm/hugepages")
    except FileNotFoundError:
        return []
    return [_size_name(int(name.removeprefix("hugepages-").removesuffix("kB"))) for name in sorted(names)]


def _size_name(kibibytes: int) -> str:
    for unit, factor in (("GB", 1 << 20), ("MB", 1 << 10)):
        if kibibytes >= factor:
            return f"{kibibytes // factor}{unit}"
    return f"{kibibytes}KB"


def _cpu(paths: dict[str, str]) -> CpuStats:
    cpu = CpuStats()
    if accounting := paths.get("cpuacct"):
        cpu.total = _number(read_or(accounting, "cpuacct.usage"))
        cpu.user = _number(read_or(accounting, "cpuacct.usage_user"))
        cpu.system = _number(read_or(accounting, "cpuacct.usage_sys"))
        cpu.percpu = [int(word) for word in read_or(accounting, "cpuacct.usage_percpu").split()]
    if scheduler := paths.get("cpu"):
        stat = pairs(read_or(scheduler, "cpu.stat"))
        cpu.periods = stat.get("nr_periods", 0)
        cpu.throttled_periods = stat.get("nr_throttled", 0)
        cpu.throttled_time = stat.get("throttled_time", 0)
    return cpu


def _memory(path: str) -> MemoryStats:
    return MemoryStats(
        usage=_number(read_or(path, "memory.usage_in_bytes")),
        max_usage=_number(read_or(path, "memory.max_usage_in_bytes")),
        limit=_limit(read_or(path, "memory.limit_in_bytes")),
        failcnt=_number(read_or(path, "memory.failcnt")),
        swap_usage=_number(read_or(path, "memory.memsw.usage_in_bytes")),
        swap_limit=_limit(read_or(path, "memory.memsw.limit_in_bytes")),
        stat=pairs(read_or(path, "memory.stat")))


def _hugetlb(path: str, size: str) -> HugetlbStats:
    return HugetlbStats(*(_number(read_or(path, f"hugetlb.{size}.{name}"))
                          for name in ("usage_in_bytes", "max_usage_in_bytes", "failcnt")))


def _entries(text: str) -> list[BlkioEntry]:
    """Lines such as ``8:0 Read 4096``; the last one, a total, has no device."""
    lines = (line.replace(":", " ").split() for line in text.splitlines())
    return [BlkioEntry(int(words[0]), int(words[1]), words[2], int(words[3])) for words in lines if len(words) == 4]


def _number(text: str) -> int:
    return int(text.strip() or 0)


def _limit(text: str) -> int:
    value = int(text.strip() or _NO_LIMIT)
    return UNLIMITED if value >= _NO_LIMIT else value
