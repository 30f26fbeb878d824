"""The cgroup of a running container."""

from __future__ import annotations

from barque.engine.containers.context import Context
from barque.engine.containers.registry import Live
from barque.engine.containers.surroundings import cgroups_path
from barque.runtime import cgroups
from barque.runtime.cgroups.base import CgroupManager


def container_cgroup(ctx: Context, live: Live) -> CgroupManager:
    """Its calls block for some 0.1 ms each; those that wait (freeze) belong into a thread."""
    driver = "systemd" if ctx.config.cgroup_driver == "systemd" else "cgroupfs"
    return cgroups.manager(cgroups_path(ctx, live.container), driver=driver)
