"""Cgroup version 2 (Documentation/admin-guide/cgroup-v2.rst)."""

from __future__ import annotations

import os
import signal as signals

from barque.oci.runtime_spec import Resources
from barque.runtime.cgroups import v2_limits, v2_stats, waiting
from barque.runtime.cgroups.base import (
    UNIFIED,
    Hierarchy,
    exists,
    make,
    open_directory,
    own_cgroup,
    pairs,
    processes,
    read,
    read_or,
    resolve,
    signal_all,
    write,
    write_unless_gone,
)
from barque.runtime.cgroups.stats import Stats
from barque.sys.watch import watch_changes

_FREEZE_TIMEOUT = 10.0
_EBUSY, _EOPNOTSUPP = 16, 95


class V2Manager:
    """Meets :class:`barque.runtime.cgroups.base.CgroupManager`. ``path`` is the cgroup's directory."""

    def __init__(self, path: str) -> None:
        self._path = path

    @classmethod
    def at(cls, cgroups_path: str, tree: Hierarchy) -> V2Manager:
        # Our own cgroup has processes (us), so it cannot pass controllers on: relative paths count from its parent.
        return cls(tree.mountpoint.rstrip("/") + resolve(cgroups_path, os.path.dirname(tree.own)))

    def create(self) -> None:
        make(self._path)
        for parent in self._parents():
            _pass_on_controllers(parent)

    def _parents(self) -> list[str]:
        """The cgroups above, top down, from the mount point on (the first that has cgroup files)."""
        found, path = [], os.path.dirname(self._path)
        while exists(path, "cgroup.controllers"):
            found.append(path)
            path = os.path.dirname(path)
        return found[::-1]

    def apply(self, resources: Resources) -> list[str]:
        return v2_limits.apply(self._path, resources)

    def add(self, pid: int, beside: int | None = None) -> None:
        try:
            write(self._path, "cgroup.procs", pid)
        except OSError as error:
            # The container gave controllers to its own children: no processes are allowed in their parent any more.
            if beside is None or error.errno not in (_EBUSY, _EOPNOTSUPP):
                raise
            write(self._cgroup_of(beside), "cgroup.procs", pid)

    def _cgroup_of(self, pid: int) -> str:
        top = next(iter(self._parents()), os.path.dirname(self._path))
        path = os.path.normpath(top + own_cgroup(pid, ""))
        if not path.startswith(self._path + "/"):
            raise OSError(_EBUSY, f"process {pid} is not in this cgroup either", self._path)
        return path

    def open_for_clone(self) -> int | None:
        return open_directory(self._path)

    def open_for_self(self) -> list[int]:
        return []

    def freeze(self) -> None:
        write(self._path, "cgroup.freeze", 1)
        if not waiting.for_event(self._path, "frozen", 1, _FREEZE_TIMEOUT):
            self.thaw()
            raise TimeoutError(110, "the processes do not freeze", self._path)

    def thaw(self) -> None:
        write(self._path, "cgroup.freeze", 0)

    def frozen(self) -> bool:
        return read_or(self._path, "cgroup.freeze", "0").strip() == "1"

    def kill(self, signal: int = signals.SIGKILL) -> None:
        if signal != signals.SIGKILL:
            return signal_all(self.pids(), signal)
        if exists(self._path, "cgroup.kill"):
            return write_unless_gone(self._path, "cgroup.kill", 1)
        if not exists(self._path, "cgroup.procs"):
            return None
        # Before Linux 5.14. A frozen process dies of SIGKILL without being thawed, and cannot fork meanwhile.
        self.freeze()
        try:
            return signal_all(self.pids(), signal)
        finally:
            self.thaw()

    def pids(self) -> list[int]:
        return processes(self._path)

    def stats(self) -> Stats:
        return v2_stats.collect(self._path)

    def oom_fd(self) -> int | None:
        """An inotify fd on memory.events."""
        if not exists(self._path, "memory.events"):
            return None
        return watch_changes(os.path.join(self._path, "memory.events"))

    def oom_kills(self) -> int:
        """memory.events counts the whole subtree."""
        return pairs(read_or(self._path, "memory.events")).get("oom_kill", 0)

    def destroy(self) -> None:
        waiting.for_event(self._path, "populated", 0, waiting.REMOVE_TIMEOUT)
        waiting.remove(self._path, waiting.REMOVE_TIMEOUT)

    def paths(self) -> dict[str, str]:
        return {UNIFIED: self._path}


def _pass_on_controllers(parent: str) -> None:
    """Enable in ``parent`` every controller that it has for its children.

    What it refuses is missed, and reported, by the limit that needs it. One write is all or nothing,
    so after a refusal each controller is tried by itself.
    """
    missing = set(read(parent, "cgroup.controllers").split()) - set(read(parent, "cgroup.subtree_control").split())
    if not missing:
        return
    try:
        write(parent, "cgroup.subtree_control", " ".join(f"+{name}" for name in sorted(missing)))
    except OSError:
        for name in sorted(missing):
            try:
                write(parent, "cgroup.subtree_control", f"+{name}")
            except OSError:
                continue
