"""Pure cgroup v2; run in a machine by tests/runtime/test_runtime_vm.py, and by hand as root on any such host."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from barque.oci.runtime_spec import CPU, BlockIO, Memory, NetworkResources, Resources, ThrottleDevice
from barque.runtime import cgroups, security
from barque.runtime.cgroups import CgroupManager, InvalidResources, device_filter, host_layout
from barque.sys import ebpf
from tests.kernel.cgroup_cases import KMSG, MIB, CgroupCases, Child

PARENT = f"/barque-test-{os.getpid()}"


@pytest.fixture
def group() -> Iterator[CgroupManager]:
    manager = cgroups.manager(PARENT + "/one")
    manager.create()
    yield manager
    manager.kill()
    manager.destroy()
    os.rmdir(os.path.dirname(manager.paths()["unified"]))


def _file(group: CgroupManager, name: str) -> str:
    with open(os.path.join(group.paths()["unified"], name)) as file:
        return file.read().strip()


class TestV2(CgroupCases):
    def test_the_host_is_pure(self) -> None:
        assert host_layout().version == "v2"
        assert {"memory", "cpu", "pids", "cpuset", "io"} <= host_layout().controllers

    def test_values_are_converted(self, group: CgroupManager) -> None:
        group.apply(Resources(memory=Memory(limit=64 * MIB, swap=96 * MIB, reservation=32 * MIB),
                              cpu=CPU(shares=1024, quota=50_000)))
        assert _file(group, "memory.swap.max") == str(32 * MIB)
        assert _file(group, "memory.max") == str(64 * MIB)
        assert _file(group, "memory.low") == str(32 * MIB)
        assert _file(group, "cpu.weight") == "100"
        assert _file(group, "cpu.max") == "50000 100000"
        group.apply(Resources(memory=Memory(limit=-1), cpu=CPU(quota=-1)))
        assert _file(group, "memory.swap.max") == "max"
        assert _file(group, "cpu.max") == "max 100000"

    def test_what_version_2_lacks_is_said(self, group: CgroupManager) -> None:
        warnings = group.apply(Resources(memory=Memory(swappiness=10, disable_oom_killer=True)))
        assert [warning.split(".")[0] for warning in warnings] == [
            "Your kernel does not support memory swappiness capabilities or the cgroup is not mounted",
            "Your kernel does not support OomKillDisable"]
        with pytest.raises(InvalidResources, match="need cgroup v1"):
            group.apply(Resources(network=NetworkResources(class_id=7)))
        with pytest.raises(InvalidResources, match="realtime limits need cgroup v1"):
            group.apply(Resources(cpu=CPU(realtime_runtime=1000)))

    def test_files_by_name_win(self, group: CgroupManager) -> None:
        group.apply(Resources(memory=Memory(limit=64 * MIB), unified={"memory.max": str(48 * MIB)}))
        assert _file(group, "memory.max") == str(48 * MIB)
        for name in ("cgroup.procs", "../memory.max", "nonsense.max"):
            with pytest.raises(InvalidResources, match="unified resource"):
                group.apply(Resources(unified={name: "1"}))

    def test_an_update_that_would_kill_can_be_refused(self, group: CgroupManager) -> None:
        child = Child(group, lambda: 0)
        with pytest.raises(InvalidResources, match="rejecting memory limit"):
            group.apply(Resources(memory=Memory(limit=4096, check_before_update=True)))
        assert child.go().wait() == 0

    def test_only_one_device_program_stays(self, group: CgroupManager) -> None:
        for rules in ([KMSG], security.default_device_rules(), security.privileged_device_rules()):
            group.apply(Resources(devices=rules))
            cgroup = os.open(group.paths()["unified"], os.O_RDONLY)
            programs = ebpf.attached_device_programs(cgroup)
            os.close(cgroup)
            for fd in programs:
                os.close(fd)
            assert len(programs) == 1

    def test_later_rules_override_earlier_ones(self, group: CgroupManager) -> None:
        rules = [*security.privileged_device_rules(), device_filter.DeviceCgroup(
            allow=False, type="c", major=1, minor=11, access="r")]
        group.apply(Resources(devices=rules))
        assert Child(group, lambda: _try("/dev/kmsg", os.O_RDONLY)).go().wait() == 1
        assert Child(group, lambda: _try("/dev/kmsg", os.O_WRONLY)).go().wait() == 0
        assert Child(group, lambda: _try("/dev/zero", os.O_RDONLY)).go().wait() == 0

    def test_a_process_can_be_born_inside(self, group: CgroupManager) -> None:
        fd = group.open_for_clone()
        assert fd is not None
        assert os.path.samestat(os.fstat(fd), os.stat(group.paths()["unified"]))
        os.close(fd)

    def test_exec_goes_where_the_container_moved_itself(self, group: CgroupManager) -> None:
        path = group.paths()["unified"]
        init = Child(group, lambda: 0)
        os.mkdir(path + "/init")
        with open(path + "/init/cgroup.procs", "w") as file:
            file.write(str(init.pid))
        with open(path + "/cgroup.subtree_control", "w") as file:
            file.write("+memory")
        pid = os.fork()
        if pid == 0:
            signal.pause()
            os._exit(0)
        with pytest.raises(OSError, match=r"cgroup\.procs"):
            group.add(pid)
        group.add(pid, beside=init.pid)
        assert set(group.pids()) == {pid, init.pid}
        group.kill()
        os.waitpid(pid, 0)
        init.wait()

    def test_throttling_needs_a_device_that_exists(self, group: CgroupManager) -> None:
        with pytest.raises(OSError, match=r"io\.max"):
            group.apply(Resources(block_io=BlockIO(throttle_read_bps_device=[ThrottleDevice(250, 250, 1000)])))


def _try(path: str, flags: int) -> int:
    try:
        os.close(os.open(path, flags))
    except PermissionError as error:
        return error.errno or 255
    return 0
