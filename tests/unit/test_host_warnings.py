"""What this host cannot give is said; what it can is not spoken of."""

from __future__ import annotations

import pytest

from barque.engine.containers import host_warnings
from barque.engine.containers.options import HostConfig
from barque.engine.host import Host, probe

ALL = frozenset({"memory", "pids", "cpu", "cpuset", "blkio"})
EVERYTHING = HostConfig(memory=64 << 20, memory_reservation=32 << 20, pids_limit=5, cpu_shares=5, nano_cpus=10**9,
                        cpuset_cpus="0", blkio_weight=100)


def host(controllers: frozenset[str], *, v2: bool = False, swap: bool = True) -> Host:
    return probe((), (), cgroup_v2=v2, controllers=controllers, swap_limit=swap)


def test_a_host_with_all_controllers_has_nothing_to_say() -> None:
    assert host_warnings.warnings(EVERYTHING, host(ALL)) == []
    assert host_warnings.warnings(HostConfig(), host(frozenset())) == []


@pytest.mark.parametrize(("controller", "texts"), [
    ("memory", ["memory limit capabilities", "memory soft limit capabilities"]),
    ("pids", ["PIDs limit capabilities or the cgroup is not mounted. PIDs limit discarded."]),
    ("cpu", ["CPU shares", "CPU CFS scheduler"]),
    ("cpuset", ["cpuset or the cgroup is not mounted. Cpuset discarded."]),
    ("blkio", ["Block I/O weight"]),
])
def test_limits_without_their_controller(controller: str, texts: list[str]) -> None:
    found = host_warnings.warnings(EVERYTHING, host(ALL - {controller}, swap=controller != "memory"))
    assert len(found) == len(texts)
    assert all(text in line for text, line in zip(texts, found, strict=True))


def test_memory_without_swap_and_without_a_killer() -> None:
    limited = HostConfig(memory=64 << 20)
    assert "Memory limited without swap." in host_warnings.warnings(limited, host(ALL, swap=False))[0]
    unkillable = HostConfig(oom_kill_disable=True)
    assert "OOM killer is disabled" in host_warnings.warnings(unkillable, host(ALL))[0]
    assert "OomKillDisable discarded" in host_warnings.warnings(unkillable, host(ALL, v2=True))[0]
