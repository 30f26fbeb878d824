"""Mount options, and the order of the steps, which is decided before anything is done."""

from __future__ import annotations

import pytest

from barque.oci.mount import Mount
from barque.oci.runtime_spec import Mount as SpecMount
from barque.runtime import options, plan, sysctls
from barque.runtime.cgroups.base import UNIFIED, Hierarchy, Layout
from barque.runtime.default_spec import default_spec
from barque.sys import mounts

V1 = Layout(v1=(Hierarchy("/sys/fs/cgroup/cpu,cpuacct", ("cpu", "cpuacct")),
                Hierarchy("/sys/fs/cgroup/memory", ("memory",))))
V2 = Layout(v2=Hierarchy("/sys/fs/cgroup", ()))


class Cgroup:
    def __init__(self, paths):
        self._paths = paths

    def paths(self):
        return self._paths


V1_CGROUP = Cgroup({"cpu": "/c/cpu/x", "cpuacct": "/c/cpu/x", "memory": "/c/memory/x"})
V2_CGROUP = Cgroup({UNIFIED: "/sys/fs/cgroup/x"})


def described(spec, layout=V1, cgroup=V1_CGROUP, roots=(), make_cwd=True):
    steps, leaving = plan.build(spec, "/b/rootfs", roots, cgroup, layout, make_cwd=make_cwd)
    return [step.describe() for step in (*steps, *leaving)]


def test_the_order_of_steps():
    spec = default_spec()
    spec.linux.sysctl = {"net.ipv4.ip_forward": "1"}
    assert described(spec, roots=(Mount("overlay", lower=("/l",), upper="/u", work="/w"),)) == [
        "set the propagation of all mounts",
        "bring up the loopback device",
        "mount overlay on /b/rootfs",
        "join the cgroup",
        "mount proc on /proc",
        "mount tmpfs on /dev",
        "mount devpts on /dev/pts",
        "mount tmpfs on /dev/shm",
        "mount mqueue on /dev/mqueue",
        "mount sysfs on /sys",
        "mount the container's cgroups on /sys/fs/cgroup",
        "make device nodes",
        "make links in /dev",
        "make the console",
        "make working directory /",
        "write sysctls",
        "make paths read-only",
        "mask paths",
        "make the root read-only",
        "pivot_root",
    ]


def test_a_dev_of_the_hosts_is_left_alone():
    spec = default_spec()
    spec.mounts.append(SpecMount("/dev/", "bind", "/dev", ["rbind"]))
    assert "make device nodes" not in described(spec)
    assert "make the console" in described(spec)


def test_mounts_beneath_the_root_follow_it():
    roots = (Mount("bind", "/data", "/in", ("ro",)), Mount("overlay", lower=("/l",)))
    assert described(default_spec(), roots=roots)[2:4] == ["mount overlay on /b/rootfs", "mount bind on /in"]


def test_version_1_binds_each_hierarchy_with_its_aliases():
    steps, _ = plan.build(default_spec(), "/b", (), V1_CGROUP, V1, make_cwd=True)
    [step] = [step for step in steps if hasattr(step, "directories")]
    assert step.directories == {"cpu,cpuacct": "/c/cpu/x", "memory": "/c/memory/x"}
    assert step.aliases == {"cpu": "cpu,cpuacct", "cpuacct": "cpu,cpuacct"}


@pytest.mark.parametrize("own_namespace", [True, False])
def test_version_2_is_mounted_in_its_own_namespace_or_bound(own_namespace, monkeypatch):
    monkeypatch.setattr(Layout, "controllers", frozenset())
    spec = default_spec()
    if not own_namespace:
        spec.linux.namespaces = [item for item in spec.linux.namespaces if item.type != "cgroup"]
    text = "mount cgroup2 on /sys/fs/cgroup" if own_namespace else "mount the container's cgroups on /sys/fs/cgroup"
    assert text in described(spec, V2, V2_CGROUP)


@pytest.mark.parametrize(("words", "add", "clear"), [
    (["ro", "nosuid"], mounts.ATTR_RDONLY | mounts.ATTR_NOSUID, 0),
    (["ro", "rw"], 0, mounts.ATTR_RDONLY),
    (["noatime", "relatime"], 0, mounts.ATTR_ATIME),
    (["strictatime"], mounts.ATTR_STRICTATIME, mounts.ATTR_ATIME),
    (["nodev", "dev", "nodev"], mounts.ATTR_NODEV, 0),
])
def test_attributes_where_the_last_word_counts(words, add, clear):
    parsed = options.parse(words)
    assert (parsed.add, parsed.clear) == (add, clear)


def test_options_are_sorted_by_whom_they_are_for():
    parsed = options.parse(["rbind", "rro", "rslave", "shared", "size=64k", "newinstance", "defaults"])
    assert parsed.recursive_bind
    assert parsed.bind
    assert (parsed.add, parsed.deep_add) == (0, mounts.ATTR_RDONLY)
    assert parsed.propagations == (options.Propagation(mounts.PROPAGATION_SLAVE, True),
                                       options.Propagation(mounts.PROPAGATION_SHARED, False))
    assert parsed.data == (("size", "64k"), ("newinstance", None))


@pytest.mark.parametrize(("key", "normal"), [
    ("net.ipv4.ip_forward", "net.ipv4.ip_forward"), ("net/ipv4/ip_forward", "net.ipv4.ip_forward"),
    ("net/ipv4/conf/eth0.1/rp_filter", "net.ipv4.conf.eth0/1.rp_filter"),
    ("net.ipv4.conf.eth0/1.rp_filter", "net.ipv4.conf.eth0/1.rp_filter")])
def test_sysctl_names_in_both_spellings(key, normal):
    assert sysctls.normalize(key) == normal
