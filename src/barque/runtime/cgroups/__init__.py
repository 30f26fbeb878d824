"""Control groups: which manager a host needs, and how one is found again from a saved state.

A manager's module is imported with the first one that is made: a host needs one of them, and each takes a command 1 ms.
"""

from __future__ import annotations

import errno
import os
from functools import cache
from typing import Literal

from barque.runtime.cgroups.absent import AbsentManager
from barque.runtime.cgroups.base import UNIFIED, CgroupManager, InvalidResources, Layout, host_layout

Driver = Literal["cgroupfs", "systemd"]

__all__ = ["UNIFIED", "CgroupManager", "Driver", "InvalidResources", "Layout", "beneath", "host_layout",
           "known_layout", "load", "manager", "permitted", "remove_if_empty"]

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
        from barque.runtime.cgroups.systemd import SystemdManager

        return SystemdManager.at(cgroups_path, layout)
    if layout.version == "v2" and layout.v2 is not None:
        from barque.runtime.cgroups.v2 import V2Manager

        return V2Manager.at(cgroups_path, layout.v2)
    from barque.runtime.cgroups.v1 import V1Manager

    return V1Manager.at(cgroups_path, layout)


def remove_if_empty(cgroups_path: str) -> None:
    """rmdir the cgroup in each hierarchy where nothing is in it; the rest stays."""
    for directory in set(manager(cgroups_path).paths().values()):
        try:
            os.rmdir(directory)
        except OSError:
            continue


def permitted(cgroup: CgroupManager) -> CgroupManager:
    """``cgroup``, made, or none at all where the caller may not make it."""
    try:
        cgroup.create()
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise
        cgroup.destroy()
        return AbsentManager()
    return cgroup


def beneath(paths: dict[str, str], texts: list[str]) -> dict[str, str]:
    """``paths`` with what ``texts`` say replaced by cgroups below: ``PATH``, or ``CONTROLLER,...:PATH`` for version 1.

    As runc's ``exec --cgroup`` has it. Raises :class:`InvalidResources`.
    """
    result = dict(paths)
    for text in texts:
        names, colon, below = text.partition(":")
        if not colon:
            names, below = "", text
        if set(paths) == {UNIFIED}:
            if names:
                raise InvalidResources(f"bad cgroup {text!r}: version 2 has no controllers to choose from")
            chosen = [UNIFIED]
        else:
            chosen = names.split(",") if names else list(paths)
        for name in chosen:
            if name not in paths:
                raise InvalidResources(f"unknown controller {name} in {text!r}")
            result[name] = os.path.normpath(paths[name] + os.path.normpath("/" + below))
            if not os.path.isdir(result[name]):
                raise InvalidResources(f"{result[name]} is not a cgroup")
    return result


def load(paths: dict[str, str]) -> CgroupManager:
    """The manager of a cgroup that exists, from what its :meth:`CgroupManager.paths` said."""
    if not paths:
        return AbsentManager()
    if set(paths) == {UNIFIED}:
        from barque.runtime.cgroups.v2 import V2Manager

        return V2Manager(paths[UNIFIED])
    from barque.runtime.cgroups.v1 import V1Manager

    return V1Manager(paths)
