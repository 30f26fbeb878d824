"""What a container may not see, touch or change by default, as values for the container's OCI document."""

from __future__ import annotations

from barque.oci.runtime_spec import Device, DeviceCgroup

#: Hidden from every container that is not privileged: covered by /dev/null or an empty read-only directory.
MASKED_PATHS = (
    "/proc/asound", "/proc/acpi", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
    "/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug", "/proc/scsi", "/sys/firmware",
    "/sys/devices/virtual/powercap",
)
#: One per processor (``thermal_throttle``): side channels about the neighbours' load.
_THERMAL = "/sys/devices/system/cpu/cpu{number}/thermal_throttle"

READONLY_PATHS = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")

#: Any user may send echo requests, and bind the ports that were once privileged, inside its own network namespace.
DEFAULT_SYSCTLS = {"net.ipv4.ip_unprivileged_port_start": "0", "net.ipv4.ping_group_range": "0 2147483647"}

_NODES = (("/dev/null", 1, 3), ("/dev/zero", 1, 5), ("/dev/full", 1, 7), ("/dev/random", 1, 8),
          ("/dev/urandom", 1, 9), ("/dev/tty", 5, 0))


def masked_paths(cpus: int) -> list[str]:
    """The masked paths on a machine with processors 0..``cpus``-1; the runtime skips those that do not exist."""
    return [*MASKED_PATHS, *(_THERMAL.format(number=number) for number in range(cpus))]


def default_devices() -> list[Device]:
    """The nodes that every container has in /dev."""
    return [Device(path=path, type="c", major=major, minor=minor, file_mode=0o666, uid=0, gid=0)
            for path, major, minor in _NODES]


def default_device_rules() -> list[DeviceCgroup]:
    """Deny all; mknod of anything (useless without access); the default nodes, consoles, ptmx and pts."""
    rules = [DeviceCgroup(allow=False, access="rwm"),
             DeviceCgroup(allow=True, type="c", access="m"), DeviceCgroup(allow=True, type="b", access="m")]
    numbers: list[tuple[int, int | None]] = [(major, minor) for _, major, minor in _NODES]
    numbers += [(5, 1), (5, 2), (136, None)]
    return rules + [DeviceCgroup(allow=True, type="c", major=major, minor=minor, access="rwm")
                    for major, minor in numbers]


def privileged_device_rules() -> list[DeviceCgroup]:
    return [DeviceCgroup(allow=True, access="rwm")]
