"""What a container asks for and this host cannot give, in dockerd's words: it runs without that. Pure."""

from __future__ import annotations

from barque.engine.containers.options import HostConfig
from barque.engine.host import Host

_LACKS = "Your kernel does not support {} or the cgroup is not mounted. {}."


def warnings(asked: HostConfig, host: Host) -> list[str]:
    found = []
    if asked.privileged and len(host.capabilities) < host.last_capability + 1:
        found.append("This daemon lacks some capabilities itself; the privileged container gets those that it has.")
    found += [_LACKS.format(what, then) for controller, given, what, then in (
        ("memory", asked.memory, "memory limit capabilities", "Limitation discarded"),
        ("memory", asked.memory_reservation, "memory soft limit capabilities", "Limitation discarded"),
        ("pids", (asked.pids_limit or 0) > 0, "PIDs limit capabilities", "PIDs limit discarded"),
        ("cpu", asked.cpu_shares, "CPU shares", "Shares discarded"),
        ("cpu", asked.nano_cpus or asked.cpu_period or asked.cpu_quota, "CPU CFS scheduler",
         "CPU period/quota discarded"),
        ("cpuset", asked.cpuset_cpus or asked.cpuset_mems, "cpuset", "Cpuset discarded"),
        ("blkio", asked.blkio_weight, "Block I/O weight", "Weight discarded"),
    ) if given and controller not in host.controllers]
    if host.cgroup_v2 and asked.memory_swappiness not in (None, -1):
        found.append(_LACKS.format("memory swappiness capabilities", "Memory swappiness discarded"))
    if host.cgroup_v2 and asked.oom_kill_disable:
        found.append("Your kernel does not support OomKillDisable. OomKillDisable discarded.")
    elif asked.oom_kill_disable and not asked.memory:
        found.append("OOM killer is disabled for the container, but no memory limit is set, this can result in the "
                     "system running out of resources.")
    if asked.memory > 0 and "memory" in host.controllers and not host.swap_limit:
        found.append(_LACKS.format("swap limit capabilities", "Memory limited without swap"))
    if asked.network_mode == "host" and (asked.port_bindings or asked.publish_all_ports):
        found.append("Published ports are discarded when using host network mode")
    return found
