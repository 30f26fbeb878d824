"""What is refused before anything is done."""

from __future__ import annotations

import pytest

from barque.errors import InvalidArgument
from barque.oci.runtime_spec import (
    Device,
    Hook,
    Hooks,
    IDMapping,
    IOPriority,
    MemoryPolicy,
    Mount,
    Namespace,
    NetDevice,
    Personality,
    Rlimit,
    Scheduler,
    TimeOffset,
)
from barque.runtime import validate
from barque.runtime.default_spec import default_spec


def change(path: str, value):
    def apply(spec):
        target = spec
        *parents, last = path.split(".")
        for name in parents:
            target = getattr(target, name)
        setattr(target, last, value)
    return apply


def without(kind: str):
    def apply(spec):
        spec.linux.namespaces = [item for item in spec.linux.namespaces if item.type != kind]
    return apply


def added(path: str, *values):
    def apply(spec):
        target = spec
        for name in path.split("."):
            target = getattr(target, name)
        target.extend(values)
    return apply



@pytest.mark.parametrize(("edit", "text"), [
    (change("root", None), "root.path must be set"),
    (change("process", None), "process must be set"),
    (change("process.args", []), "args must not be empty"),
    (change("process.args", ["a\0b"]), "must not contain NUL"),
    (change("process.cwd", "relative"), "Cwd must be an absolute path"),
    (change("process.env", ["NOVALUE"]), "invalid environment variable: 'NOVALUE'"),
    (change("process.apparmor_profile", "x"), "apparmor is not enabled on this host"),
    (change("process.selinux_label", "x"), "selinux is disabled or not supported"),
    (change("process.oom_score_adj", 1001), "invalid oomScoreAdj 1001"),
    (change("process.rlimits", [Rlimit("RLIMIT_NONSENSE", 1, 1)]), "invalid rlimit type: RLIMIT_NONSENSE"),
    (change("process.rlimits", [Rlimit("RLIMIT_CORE", 1, 2)]), "soft limit 2 is above the hard limit 1"),
    (change("process.rlimits", [Rlimit("RLIMIT_CORE", 1, 1)] * 2), "given twice"),
    (change("process.scheduler", Scheduler("SCHED_NONE")), "invalid scheduler policy"),
    (change("process.scheduler", Scheduler("SCHED_FIFO", flags=["X"])), "invalid scheduler flag"),
    (change("process.io_priority", IOPriority("X")), "invalid ioPriority.Class"),
    (change("process.io_priority", IOPriority("IOPRIO_CLASS_BE", 8)), "invalid ioPriority.Priority: 8"),
    (without("mount"), "unable to restrict sys entries without a private MNT namespace"),
    (without("uts"), "unable to set hostname without a private UTS namespace"),
    (added("linux.namespaces", Namespace("pid")), "duplicated ns 'pid'"),
    (added("linux.namespaces", Namespace("nonsense")), "namespace 'nonsense' does not exist"),
    (added("linux.namespaces", Namespace("user")), "no uid or gid mappings found"),
    (change("linux.uid_mappings", [IDMapping(0, 0, 1)]), "user namespace isn't enabled"),
    (change("linux.time_offsets", {"monotonic": TimeOffset(1)}), "need a time namespace"),
    (change("linux.sysctl", {"kernel.core_pattern": "x"}), "is not in a separate kernel namespace"),
    (change("linux.sysctl", {"net.x/../../../kernel/core_pattern": "x"}), "is not in a separate kernel namespace"),
    (change("linux.sysctl", {"user.max_user_namespaces": "1"}), "is not allowed in the hosts user namespace"),
    (change("linux.sysctl", {"kernel.hostname": "x"}), "conflicts with the OCI"),
    (change("linux.intel_rdt", {}), "intelRdt is not supported"),
    (change("linux.net_devices", {"eth0": NetDevice("a/b")}), "invalid network device name 'a/b'"),
    (change("linux.net_devices", {"a": NetDevice("c"), "b": NetDevice("c")}), "two devices are to have the same name"),
    (change("linux.mount_label", "x"), "selinux is disabled or not supported"),
    (change("linux.rootfs_propagation", "x"), "rootfsPropagation=x is not supported"),
    (change("linux.memory_policy", MemoryPolicy("MPOL_BEST")), "invalid memory policy mode 'MPOL_BEST'"),
    (change("linux.memory_policy", MemoryPolicy("MPOL_LOCAL", flags=["X"])), "invalid memory policy flag 'X'"),
    (change("linux.memory_policy", MemoryPolicy("MPOL_BIND")), "requires at least one node but got 0"),
    (change("linux.memory_policy", MemoryPolicy("MPOL_DEFAULT", "0-1")), "requires 0 nodes but got 2"),
    (change("linux.memory_policy", MemoryPolicy("MPOL_BIND", "none")), "invalid list of numbers 'none'"),
    (change("linux.personality", Personality("BSD")), "unknown personality domain 'BSD'"),
    (change("linux.personality", Personality("LINUX", ["X"])), "personality flags are not supported"),
    (change("linux.devices", [Device("/dev/x", "q")]), "device type 'q'"),
    (change("linux.devices", [Device("/dev/../x", "c")]), "must be absolute and clean"),
    (added("mounts", Mount("/x", "bind", "/y", ["remount"])), "'remount' is not supported"),
    (added("mounts", Mount("/x", "bind", "/y", ["nr_inodes=1"])), "'nr_inodes=1' means nothing to a bind mount"),
    (added("mounts", Mount("/x", "bind")), "a bind mount needs a source"),
    (added("mounts", Mount("/x")), "type must be set"),
    (added("mounts", Mount("", "tmpfs")), "invalid mount destination"),
    (added("mounts", Mount("/x", "tmpfs", uid_mappings=[IDMapping(0, 0, 1)])), "both uidMappings and gidMappings"),
    (added("mounts", Mount("/x", "bind", "/y", ["idmap"])), "only bind mounts with mappings of their own"),
    (change("hooks", Hooks(prestart=[Hook("relative")])), "must be absolute"),
    (change("hooks", Hooks(poststop=[Hook("/x", timeout=0)])), "timeout must be greater than zero"),
])
def test_refused(edit, text):
    spec = default_spec()
    validate.check(spec)
    edit(spec)
    with pytest.raises(InvalidArgument) as caught:
        validate.check(spec)
    assert text in str(caught.value)


@pytest.mark.parametrize("sysctl", ["net.ipv4.ip_forward", "net/ipv4/conf/eth0.1/forwarding", "kernel.shmmax",
                                    "fs.mqueue.msg_max", "kernel.domainname"])
def test_sysctls_of_namespaces_are_taken(sysctl):
    spec = default_spec()
    spec.linux.sysctl = {sysctl: "1"}
    validate.check(spec)


@pytest.mark.parametrize(("text", "cpus"), [("0", {0}), ("0-2,5", {0, 1, 2, 5}), ("", set())])
def test_cpu_lists(text, cpus):
    assert validate.parse_numbers(text) == cpus


@pytest.mark.parametrize("text", ["x", "3-1", "-1", "1-", "0-99999999", "1_0", "٣"])
def test_wrong_cpu_lists(text):
    with pytest.raises(validate.InvalidSpec):
        validate.parse_numbers(text)
