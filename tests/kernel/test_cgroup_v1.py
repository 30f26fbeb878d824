"""The managers for version 1 and hybrid hosts, on this host's hierarchies below a cgroup of the test's own."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from barque.oci.runtime_spec import CPU, BlockIO, HugepageLimit, Memory, Resources, ThrottleDevice
from barque.runtime import cgroups
from barque.runtime.birth import birthplace
from barque.runtime.cgroups import CgroupManager, InvalidResources, Layout, host_layout, limits
from barque.sys import process
from tests.kernel.cgroup_cases import MIB, CgroupCases, Child

PARENT = f"/barque-test-{os.getpid()}"


def _layout(kind: str) -> Layout:
    layout = host_layout()
    assert layout.version in ("v1", "hybrid"), "on a pure version 2 host run guest_cgroup_v2.py instead"
    return replace(layout, v2=None) if kind == "v1" else layout


@pytest.fixture(params=["hybrid", "v1"])
def group(request: pytest.FixtureRequest) -> Iterator[CgroupManager]:
    manager = cgroups.manager(PARENT + "/one", layout=_layout(request.param))
    manager.create()
    yield manager
    manager.kill()
    manager.destroy()
    for path in set(manager.paths().values()):
        os.rmdir(os.path.dirname(path))


def _file(group: CgroupManager, controller: str, name: str) -> str:
    with open(os.path.join(group.paths()[controller], name)) as file:
        return file.read().strip()


class TestV1(CgroupCases):
    def test_all_hierarchies_are_joined(self, group: CgroupManager) -> None:
        child = Child(group, lambda: 0)
        with open(f"/proc/{child.pid}/cgroup") as file:
            lines = file.read().splitlines()
        inside = [line for line in lines if line.endswith(PARENT + "/one")]
        assert len(inside) == len(set(group.paths().values()))
        child.go().wait()

    def test_a_process_born_there_is_in_all_hierarchies(self, group: CgroupManager) -> None:
        """The unified one by clone3, the others by itself; no one moves it. Nothing leads it back to the host's."""
        reading, writing = os.pipe()
        with birthplace(group) as place:
            assert place.complete
            child = place.clone(0)
            if child is None:
                place.enter()
                with open("/proc/self/cgroup", "rb") as file:
                    os.write(writing, file.read())
                for link in Path("/proc/self/fd").iterdir():
                    if link.exists() and str(link.readlink()).startswith("/sys/fs/cgroup"):
                        os.write(writing, f"open: {link.readlink()}\n".encode())
                os._exit(0)
        assert process.wait(child.pidfd) == 0
        os.close(child.pidfd)
        lines = os.read(reading, 1 << 16).decode().splitlines()
        os.close(reading)
        os.close(writing)
        assert not any(line.startswith("open:") for line in lines)
        assert sum(line.endswith(PARENT + "/one") for line in lines) == len(set(group.paths().values()))

    def test_values_arrive(self, group: CgroupManager) -> None:
        group.apply(Resources(memory=Memory(limit=64 * MIB, swap=96 * MIB, reservation=32 * MIB, swappiness=7,
                                            disable_oom_killer=True),
                              cpu=CPU(shares=333, quota=50_000, idle=0)))
        assert _file(group, "memory", "memory.limit_in_bytes") == str(64 * MIB)
        assert _file(group, "memory", "memory.memsw.limit_in_bytes") == str(96 * MIB)
        assert _file(group, "memory", "memory.soft_limit_in_bytes") == str(32 * MIB)
        assert _file(group, "memory", "memory.swappiness") == "7"
        assert _file(group, "memory", "memory.oom_control").startswith("oom_kill_disable 1")
        assert _file(group, "cpu", "cpu.shares") == "333"
        assert _file(group, "cpu", "cpu.cfs_quota_us") == "50000"

    def test_a_limit_below_the_usage_is_refused_with_the_figures(self, group: CgroupManager) -> None:
        group.apply(Resources(memory=Memory(limit=64 * MIB, disable_oom_killer=True)))
        child = Child(group, lambda: 0)
        with pytest.raises((InvalidResources, OSError)):
            group.apply(Resources(memory=Memory(limit=1)))
        assert child.go().wait() == 0

    def test_what_is_not_mounted_is_said(self, group: CgroupManager) -> None:
        warnings = group.apply(Resources(hugepage_limits=[HugepageLimit("3MB", 1)]))
        assert warnings == [limits.NO_HUGETLB.format(size="3MB")]
        with pytest.raises(InvalidResources, match="unified"):
            group.apply(Resources(unified={"memory.high": "1"}))

    def test_weight_of_block_io(self, group: CgroupManager) -> None:
        warnings = group.apply(Resources(block_io=BlockIO(weight=300)))
        if warnings:
            assert warnings == [limits.NO_BLKIO_WEIGHT]
        else:
            names = ("blkio.weight", "blkio.bfq.weight")
            path = group.paths()["blkio"]
            assert "300" in [_file(group, "blkio", name) for name in names if os.path.exists(f"{path}/{name}")]

    def test_throttling_needs_a_device_that_exists(self, group: CgroupManager) -> None:
        with pytest.raises(OSError, match=r"blkio\.throttle"):
            group.apply(Resources(block_io=BlockIO(throttle_write_iops_device=[ThrottleDevice(250, 250, 10)])))

    def test_a_relative_path_counts_from_the_own_cgroup(self) -> None:
        layout = host_layout()
        paths = cgroups.manager("barque-test/x", layout=layout).paths()
        memory = next(tree for tree in layout.v1 if "memory" in tree.controllers)
        assert paths["memory"] == os.path.normpath(memory.mountpoint + memory.own + "/barque-test/x")


def test_a_shared_parent_goes_with_the_last_cgroup() -> None:
    shared = PARENT + "-shared"
    parents = set(cgroups.manager(shared).paths().values())
    manager = cgroups.manager(shared + "/one")
    manager.create()
    cgroups.remove_if_empty(shared)
    assert all(os.path.isdir(path) for path in parents)
    manager.destroy()
    cgroups.remove_if_empty(shared)
    assert not any(os.path.exists(path) for path in parents)
    cgroups.remove_if_empty(shared)


def test_a_cgroup_is_made_while_another_engine_removes_the_parent() -> None:
    shared = PARENT + "-shared"
    done = threading.Event()

    def remove() -> None:
        while not done.is_set():
            cgroups.remove_if_empty(shared)

    thread = threading.Thread(target=remove)
    thread.start()
    try:
        manager = cgroups.manager(shared + "/one")
        for _ in range(50):
            manager.create()
            assert all(os.path.isdir(path) for path in manager.paths().values())
            manager.destroy()
    finally:
        done.set()
        thread.join()
        cgroups.remove_if_empty(shared)
