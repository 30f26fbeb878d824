"""Limits that mean the same on both versions: checks, conversions and the texts of dockerd's warnings."""

from __future__ import annotations

import math

from barque.oci.runtime_spec import BlockIO, Memory, Resources, ThrottleDevice
from barque.runtime.cgroups.base import InvalidResources

NO_SWAP_LIMIT = ("Your kernel does not support swap limit capabilities or the cgroup is not mounted. "
                 "Memory limited without swap.")
NO_MEMORY = "Your kernel does not support memory limit capabilities or the cgroup is not mounted. Limitation discarded."
NO_RESERVATION = ("Your kernel does not support memory soft limit capabilities or the cgroup is not mounted. "
                  "Limitation discarded.")
NO_SWAPPINESS = ("Your kernel does not support memory swappiness capabilities or the cgroup is not mounted. "
                 "Memory swappiness discarded.")
NO_OOM_DISABLE = "Your kernel does not support OomKillDisable. OomKillDisable discarded."
NO_KERNEL_MEMORY = ("Your kernel does not support kernel memory limit capabilities or the cgroup is not mounted. "
                    "Limitation discarded.")
NO_PIDS = "Your kernel does not support PIDs limit capabilities or the cgroup is not mounted. PIDs limit discarded."
NO_SHARES = "Your kernel does not support CPU shares or the cgroup is not mounted. Shares discarded."
NO_QUOTA = ("Your kernel does not support CPU CFS quota or the cgroup is not mounted. Quota and period discarded.")
NO_CPUSET = "Your kernel does not support cpuset or the cgroup is not mounted. Cpuset discarded."
NO_BLKIO_WEIGHT = "Your kernel does not support Block I/O weight or the cgroup is not mounted. Weight discarded."
NO_WEIGHT_DEVICE = ("Your kernel does not support Block I/O weight_device or the cgroup is not mounted. "
                    "Weight-device discarded.")
NO_THROTTLE = "Your kernel does not support Block I/O throttling or the cgroup is not mounted. Limits discarded."
NO_BURST = "Your kernel does not support CPU CFS burst. Burst discarded."
NO_DEVICES = "Your kernel does not support device cgroups or the cgroup is not mounted. Device rules discarded."
NO_HUGETLB = "Your kernel does not support huge page limits of size {size}. Limitation discarded."

_SWAP_BELOW_MEMORY = "Minimum memoryswap limit should be larger than memory limit, see usage."

#: CPU shares that mean anything to the kernel.
_MIN_SHARES, _MAX_SHARES = 2, 262144


def throttles(block: BlockIO) -> list[tuple[str, list[ThrottleDevice]]]:
    """(``read_bps`` and the like, limits) in the order of the spec."""
    return [("read_bps", block.throttle_read_bps_device), ("write_bps", block.throttle_write_bps_device),
            ("read_iops", block.throttle_read_iops_device), ("write_iops", block.throttle_write_iops_device)]


def weight_of_shares(shares: int) -> int:
    """cpu.weight (1-10000) for version 1's cpu.shares (2-262144), 0 for 0.

    The curve that runc uses since 1.3: through (2, 1), (1024, 100), (262144, 10000), so that the default of one is
    the default of the other.
    """
    if shares == 0:
        return 0
    if shares <= _MIN_SHARES:
        return 1
    if shares >= _MAX_SHARES:
        return 10000
    power = math.log2(shares)
    return math.ceil(10 ** ((power * power + 125 * power) / 612 - 7 / 34))


def io_weight_of_blkio(weight: int) -> int:
    """io.weight (1-10000) for a blkio weight (10-1000), as runc converts it; 0 for 0."""
    return 0 if weight == 0 else 1 + (weight - 10) * 9999 // 990


def swap_of_memsw(memory: Memory) -> str | None:
    """memory.swap.max for OCI's memory plus swap; ``None`` leaves it alone. Raises :class:`InvalidResources`."""
    swap, limit = memory.swap, memory.limit
    if limit == -1 and not swap:
        return "max"
    if swap is None or swap == 0:
        return None
    if swap == -1:
        return "max"
    if swap < 0:
        raise InvalidResources(f"invalid memory swap value: {swap}")
    if limit is None or limit <= 0:
        raise InvalidResources("unable to set swap limit without memory limit")
    if swap < limit:
        raise InvalidResources(_SWAP_BELOW_MEMORY)
    return str(swap - limit)


def check(resources: Resources) -> None:
    """Refuse what no kernel takes, before anything is written. Raises :class:`InvalidResources`."""
    memory, cpu, block = resources.memory, resources.cpu, resources.block_io
    if memory is not None:
        limit, swap = memory.limit or 0, memory.swap or 0
        if limit > 0 and 0 < swap < limit:
            raise InvalidResources(_SWAP_BELOW_MEMORY)
        if memory.reservation and limit > 0 and memory.reservation > limit:
            raise InvalidResources("Minimum memory limit can not be less than memory reservation limit, see usage.")
        if memory.swappiness is not None and not 0 <= memory.swappiness <= 100:
            raise InvalidResources(f"invalid memory swappiness value: {memory.swappiness} (valid range is 0-100)")
    if cpu is not None and cpu.idle not in (None, 0, 1):
        raise InvalidResources(f"invalid value for cpu.idle: {cpu.idle} (0 or 1)")
    if block is not None and block.weight and not 10 <= block.weight <= 1000:
        raise InvalidResources(f"invalid block I/O weight {block.weight}: the range is 10 to 1000")


def pids(limit: int) -> str:
    """0 is a limit (config-linux.md#pids): none but the first process, which version 2 counts before it is there."""
    return "max" if limit < 0 else str(max(1, limit))


def unlimited(value: int) -> str:
    """A limit for version 2's files: negative is ``max``."""
    return "max" if value < 0 else str(value)
