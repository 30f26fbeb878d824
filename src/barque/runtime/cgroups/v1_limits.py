"""Writing version 1's limits. A group of files per function; each returns warnings."""

from __future__ import annotations

from barque.oci.runtime_spec import CPU, BlockIO, Memory, Resources
from barque.runtime.cgroups import limits
from barque.runtime.cgroups.base import InvalidResources, exists, read, read_or, write
from barque.runtime.cgroups.device_rules import apply_v1

_EBUSY, _EINVAL = 16, 22


def apply(paths: dict[str, str], resources: Resources) -> list[str]:
    """Write ``resources`` to the cgroup whose directories are ``paths`` (by controller); returns warnings."""
    limits.check(resources)
    if resources.unified:
        raise InvalidResources("cannot use unified resources with cgroup v1")
    warnings: list[str] = []
    if resources.devices:
        if "devices" in paths:
            apply_v1(paths["devices"], resources.devices)
        else:
            warnings.append(limits.NO_DEVICES)
    if resources.memory is not None:
        warnings += _memory(paths.get("memory"), resources.memory)
    if resources.cpu is not None:
        warnings += _cpu(paths.get("cpu"), resources.cpu) + _cpuset(paths.get("cpuset"), resources.cpu)
    if resources.block_io is not None:
        warnings += _blkio(paths.get("blkio"), resources.block_io)
    if resources.pids is not None and resources.pids.limit is not None:
        if "pids" in paths:
            write(paths["pids"], "pids.max", limits.pids(resources.pids.limit))
        else:
            warnings.append(limits.NO_PIDS)
    warnings += _hugetlb(paths.get("hugetlb"), resources)
    _network(paths, resources)
    _rdma(paths, resources)
    return warnings


def _memory(path: str | None, memory: Memory) -> list[str]:
    if path is None:
        return [limits.NO_MEMORY]
    warnings = _memory_and_swap(path, memory.limit or 0, memory.swap or 0)
    if memory.reservation:
        write(path, "memory.soft_limit_in_bytes", memory.reservation)
    if memory.kernel:
        # Charged since Linux 4.5, not limited on its own since 5.16: the file takes no value any more.
        warnings.append(limits.NO_KERNEL_MEMORY)
    if memory.kernel_tcp:
        write(path, "memory.kmem.tcp.limit_in_bytes", memory.kernel_tcp)
    if memory.disable_oom_killer is not None and exists(path, "memory.oom_control"):
        write(path, "memory.oom_control", int(memory.disable_oom_killer))
    if memory.swappiness is not None:
        if exists(path, "memory.swappiness"):
            write(path, "memory.swappiness", memory.swappiness)
        else:
            warnings.append(limits.NO_SWAPPINESS)
    return warnings


def _memory_and_swap(path: str, limit: int, swap: int) -> list[str]:
    """Memory alone may never be above memory plus swap, so the order depends on which way the limits move."""
    has_swap = exists(path, "memory.memsw.limit_in_bytes")
    if limit == -1 and swap == 0 and has_swap:
        swap = -1
    warnings = []
    if swap and not has_swap:
        swap = 0
        if limit > 0:
            warnings.append(limits.NO_SWAP_LIMIT)
    first, second = ("memory.limit_in_bytes", limit), ("memory.memsw.limit_in_bytes", swap)
    if limit and swap and (swap == -1 or swap > int(read(path, "memory.memsw.limit_in_bytes"))):
        first, second = second, first
    for name, value in (first, second):
        if value:
            _write_memory(path, name, value)
    return warnings


def _write_memory(path: str, name: str, value: int) -> None:
    try:
        write(path, name, value)
    except OSError as error:
        if error.errno == _EBUSY:
            usage, peak = (read_or(path, f"memory.{kind}_in_bytes").strip() for kind in ("usage", "max_usage"))
            raise InvalidResources(f"unable to set memory limit to {value} (current usage: {usage}, "
                                   f"peak usage: {peak})") from None
        raise


def _cpu(path: str | None, cpu: CPU) -> list[str]:
    wants_quota = cpu.quota or cpu.period or cpu.burst
    if path is None:
        return ([limits.NO_SHARES] if cpu.shares else []) + ([limits.NO_QUOTA] if wants_quota else [])
    if cpu.idle is not None:
        write(path, "cpu.idle", cpu.idle)
    if cpu.shares:
        write(path, "cpu.shares", cpu.shares)
    if wants_quota and not exists(path, "cpu.cfs_quota_us"):
        return [limits.NO_QUOTA]
    warnings = _bandwidth(path, cpu)
    for name, value in (("cpu.rt_period_us", cpu.realtime_period), ("cpu.rt_runtime_us", cpu.realtime_runtime)):
        if value:
            write(path, name, value)
    return warnings


def _bandwidth(path: str, cpu: CPU) -> list[str]:
    """The kernel refuses burst > quota and a rate above the parent's, also on the way from old to new values."""
    has_burst = exists(path, "cpu.cfs_burst_us")
    if cpu.burst is not None and has_burst:
        write(path, "cpu.cfs_burst_us", 0)
    period_first = True
    if cpu.period:
        try:
            write(path, "cpu.cfs_period_us", cpu.period)
        except OSError as error:
            if error.errno != _EINVAL or not cpu.quota:
                raise
            period_first = False
    if cpu.quota:
        write(path, "cpu.cfs_quota_us", cpu.quota)
    if cpu.period and not period_first:
        write(path, "cpu.cfs_period_us", cpu.period)
    if cpu.burst and has_burst:
        write(path, "cpu.cfs_burst_us", cpu.burst)
    return [limits.NO_BURST] if cpu.burst and not has_burst else []


def _cpuset(path: str | None, cpu: CPU) -> list[str]:
    if not cpu.cpus and not cpu.mems:
        return []
    if path is None:
        return [limits.NO_CPUSET]
    if cpu.cpus:
        write(path, "cpuset.cpus", cpu.cpus)
    if cpu.mems:
        write(path, "cpuset.mems", cpu.mems)
    return []


def _blkio(path: str | None, block: BlockIO) -> list[str]:
    if path is None:
        return [limits.NO_BLKIO_WEIGHT] if block.weight or block.weight_device else (
            [limits.NO_THROTTLE] if any(devices for _, devices in limits.throttles(block)) else [])
    warnings = []
    # CFQ's files went away with Linux 5.0; BFQ has its own.
    prefix = next((prefix for prefix in ("blkio.", "blkio.bfq.") if exists(path, prefix + "weight")), None)
    if block.weight:
        if prefix is None:
            warnings.append(limits.NO_BLKIO_WEIGHT)
        else:
            write(path, prefix + "weight", block.weight)
    if block.leaf_weight:
        if exists(path, "blkio.leaf_weight"):
            write(path, "blkio.leaf_weight", block.leaf_weight)
        else:
            warnings.append(limits.NO_BLKIO_WEIGHT)
    for device in block.weight_device:
        if prefix is None or not exists(path, prefix + "weight_device"):
            warnings.append(limits.NO_WEIGHT_DEVICE)
            break
        write(path, prefix + "weight_device", f"{device.major}:{device.minor} {device.weight or 0}")
    for kind, devices in limits.throttles(block):
        for throttle in devices:
            write(path, f"blkio.throttle.{kind}_device", f"{throttle.major}:{throttle.minor} {throttle.rate}")
    return warnings


def _hugetlb(path: str | None, resources: Resources) -> list[str]:
    warnings = []
    for limit in resources.hugepage_limits:
        if path is None or not exists(path, f"hugetlb.{limit.page_size}.limit_in_bytes"):
            warnings.append(limits.NO_HUGETLB.format(size=limit.page_size))
            continue
        write(path, f"hugetlb.{limit.page_size}.limit_in_bytes", limit.limit)
        if exists(path, f"hugetlb.{limit.page_size}.rsvd.limit_in_bytes"):
            write(path, f"hugetlb.{limit.page_size}.rsvd.limit_in_bytes", limit.limit)
    return warnings


def _network(paths: dict[str, str], resources: Resources) -> None:
    network = resources.network
    if network is None:
        return
    if network.class_id:
        write(_needed(paths, "net_cls"), "net_cls.classid", network.class_id)
    for priority in network.priorities:
        write(_needed(paths, "net_prio"), "net_prio.ifpriomap", f"{priority.name} {priority.priority}")


def _rdma(paths: dict[str, str], resources: Resources) -> None:
    for device, rdma in resources.rdma.items():
        write(_needed(paths, "rdma"), "rdma.max", rdma_line(device, rdma.hca_handles, rdma.hca_objects))


def rdma_line(device: str, handles: int | None, objects: int | None) -> str:
    parts = [f"{name}={'max' if value is None else value}"
             for name, value in (("hca_handle", handles), ("hca_object", objects))]
    return " ".join([device, *parts])


def _needed(paths: dict[str, str], controller: str) -> str:
    if controller not in paths:
        raise InvalidResources(f"this host has no {controller} cgroup")
    return paths[controller]
