"""The systemd driver under a real systemd; run inside the virtual machine by tests/runtime/test_runtime_vm.py."""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Iterator

import pytest

from barque.oci.runtime_spec import CPU, Memory, Pids, Resources
from barque.runtime import cgroups, security
from barque.runtime.cgroups import CgroupManager, systemd
from barque.sys.dbus import CallFailed
from tests.kernel.cgroup_cases import KMSG, MIB, Child, open_device, touch_memory

UNIT = "barque-one.scope"


@pytest.fixture
def group() -> Iterator[CgroupManager]:
    manager = cgroups.manager("demo-web.slice:barque:one", driver="systemd")
    manager.create()
    yield manager
    manager.kill()
    manager.destroy()
    assert not os.path.exists(manager.paths()["unified"])


def _property(unit: str, name: str) -> object:
    with systemd.connect() as connection:
        path = connection.call("org.freedesktop.systemd1", "/org/freedesktop/systemd1",
                               "org.freedesktop.systemd1.Manager", "GetUnit", "s", unit)[0]
        return connection.call("org.freedesktop.systemd1", path, "org.freedesktop.DBus.Properties", "Get", "ss",
                               "org.freedesktop.systemd1.Scope", name)[0][1]


class TestSystemd:
    def test_a_scope_with_limits_in_its_slice(self, group: CgroupManager) -> None:
        resources = Resources(memory=Memory(limit=64 * MIB, swap=96 * MIB), cpu=CPU(shares=1024, quota=30_000),
                              pids=Pids(12), devices=security.default_device_rules())
        assert group.apply(resources) == []
        child = Child(group, lambda: 0)
        path = group.paths()["unified"]
        assert path == f"/sys/fs/cgroup/demo.slice/demo-web.slice/{UNIT}"
        assert group.pids() == [child.pid]
        assert _property(UNIT, "MemoryMax") == 64 * MIB
        assert _property(UNIT, "MemorySwapMax") == 32 * MIB
        assert _property(UNIT, "CPUWeight") == 100
        assert _property(UNIT, "CPUQuotaPerSecUSec") == 300_000
        assert _property(UNIT, "TasksMax") == 12
        assert _property(UNIT, "Delegate") is True
        assert _property(UNIT, "DevicePolicy") == "strict"
        with open(path + "/memory.max") as file:
            assert int(file.read()) == 64 * MIB
        child.go().wait()

    def test_an_update_reaches_unit_and_files(self, group: CgroupManager) -> None:
        child = Child(group, lambda: 0)
        assert group.apply(Resources(memory=Memory(limit=32 * MIB), pids=Pids(7))) == []
        assert _property(UNIT, "MemoryMax") == 32 * MIB
        assert group.stats().memory.limit == 32 * MIB
        assert group.stats().pids.limit == 7
        child.go().wait()

    def test_devices_and_memory_are_kept(self, group: CgroupManager) -> None:
        group.apply(Resources(devices=security.default_device_rules(), memory=Memory(limit=32 * MIB, swap=32 * MIB)))
        first = Child(group, lambda: open_device("/dev/kmsg"))
        assert Child(group, lambda: open_device("/dev/null")).go().wait() == 0
        group.apply(Resources(devices=[*security.default_device_rules(), KMSG]))
        assert Child(group, lambda: open_device("/dev/kmsg")).go().wait() == 0
        group.apply(Resources(devices=security.default_device_rules()))
        assert Child(group, lambda: touch_memory(64 * MIB)).go().wait() == -signal.SIGKILL
        assert group.oom_kills() == 1
        assert first.go().wait() == errno.EPERM

    def test_freeze_and_kill(self, group: CgroupManager) -> None:
        child = Child(group, lambda: 0)
        group.freeze()
        assert group.frozen()
        group.kill()
        assert child.wait() == -signal.SIGKILL

    def test_a_name_can_be_used_again(self, group: CgroupManager) -> None:
        for _ in range(3):
            assert Child(group, lambda: 0).go().wait() == 0
            group.destroy()

    def test_errors_of_systemd_have_its_words(self, group: CgroupManager) -> None:
        with systemd.connect() as connection, pytest.raises(CallFailed, match="NoSuchUnit"):
            connection.call("org.freedesktop.systemd1", "/org/freedesktop/systemd1",
                            "org.freedesktop.systemd1.Manager", "GetUnit", "s", "none.scope")
