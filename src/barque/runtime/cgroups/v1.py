"""Cgroup version 1, alone or beside a version 2 hierarchy without controllers (hybrid).

On a hybrid host the processes also enter a cgroup of the unified hierarchy: it has what version 1 lacks, a kill that no
fork escapes, a freezer that lets SIGKILL through, and an event for "empty".
"""

from __future__ import annotations

import os
import signal as signals
import time

from barque.oci.runtime_spec import Resources
from barque.runtime.cgroups import v1_limits, v1_stats, waiting
from barque.runtime.cgroups.base import (
    UNIFIED,
    Layout,
    exists,
    make,
    open_directory,
    pairs,
    processes,
    read,
    read_or,
    resolve,
    signal_all,
    walk,
    write,
    write_unless_gone,
)
from barque.runtime.cgroups.stats import Stats
from barque.sys.libc import check

_FREEZE_TIMEOUT = 10.0
#: One of these is read for the processes: all hierarchies hold the same ones.
_LISTING = ("pids", "memory", "freezer", "devices", "cpu")


class V1Manager:
    """Meets :class:`barque.runtime.cgroups.base.CgroupManager`. ``paths``: controller -> directory."""

    def __init__(self, paths: dict[str, str]) -> None:
        self._paths = paths
        self._unified = paths.get(UNIFIED)
        listing = next((paths[name] for name in _LISTING if name in paths), next(iter(paths.values())))
        self._listing = self._unified or listing

    @classmethod
    def at(cls, cgroups_path: str, layout: Layout) -> V1Manager:
        trees = [*layout.v1, *([layout.v2] if layout.v2 else [])]
        paths = {}
        for tree in trees:
            for name in tree.controllers or (UNIFIED,):
                paths[name] = tree.mountpoint + resolve(cgroups_path, tree.own)
        return cls(paths)

    def create(self) -> None:
        for name, path in self._unique():
            make(path)
            if name == "cpuset":
                _fill_cpuset(path)

    def apply(self, resources: Resources) -> list[str]:
        return v1_limits.apply(self._paths, resources)

    def add(self, pid: int, beside: int | None = None) -> None:
        """Version 1 allows processes in any cgroup, so ``beside`` does not matter."""
        for _, path in self._unique():
            write(path, "cgroup.procs", pid)

    def open_for_clone(self) -> int | None:
        """For the unified half of a hybrid host."""
        return open_directory(self._unified) if self._unified is not None else None

    def open_for_self(self) -> list[int]:
        found: list[int] = []
        try:
            for _, path in self._unique():
                if path != self._unified:
                    found.append(os.open(os.path.join(path, "tasks"), os.O_WRONLY | os.O_CLOEXEC))
        except OSError:
            for fd in found:
                os.close(fd)
            raise
        return found

    def freeze(self) -> None:
        if self._unified is not None and exists(self._unified, "cgroup.freeze"):
            write(self._unified, "cgroup.freeze", 1)
            if not waiting.for_event(self._unified, "frozen", 1, _FREEZE_TIMEOUT):
                self.thaw()
                raise TimeoutError(110, "the processes do not freeze", self._unified)
            return
        self._freeze_v1()

    def _freeze_v1(self) -> None:
        """FREEZING becomes FROZEN only when somebody looks, and new children need another push: no event for either."""
        path, deadline, pause = self._freezer(), time.monotonic() + _FREEZE_TIMEOUT, 0.0001
        while time.monotonic() < deadline:
            write(path, "freezer.state", "FROZEN")
            if read(path, "freezer.state").strip() == "FROZEN":
                return
            time.sleep(pause)
            pause = min(pause * 2, 0.02)
        self.thaw()
        raise TimeoutError(110, "the processes do not freeze", path)

    def thaw(self) -> None:
        if self._unified is not None and exists(self._unified, "cgroup.freeze"):
            write(self._unified, "cgroup.freeze", 0)
        else:
            write(self._freezer(), "freezer.state", "THAWED")

    def frozen(self) -> bool:
        if self._unified is not None and exists(self._unified, "cgroup.freeze"):
            return read_or(self._unified, "cgroup.freeze", "0").strip() == "1"
        path = self._paths.get("freezer")
        return path is not None and read_or(path, "freezer.state", "THAWED").strip() != "THAWED"

    def _freezer(self) -> str:
        if "freezer" not in self._paths:
            raise OSError(95, "this host has no freezer cgroup")
        return self._paths["freezer"]

    def kill(self, signal: int = signals.SIGKILL) -> None:
        if signal != signals.SIGKILL:
            return signal_all(self.pids(), signal)
        if self._unified is not None and exists(self._unified, "cgroup.kill"):
            return write_unless_gone(self._unified, "cgroup.kill", 1)
        if not self.pids():
            return None
        # Frozen processes cannot fork: the list is complete, and the signal takes effect as they thaw.
        was_frozen = "freezer" in self._paths or self._unified is not None
        if was_frozen:
            self.freeze()
        try:
            signal_all(self.pids(), signal)
        finally:
            if was_frozen:
                self.thaw()
        return None

    def pids(self) -> list[int]:
        return processes(self._listing)

    def stats(self) -> Stats:
        return v1_stats.collect(self._paths)

    def oom_fd(self) -> int | None:
        """An eventfd that memory.oom_control signals (cgroup-v1/memory.rst, "OOM Control")."""
        path = self._paths.get("memory")
        if path is None or not exists(path, "cgroup.event_control"):
            return None
        event = check(os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK))
        control = os.open(os.path.join(path, "memory.oom_control"), os.O_RDONLY | os.O_CLOEXEC)
        try:
            write(path, "cgroup.event_control", f"{event} {control}")
        except OSError:
            os.close(event)
            raise
        finally:
            os.close(control)
        return event

    def oom_kills(self) -> int:
        """Version 1 counts each cgroup by itself (since Linux 4.13)."""
        path = self._paths.get("memory")
        if path is None:
            return 0
        return sum(pairs(read_or(cgroup, "memory.oom_control")).get("oom_kill", 0) for cgroup in walk(path))

    def destroy(self) -> None:
        if self._unified is not None:
            waiting.for_event(self._unified, "populated", 0, waiting.REMOVE_TIMEOUT)
        else:
            waiting.for_exit(self._listing, waiting.REMOVE_TIMEOUT)
        for _, path in self._unique():
            waiting.remove(path, waiting.REMOVE_TIMEOUT)

    def paths(self) -> dict[str, str]:
        return dict(self._paths)

    def _unique(self) -> list[tuple[str, str]]:
        """(a controller, directory): controllers that share a hierarchy share the directory; cpuset first."""
        seen: dict[str, str] = {}
        for name, path in sorted(self._paths.items(), key=lambda item: item[0] != "cpuset"):
            seen.setdefault(path, name)
        return [(name, path) for path, name in seen.items()]


def _fill_cpuset(path: str) -> None:
    """A new cpuset takes no process until it has processors and memory nodes: copy the parent's, top down."""
    parent = os.path.dirname(path)
    for name in ("cpuset.cpus", "cpuset.mems"):
        if read_or(path, name, "-").strip():
            continue
        inherited = read(parent, name).strip()
        if not inherited:
            _fill_cpuset(parent)
            inherited = read(parent, name).strip()
        write(path, name, inherited)
