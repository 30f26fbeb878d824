"""Control groups: which manager a host needs, and how one is found again from a saved state."""

from __future__ import annotations

from functools import cache
from typing import Literal

from barque.runtime.cgroups.base import UNIFIED, CgroupManager, InvalidResources, Layout, host_layout
from barque.runtime.cgroups.systemd import SystemdManager
from barque.runtime.cgroups.v1 import V1Manager
from barque.runtime.cgroups.v2 import V2Manager

Driver = Literal["cgroupfs", "systemd"]

__all__ = ["UNIFIED", "CgroupManager", "Driver", "InvalidResources", "Layout", "host_layout", "known_layout", "load",
           "manager"]

#: The host's layout as it was at the first call, for a process that stays in its own cgroup: hierarchies do not come
#: and go while containers are made.
known_layout = cache(host_layout)


def manager(cgroups_path: str, *, driver: Driver = "cgroupfs", layout: Layout | None = None) -> CgroupManager:
    """The manager of the cgroup that ``cgroups_path`` names; nothing is made yet.

    ``/docker/<id>`` counts from the mount points, other paths from the caller's own cgroup; the systemd driver takes
    ``slice:prefix:name``, and its :meth:`CgroupManager.create` fails where systemd is not init. Raises
    :class:`InvalidResources` for a path that names no cgroup.
    """
    layout = layout or host_layout()
    if driver == "systemd":
        return SystemdManager.at(cgroups_path, layout)
    if layout.version == "v2" and layout.v2 is not None:
        return V2Manager.at(cgroups_path, layout.v2)
    return V1Manager.at(cgroups_path, layout)


def load(paths: dict[str, str]) -> CgroupManager:
    """The manager of a cgroup that exists, from what its :meth:`CgroupManager.paths` said."""
    if set(paths) == {UNIFIED}:
        return V2Manager(paths[UNIFIED])
    return V1Manager(paths)
