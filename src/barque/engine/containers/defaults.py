"""What a container gets without asking: mounts, devices, masked paths, capabilities. The lists are facts of docker's
API.

They equal dockerd's, with the additions that keep known attacks out; tools look for exactly these.
"""

from __future__ import annotations

import os

from barque.oci.runtime_spec import DeviceCgroup, Mount

MASKED = ("/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
          "/proc/sched_debug", "/proc/scsi", "/proc/timer_list", "/proc/timer_stats", "/sys/devices/virtual/powercap",
          "/sys/firmware")
READONLY = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")

PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
SHM_SIZE = 64 << 20

#: Device access that every container has: (type, major, minor); null zero full random urandom tty, ptmx, pts, console.
_DEVICES: tuple[tuple[str, int, int | None], ...] = (
    ("c", 1, 3), ("c", 1, 5), ("c", 1, 7), ("c", 1, 8), ("c", 1, 9), ("c", 5, 0), ("c", 5, 1), ("c", 5, 2),
    ("c", 136, None))


def thermal_paths() -> list[str]:
    """The thermal throttle counters of each processor (they allow a side channel)."""
    base = "/sys/devices/system/cpu"
    try:
        processors = [name for name in os.listdir(base) if name[:3] == "cpu" and name[3:].isdecimal()]
    except OSError:
        return []
    paths = (f"{base}/{name}/thermal_throttle" for name in sorted(processors))
    return [path for path in paths if os.path.isdir(path)]


def device_rules() -> list[DeviceCgroup]:
    """Deny all; mknod of anything (harmless without access); read and write for the standard devices."""
    rules = [DeviceCgroup(allow=False, access="rwm"),
             DeviceCgroup(allow=True, type="c", access="m"), DeviceCgroup(allow=True, type="b", access="m")]
    return rules + [DeviceCgroup(allow=True, type=kind, major=major, minor=minor, access="rwm")
                    for kind, major, minor in _DEVICES]


def mounts(*, privileged: bool, shm_size: int, cgroup_writable: bool) -> list[Mount]:
    """The standard mounts in order."""
    sysfs = ["nosuid", "noexec", "nodev", *(() if privileged else ("ro",))]
    cgroup = ["nosuid", "noexec", "nodev", "relatime", *(() if cgroup_writable else ("ro",))]
    return [
        Mount("/proc", "proc", "proc", ["nosuid", "noexec", "nodev"]),
        Mount("/dev", "tmpfs", "tmpfs", ["nosuid", "strictatime", "mode=755", "size=65536k"]),
        Mount("/dev/pts", "devpts", "devpts",
              ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]),
        Mount("/sys", "sysfs", "sysfs", sysfs),
        Mount("/sys/fs/cgroup", "cgroup", "cgroup", cgroup),
        Mount("/dev/mqueue", "mqueue", "mqueue", ["nosuid", "noexec", "nodev"]),
        Mount("/dev/shm", "tmpfs", "shm", ["nosuid", "noexec", "nodev", "mode=1777", f"size={shm_size}"]),
    ]
