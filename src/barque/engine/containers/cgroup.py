"""The cgroup of a running container."""

from __future__ import annotations

from barque.engine.containers import machine
from barque.engine.containers.registry import Live
from barque.runtime import cgroups
from barque.runtime.cgroups.base import CgroupManager

#: Where the cgroups of containers are that ask for no other parent. Engines on one machine share it.
PARENT = "/barque"


def container_cgroup(live: Live) -> CgroupManager:
    """Its calls block for some 0.1 ms each; those that wait (freeze) belong into a thread. Raises NotRunning."""
    if live.monitor is None:
        raise machine.NotRunning(id=live.id)
    return cgroups.load(live.monitor.cgroup)
