"""Cgroups that systemd owns: the container is a transient scope unit, made over D-Bus.

An ordinary user has a systemd of its own, with units below the cgroup that was delegated to it; that needs version 2.

systemd makes the cgroup when the first process joins (a scope needs one), so limits set before are kept until then.
They go both ways: as unit properties, so that a reload of systemd does not undo them, and as files, for what systemd
has no property for.
"""

from __future__ import annotations

import os
import signal as signals
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from barque.errors import Unsupported
from barque.oci.runtime_spec import Resources
from barque.runtime.cgroups import limits
from barque.runtime.cgroups.base import CgroupManager, InvalidResources, Layout
from barque.runtime.cgroups.device_rules import ACCESSES, evaluate
from barque.runtime.cgroups.stats import Stats
from barque.runtime.cgroups.v1 import V1Manager
from barque.runtime.cgroups.v2 import V2Manager
from barque.sys.dbus import CallFailed, Connection

_NAME, _PATH, _MANAGER = "org.freedesktop.systemd1", "/org/freedesktop/systemd1", "org.freedesktop.systemd1.Manager"
_UNIT_EXISTS, _NO_SUCH_UNIT = f"{_NAME}.UnitExists", f"{_NAME}.NoSuchUnit"
_INFINITY = (1 << 64) - 1

#: (name, (signature, value)), the a(sv) of the interface.
Property = tuple[str, tuple[str, Any]]


class NoUserManager(Unsupported):
    text = "--systemd-cgroup needs the systemd of user {uid} (loginctl enable-linger), and cgroup version 2: {why}"


class SystemdFailed(OSError):
    """systemd's job for the unit did not end with "done"."""


def running() -> bool:
    """Whether systemd is this host's init (sd_booted(3))."""
    return os.path.isdir("/run/systemd/system")


def unit_of(cgroups_path: str) -> tuple[str, str]:
    """(slice, unit) of ``slice:prefix:name``; raises :class:`InvalidResources` with runc's text."""
    parts = cgroups_path.split(":")
    if len(parts) != 3 or not parts[2] or "/" in cgroups_path:
        raise InvalidResources('expected cgroupsPath to be of format "slice:prefix:name" for systemd cgroups, '
                               f'got "{cgroups_path}" instead')
    parent, prefix, name = parts
    if name.endswith(".slice"):
        raise InvalidResources(f"a container's unit cannot be a slice: {name}")
    usual = "user.slice" if os.geteuid() else "system.slice"
    return parent or usual, f"{prefix}-{name}.scope" if prefix else f"{name}.scope"


def slice_path(name: str) -> str:
    """The cgroup of a slice: ``a-b.slice`` lies in ``a.slice``; raises :class:`InvalidResources`."""
    if name == "-.slice":
        return "/"
    stem = name.removesuffix(".slice")
    if stem == name or not stem or "/" in name or "" in stem.split("-"):
        raise InvalidResources(f"invalid slice name: {name}")
    parts = stem.split("-")
    return "".join(f"/{'-'.join(parts[:count])}.slice" for count in range(1, len(parts) + 1))


def properties(resources: Resources, v2: bool) -> list[Property]:
    """The unit properties of ``resources``; raises :class:`InvalidResources`."""
    limits.check(resources)
    found: list[Property] = []
    memory, cpu, pids, block = resources.memory, resources.cpu, resources.pids, resources.block_io
    if memory is not None and memory.limit:
        found.append(("MemoryMax" if v2 else "MemoryLimit", ("t", _unlimited(memory.limit))))
    if memory is not None and v2 and memory.reservation:
        found.append(("MemoryLow", ("t", _unlimited(memory.reservation))))
    if memory is not None and v2 and (swap := limits.swap_of_memsw(memory)) is not None:
        found.append(("MemorySwapMax", ("t", _INFINITY if swap == "max" else int(swap))))
    if cpu is not None:
        if cpu.shares:
            found.append(("CPUWeight", ("t", limits.weight_of_shares(cpu.shares))) if v2 else
                         ("CPUShares", ("t", cpu.shares)))
        if cpu.quota:
            period = cpu.period or 100_000
            # Hundredths of a percent are what systemd keeps: round up to 10 ms per second.
            per_second = cpu.quota * 1_000_000 // period
            found += [("CPUQuotaPerSecUSec", ("t", _INFINITY if cpu.quota < 0 else -(-per_second // 10_000) * 10_000)),
                      ("CPUQuotaPeriodUSec", ("t", period))]
    if block is not None and block.weight:
        found.append(("IOWeight", ("t", limits.io_weight_of_blkio(block.weight))) if v2 else
                     ("BlockIOWeight", ("t", block.weight)))
    if pids is not None and pids.limit is not None:
        found.append(("TasksMax", ("t", _unlimited(pids.limit or 1))))
    return found + _device_properties(resources)


def _device_properties(resources: Resources) -> list[Property]:
    if not resources.devices:
        return []
    devices = evaluate(resources.devices)
    if devices.default_allow:
        return [("DevicePolicy", ("s", "auto")), ("DeviceAllow", ("a(ss)", []))]
    allowed = []
    for (kind, major, minor), access in devices.exceptions.items():
        word = {"c": "char", "b": "block"}[kind]
        letters = "".join(one for one in ACCESSES if one in access)
        if major < 0:
            allowed.append((f"{word}-*", letters))
        elif minor >= 0:
            allowed.append((f"/dev/{word}/{major}:{minor}", letters))
        else:
            allowed += [(f"{word}-{name}", letters) for name in _drivers(kind, major)]
    return [("DevicePolicy", ("s", "strict")), ("DeviceAllow", ("a(ss)", allowed))]


def _drivers(kind: str, major: int, text: str | None = None) -> list[str]:
    """The names under which /proc/devices lists a major number, since systemd takes no wildcard minor otherwise."""
    if text is None:
        with open("/proc/devices") as file:
            text = file.read()
    characters, _, blocks = text.partition("Block devices:")
    section = characters if kind == "c" else blocks
    rows = [line.split() for line in section.splitlines()]
    return list(dict.fromkeys(row[1] for row in rows if len(row) == 2 and row[0] == str(major)))


def _unlimited(value: int) -> int:
    return _INFINITY if value < 0 else value


def sockets() -> tuple[str, str]:
    """systemd's own socket, and that of the bus where it is known."""
    if os.geteuid() == 0:
        return "/run/systemd/private", "/run/dbus/system_bus_socket"
    directory = os.environ.get("XDG_RUNTIME_DIR") or f"/run/user/{os.geteuid()}"
    return f"{directory}/systemd/private", f"{directory}/bus"


def top() -> str:
    """The cgroup that all slices lie in: of root's systemd the uppermost one. Raises :class:`NoUserManager`."""
    if os.geteuid() == 0:
        return ""
    try:
        with connect() as systemd:
            found = systemd.call(_NAME, _PATH, "org.freedesktop.DBus.Properties", "Get", "ss", _MANAGER, "ControlGroup")
    except OSError as error:
        raise NoUserManager(uid=os.geteuid(), why=f"{sockets()[0]}: {error.strerror}") from None
    return str(found[0][1])


@contextmanager
def connect() -> Iterator[Connection]:
    """The host's systemd for root, else the user's: itself where it may be had, else over its bus."""
    private, bus = sockets()
    try:
        connection = Connection(private)
    except (FileNotFoundError, ConnectionRefusedError, PermissionError):
        connection = Connection(bus)
        connection.hello()
        connection.call("org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus", "AddMatch", "s",
                        f"type='signal',sender='{_NAME}',interface='{_MANAGER}',member='JobRemoved'")
    try:
        yield connection
    finally:
        connection.close()


def _finish(systemd: Connection, job: str) -> str:
    """Wait for the end of ``job``; its result, such as ``done``."""
    return str(systemd.wait_signal("JobRemoved", lambda body: body[1] == job)[3])


class SystemdManager:
    """Meets :class:`barque.runtime.cgroups.base.CgroupManager`; ``files`` manages what systemd has made."""

    def __init__(self, parent: str, unit: str, files: CgroupManager, v2: bool) -> None:
        self._parent, self._unit, self._files, self._v2 = parent, unit, files, v2
        self._pending: list[Resources] = []

    @classmethod
    def at(cls, cgroups_path: str, layout: Layout) -> SystemdManager:
        parent, unit = unit_of(cgroups_path)
        path = top() + slice_path(parent).rstrip("/") + "/" + unit
        if layout.version == "v2" and layout.v2 is not None:
            return cls(parent, unit, V2Manager.at(path, layout.v2), True)
        if os.geteuid():
            raise NoUserManager(uid=os.geteuid(), why="this host has version 1")
        return cls(parent, unit, V1Manager.at(path, layout), False)

    def create(self) -> None:
        """Nothing yet: :meth:`add` starts the unit. Raises OSError where systemd is not running."""
        if not running():
            raise OSError(95, "systemd not running on this host, cannot use systemd cgroups manager")

    def apply(self, resources: Resources) -> list[str]:
        wanted = properties(resources, self._v2)
        if not self._exists():
            self._pending.append(resources)
            return []
        if wanted:
            with connect() as systemd:
                systemd.call(_NAME, _PATH, _MANAGER, "SetUnitProperties", "sba(sv)", self._unit, True, wanted)
        return self._files.apply(resources)

    def add(self, pid: int, beside: int | None = None) -> None:
        if not self._exists():
            self._start(pid)
            self._files.create()
            for resources in self._pending:
                self._files.apply(resources)
            self._pending.clear()
        self._files.add(pid, beside)

    def _exists(self) -> bool:
        return any(os.path.isdir(path) for path in self._files.paths().values())

    def _start(self, pid: int) -> None:
        """StartTransientUnit; pid 0 is whoever sends the message."""
        wanted: list[Property] = [("Description", ("s", f"barque container {self._unit}")),
                                  ("Slice", ("s", self._parent)), ("Delegate", ("b", True)),
                                  ("DefaultDependencies", ("b", False)), ("PIDs", ("au", [pid])),
                                  ("MemoryAccounting", ("b", True)), ("CPUAccounting", ("b", True)),
                                  ("IOAccounting" if self._v2 else "BlockIOAccounting", ("b", True)),
                                  ("TasksAccounting", ("b", True))]
        for resources in self._pending:
            wanted += properties(resources, self._v2)
        with connect() as systemd:
            systemd.call(_NAME, _PATH, _MANAGER, "Subscribe")
            arguments: tuple[Any, ...] = (self._unit, "replace", wanted, [])
            try:
                job = systemd.call(_NAME, _PATH, _MANAGER, "StartTransientUnit", "ssa(sv)a(sa(sv))", *arguments)
            except CallFailed as error:
                if error.name != _UNIT_EXISTS:
                    raise
                # Left failed by an earlier container of this name.
                systemd.call(_NAME, _PATH, _MANAGER, "ResetFailedUnit", "s", self._unit)
                job = systemd.call(_NAME, _PATH, _MANAGER, "StartTransientUnit", "ssa(sv)a(sa(sv))", *arguments)
            result = _finish(systemd, job[0])
        if result != "done":
            raise SystemdFailed(5, f"systemd's job for {self._unit} ended with {result!r}")

    def open_for_clone(self) -> int | None:
        """systemd is told of the process, and moves it."""
        return None

    def open_for_self(self) -> list[int]:
        return []

    def freeze(self) -> None:
        self._files.freeze()

    def thaw(self) -> None:
        self._files.thaw()

    def frozen(self) -> bool:
        return self._files.frozen()

    def kill(self, signal: int = signals.SIGKILL) -> None:
        self._files.kill(signal)

    def pids(self) -> list[int]:
        return self._files.pids()

    def stats(self) -> Stats:
        return self._files.stats()

    def oom_fd(self) -> int | None:
        return self._files.oom_fd()

    def oom_kills(self) -> int:
        return self._files.oom_kills()

    def destroy(self) -> None:
        with connect() as systemd:
            systemd.call(_NAME, _PATH, _MANAGER, "Subscribe")
            try:
                # Its result does not matter: the files below tell whether the cgroup is gone.
                _finish(systemd, systemd.call(_NAME, _PATH, _MANAGER, "StopUnit", "ss", self._unit, "replace")[0])
                systemd.call(_NAME, _PATH, _MANAGER, "ResetFailedUnit", "s", self._unit)
            except CallFailed as error:
                # A scope goes away by itself with its last process.
                if error.name != _NO_SUCH_UNIT:
                    raise
        self._files.destroy()

    def paths(self) -> dict[str, str]:
        return self._files.paths()
