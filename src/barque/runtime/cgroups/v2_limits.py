"""Writing version 2's limits from the OCI's fields, which were made for version 1; each function returns warnings."""

from __future__ import annotations

from barque.oci.runtime_spec import CPU, BlockIO, Memory, Resources
from barque.runtime.cgroups import limits
from barque.runtime.cgroups.base import InvalidResources, exists, read, write
from barque.runtime.cgroups.device_filter import attach
from barque.runtime.cgroups.v1_limits import rdma_line

_EBUSY, _EINVAL = 16, 22


def apply(path: str, resources: Resources) -> list[str]:
    """Write ``resources`` to the cgroup at ``path``; returns warnings. Raises :class:`InvalidResources`."""
    limits.check(resources)
    if resources.network is not None and (resources.network.class_id or resources.network.priorities):
        raise InvalidResources("network classes and priorities need cgroup v1: version 2 has no such controller")
    warnings: list[str] = []
    if resources.devices:
        attach(path, resources.devices)
    if resources.memory is not None:
        warnings += _memory(path, resources.memory)
    if resources.cpu is not None:
        warnings += _cpu(path, resources.cpu) + _cpuset(path, resources.cpu)
    if resources.block_io is not None:
        warnings += _io(path, resources.block_io)
    if resources.pids is not None and resources.pids.limit is not None:
        if exists(path, "pids.max"):
            write(path, "pids.max", limits.pids(resources.pids.limit))
        else:
            warnings.append(limits.NO_PIDS)
    warnings += _hugetlb(path, resources)
    for device, rdma in resources.rdma.items():
        write(path, "rdma.max", rdma_line(device, rdma.hca_handles, rdma.hca_objects))
    # Last, so that an explicit file wins over what was converted.
    _unified(path, resources.unified)
    return warnings


def _memory(path: str, memory: Memory) -> list[str]:
    if not exists(path, "memory.max"):
        return [limits.NO_MEMORY]
    warnings = []
    if memory.check_before_update:
        _check_usage(path, memory)
    swap = limits.swap_of_memsw(memory)
    if swap is not None:
        if exists(path, "memory.swap.max"):
            write(path, "memory.swap.max", swap)
        elif memory.limit and memory.limit > 0 and swap != "max":
            warnings.append(limits.NO_SWAP_LIMIT)
    if memory.limit:
        write(path, "memory.max", limits.unlimited(memory.limit))
    if memory.reservation:
        write(path, "memory.low", limits.unlimited(memory.reservation))
    if memory.kernel or memory.kernel_tcp:
        warnings.append(limits.NO_KERNEL_MEMORY)
    if memory.swappiness is not None:
        warnings.append(limits.NO_SWAPPINESS)
    if memory.disable_oom_killer:
        warnings.append(limits.NO_OOM_DISABLE)
    return warnings


def _check_usage(path: str, memory: Memory) -> None:
    """Version 2 would rather kill than refuse a limit below the usage."""
    usage = int(read(path, "memory.current"))
    if memory.limit and 0 < memory.limit < usage:
        raise InvalidResources(f"rejecting memory limit {memory.limit} <= usage {usage}")


def _cpu(path: str, cpu: CPU) -> list[str]:
    wants_quota = cpu.quota or cpu.period or cpu.burst
    if not exists(path, "cpu.weight"):
        return ([limits.NO_SHARES] if cpu.shares else []) + ([limits.NO_QUOTA] if wants_quota else [])
    if cpu.realtime_period or cpu.realtime_runtime:
        raise InvalidResources("realtime limits need cgroup v1: version 2 has none")
    if cpu.idle is not None:
        write(path, "cpu.idle", cpu.idle)
    # cpu.weight of an idle group cannot be set.
    if cpu.shares and not cpu.idle:
        write(path, "cpu.weight", limits.weight_of_shares(cpu.shares))
    if wants_quota and not exists(path, "cpu.max"):
        return [limits.NO_QUOTA]
    has_burst = exists(path, "cpu.max.burst")
    if cpu.burst is not None and has_burst:
        # The kernel refuses burst > quota, also on the way.
        write(path, "cpu.max.burst", 0)
    if cpu.quota or cpu.period:
        quota, period = read(path, "cpu.max").split()
        quota = quota if not cpu.quota else limits.unlimited(cpu.quota)
        write(path, "cpu.max", f"{quota} {cpu.period or period}")
    if cpu.burst and has_burst:
        write(path, "cpu.max.burst", cpu.burst)
    return [limits.NO_BURST] if cpu.burst and not has_burst else []


def _cpuset(path: str, cpu: CPU) -> list[str]:
    if not cpu.cpus and not cpu.mems:
        return []
    if not exists(path, "cpuset.cpus"):
        return [limits.NO_CPUSET]
    if cpu.cpus:
        write(path, "cpuset.cpus", cpu.cpus)
    if cpu.mems:
        write(path, "cpuset.mems", cpu.mems)
    return []


def _io(path: str, block: BlockIO) -> list[str]:
    throttled = [(kind, device) for kind, devices in limits.throttles(block) for device in devices]
    warnings = []
    if block.weight and not _weight(path, block.weight):
        warnings.append(limits.NO_BLKIO_WEIGHT)
    if block.leaf_weight:
        warnings.append(limits.NO_BLKIO_WEIGHT)
    for device in block.weight_device:
        if not exists(path, "io.bfq.weight"):
            warnings.append(limits.NO_WEIGHT_DEVICE)
            break
        write(path, "io.bfq.weight", f"{device.major}:{device.minor} {device.weight or 0}")
    if throttled and not exists(path, "io.max"):
        return [*warnings, limits.NO_THROTTLE]
    keys = {"read_bps": "rbps", "write_bps": "wbps", "read_iops": "riops", "write_iops": "wiops"}
    for kind, throttle in throttled:
        rate = str(throttle.rate) if throttle.rate else "max"
        write(path, "io.max", f"{throttle.major}:{throttle.minor} {keys[kind]}={rate}")
    return warnings


def _weight(path: str, weight: int) -> bool:
    """BFQ's file has version 1's range, io.weight (of the iocost controller) its own."""
    if exists(path, "io.bfq.weight"):
        write(path, "io.bfq.weight", weight)
    elif exists(path, "io.weight"):
        write(path, "io.weight", limits.io_weight_of_blkio(weight))
    else:
        return False
    return True


def _hugetlb(path: str, resources: Resources) -> list[str]:
    warnings = []
    for limit in resources.hugepage_limits:
        if not exists(path, f"hugetlb.{limit.page_size}.max"):
            warnings.append(limits.NO_HUGETLB.format(size=limit.page_size))
            continue
        write(path, f"hugetlb.{limit.page_size}.max", limit.limit)
        if exists(path, f"hugetlb.{limit.page_size}.rsvd.max"):
            write(path, f"hugetlb.{limit.page_size}.rsvd.max", limit.limit)
    return warnings


def _unified(path: str, values: dict[str, str]) -> None:
    """Files by name, as the document has them; several lines are written one by one."""
    for name, value in values.items():
        if "/" in name or name.startswith((".", "cgroup.")):
            raise InvalidResources(f"unified resource {name!r} must be a file name of a controller")
        if not exists(path, name):
            controller = name.partition(".")[0]
            raise InvalidResources(f"unified resource {name!r} can't be set: controller {controller!r} not available")
        for line in value.splitlines() or [""]:
            write(path, name, line)
