"""A container's settings -> the OCI runtime configuration."""

from __future__ import annotations

from typing import Any

import pytest

from barque.engine.containers import to_spec
from barque.engine.containers.model import Container, MountPoint
from barque.engine.containers.options import ContainerConfig, HostConfig, Ulimit
from barque.errors import InvalidArgument
from barque.oci.runtime_spec import Spec
from barque.runtime.capabilities import known

EVERYTHING = tuple(known())


def build(host: HostConfig | None = None, config: ContainerConfig | None = None, mounts: list[MountPoint] | None = None,
          **around: Any) -> Spec:
    container = Container(id="ab" * 32, name="web", created="", image="x", image_id="sha256:0", chain_id=None,
                          path="sh",
                          args=["-c", "true"], config=config or ContainerConfig(), host_config=host or HostConfig(),
                          endpoints={}, mounts=mounts or [])
    surroundings: dict[str, Any] = {
        "files": to_spec.Files(hostname="/h", hosts="/hs", resolv_conf="/r"), "hostname": "box",
        "all_capabilities": EVERYTHING, "seccomp": None, "cgroups_path": "/barque/ab"}
    return to_spec.build(container, to_spec.Surroundings(**(surroundings | around)))


def test_the_command_and_its_environment() -> None:
    spec = build(config=ContainerConfig(env=["A=1", "PATH=/x", "B"], tty=True, working_dir="/srv", user="bob:wheel"))
    assert spec.process is not None
    assert spec.process.args == ["sh", "-c", "true"]
    assert spec.process.env == ["PATH=/x", "HOSTNAME=box", "TERM=xterm", "A=1"]
    assert (spec.process.cwd, spec.process.terminal) == ("/srv", True)
    assert spec.annotations[to_spec.USER] == "bob:wheel"


def test_init_comes_first() -> None:
    spec = build(init_path="/usr/bin/tini")
    assert spec.process is not None
    assert spec.process.args[:2] == [to_spec.INIT_TARGET, "--"]
    assert any(mount.destination == to_spec.INIT_TARGET and "ro" in mount.options for mount in spec.mounts)


@pytest.mark.parametrize(("add", "drop", "has", "lacks"), [
    (None, None, "CAP_CHOWN", "CAP_SYS_ADMIN"),
    (["sys_admin"], None, "CAP_SYS_ADMIN", "CAP_NET_ADMIN"),
    (["ALL"], ["CAP_NET_ADMIN"], "CAP_SYS_ADMIN", "CAP_NET_ADMIN"),
    (["NET_ADMIN"], ["ALL"], "CAP_NET_ADMIN", "CAP_CHOWN"),
])
def test_capabilities(add: list[str] | None, drop: list[str] | None, has: str, lacks: str) -> None:
    names = to_spec.capability_names(HostConfig(cap_add=add, cap_drop=drop), EVERYTHING)
    assert has in names
    assert lacks not in names


def test_an_unknown_capability_is_refused() -> None:
    with pytest.raises(InvalidArgument, match='invalid CapAdd: unknown capability: "CAP_FOO"'):
        to_spec.capability_names(HostConfig(cap_add=["foo"]), EVERYTHING)


def test_limits() -> None:
    resources = to_spec.resources(HostConfig(memory=100 << 20, nano_cpus=1_500_000_000, pids_limit=7, cpuset_cpus="0"))
    assert resources.memory is not None
    assert resources.cpu is not None
    assert resources.pids is not None
    assert (resources.memory.limit, resources.memory.swap) == (100 << 20, 200 << 20)
    assert (resources.cpu.quota, resources.cpu.period, resources.cpu.cpus) == (150_000, 100_000, "0")
    assert resources.pids.limit == 7
    unlimited = to_spec.resources(HostConfig())
    assert (unlimited.memory, unlimited.cpu, unlimited.pids) == (None, None, None)


def test_devices_are_denied_but_for_the_standard_ones() -> None:
    rules = to_spec.resources(HostConfig(device_cgroup_rules=["c 42:* rw"])).devices
    assert (rules[0].allow, rules[0].access) == (False, "rwm")
    assert any(rule.allow and (rule.major, rule.minor) == (1, 3) for rule in rules)
    assert not any(rule.allow and rule.major == 10 for rule in rules)
    assert (rules[-1].major, rules[-1].minor, rules[-1].access) == (42, None, "rw")
    with pytest.raises(InvalidArgument, match="invalid device cgroup rule format"):
        to_spec.resources(HostConfig(device_cgroup_rules=["x 1:1 rw"]))


def test_what_is_asked_for_replaces_a_standard_mount() -> None:
    points = [MountPoint(type="bind", source="/s", destination="/etc/hosts", rw=False, propagation="rslave"),
              MountPoint(type="tmpfs", destination="/run", options=("size=1m", "exec"))]
    spec = build(mounts=points)
    hosts = [mount for mount in spec.mounts if mount.destination == "/etc/hosts"]
    assert [(mount.source, mount.options) for mount in hosts] == [("/s", ["rbind", "ro", "rro", "rslave"])]
    run = next(mount for mount in spec.mounts if mount.destination == "/run")
    assert run.options == ["nosuid", "nodev", "size=1m", "exec"]
    assert spec.linux is not None
    assert spec.linux.rootfs_propagation == "rslave"


def test_namespaces_of_others_and_of_the_host() -> None:
    spec = build(namespaces={"network": "/run/netns/x"}, host_namespaces=frozenset({"pid", "uts"}))
    assert spec.linux is not None
    found = {item.type: item.path for item in spec.linux.namespaces}
    assert found == {"mount": "", "network": "/run/netns/x", "ipc": ""}
    assert spec.hostname == ""
    assert spec.linux.sysctl["net.ipv4.ping_group_range"] == "0 2147483647", "the network is its own, made ahead"
    for mode, namespaces in (("container:web", {"network": "/proc/9/ns/net"}), ("host", {})):
        shared = build(HostConfig(network_mode=mode), namespaces=namespaces)
        assert shared.linux is not None and "net.ipv4.ping_group_range" not in shared.linux.sysctl


def test_rlimits() -> None:
    spec = build(HostConfig(ulimits=[Ulimit(name="nofile", soft=10, hard=-1)]), ulimits={"nofile": (1, 2), "core": (0,
                                                                                                                    0)})
    assert spec.process is not None
    assert {(item.type, item.soft, item.hard) for item in spec.process.rlimits} == {
        ("RLIMIT_NOFILE", 10, (1 << 64) - 1), ("RLIMIT_CORE", 0, 0)}
