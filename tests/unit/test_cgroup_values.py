"""What the cgroup managers decide before they write: layouts, paths, conversions and device rules."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from barque.oci.runtime_spec import CPU, BlockIO, DeviceCgroup, Memory, Pids, Resources
from barque.runtime import cgroups, security
from barque.runtime.cgroups import InvalidResources, device_filter, limits, systemd, v2_stats
from barque.runtime.cgroups.base import host_layout, resolve
from barque.runtime.cgroups.device_rules import DeviceSet, evaluate, line, parse_list
from barque.runtime.cgroups.v1_stats import _entries
from barque.sys import ebpf

MOUNTS = {
    "v2": "30 1 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw,nsdelegate\n",
    "v1": "31 1 0:27 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n"
          "32 1 0:28 /box /mnt/odd\\040name rw shared:3 - cgroup cgroup rw,memory\n"
          "33 1 0:29 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd\n",
}
V1_OWN = "4:cpu,cpuacct:/user\n3:memory:/box/inner\n2:name=systemd:/init.scope\n1:pids:/\n"
ENABLED = "#subsys_name\thierarchy\tnum_cgroups\tenabled\ncpu\t1\t1\t1\nmemory\t2\t1\t0\n"


def test_layouts() -> None:
    pure = host_layout(MOUNTS["v2"], "0::/user.slice/a.scope\n", ENABLED)
    assert pure.version == "v2"
    assert pure.enabled == {"cpu"}
    old = host_layout(MOUNTS["v1"], V1_OWN, ENABLED)
    assert old.version == "v1"
    assert old.controllers == {"cpu", "cpuacct", "memory"}
    assert host_layout(MOUNTS["v1"] + MOUNTS["v2"], V1_OWN + "0::/\n", ENABLED).version == "hybrid"
    # Only a named hierarchy beside version 2 does not make a hybrid.
    named = MOUNTS["v1"].splitlines()[2] + "\n"
    assert host_layout(named + MOUNTS["v2"], "1:name=systemd:/\n0::/\n", ENABLED).version == "v2"
    with pytest.raises(FileNotFoundError):
        host_layout("1 0 8:1 / / rw - ext4 /dev/sda1 rw\n", "0::/\n", ENABLED)


def test_where_a_path_leads() -> None:
    old = host_layout(MOUNTS["v1"], V1_OWN, ENABLED)
    absolute = cgroups.manager("/docker/abc", layout=old).paths()
    assert absolute["cpu"] == absolute["cpuacct"] == "/sys/fs/cgroup/cpu,cpuacct/docker/abc"
    assert absolute["memory"] == "/mnt/odd name/docker/abc"
    relative = cgroups.manager("abc", layout=old).paths()
    assert relative["cpu"] == "/sys/fs/cgroup/cpu,cpuacct/user/abc"
    # The mount shows what lies below /box only.
    assert relative["memory"] == "/mnt/odd name/inner/abc"
    pure = host_layout(MOUNTS["v2"], "0::/user.slice/a.scope\n", ENABLED)
    assert cgroups.manager("abc", layout=pure).paths() == {"unified": "/sys/fs/cgroup/user.slice/abc"}


@pytest.mark.parametrize(("path", "expected"), [("/a/../../b", "/b"), ("../../b", "/own/b"), ("//x//y/", "/x/y")])
def test_paths_stay_below(path: str, expected: str) -> None:
    assert resolve(path, "/own") == expected


@pytest.mark.parametrize("path", ["", "/", "..", "/..", "//"])
def test_a_path_must_name_a_cgroup(path: str) -> None:
    with pytest.raises(InvalidResources, match="names no cgroup"):
        resolve(path, "/own")


def test_shares_become_weights() -> None:
    assert [limits.weight_of_shares(shares) for shares in (0, 1, 2, 1024, 262144, 1 << 20)] == [
        0, 1, 1, 100, 10000, 10000]
    weights = [limits.weight_of_shares(shares) for shares in range(2, 5000, 7)]
    assert weights == sorted(weights)
    assert [limits.io_weight_of_blkio(weight) for weight in (0, 10, 500, 1000)] == [0, 1, 4950, 10000]


@pytest.mark.parametrize(("memory", "swap"), [
    (Memory(limit=100, swap=150), "50"), (Memory(limit=100, swap=100), "0"), (Memory(limit=100, swap=-1), "max"),
    (Memory(limit=100), None), (Memory(limit=-1), "max"), (Memory(limit=-1, swap=-1), "max"), (Memory(), None),
])
def test_swap_alone_is_the_difference(memory: Memory, swap: str | None) -> None:
    assert limits.swap_of_memsw(memory) == swap


@pytest.mark.parametrize("resources", [
    Resources(memory=Memory(limit=100, swap=50)), Resources(memory=Memory(limit=100, reservation=200)),
    Resources(memory=Memory(swappiness=101)), Resources(cpu=CPU(idle=2)), Resources(block_io=BlockIO(weight=5)),
])
def test_contradictions_are_refused(resources: Resources) -> None:
    with pytest.raises(InvalidResources):
        limits.check(resources)
    with pytest.raises(InvalidResources):
        limits.swap_of_memsw(Memory(swap=100))


_rules = st.lists(st.builds(
    DeviceCgroup, allow=st.booleans(), type=st.sampled_from(["c", "b", "a", ""]), major=st.none(), minor=st.none(),
    access=st.sampled_from(["", "r", "w", "m", "rw", "rwm"])) | st.builds(
    DeviceCgroup, allow=st.booleans(), type=st.sampled_from(["c", "b"]), major=st.sampled_from([None, -1, 1, 8, 2**31]),
    minor=st.sampled_from([None, 0, 3]), access=st.sampled_from(["", "r", "w", "m", "rw", "mw", "rwm"])), max_size=7)
_access = st.sampled_from(["r", "w", "m", "rw", "rm", "rwm"])


def _last_word(rules: list[DeviceCgroup], kind: str, major: int, minor: int, access: str) -> bool:
    """The meaning of ordered rules, access by access."""
    for one in access:
        allowed = False
        for rule in rules:
            matches = rule.type in ("", "a", kind) and rule.major in (None, -1, major) and rule.minor in (None, minor)
            if matches and one in (rule.access or "rwm"):
                allowed = rule.allow
        if not allowed:
            return False
    return True


def _run_filter(program: bytes, kind: str, major: int, minor: int, access: str) -> bool:
    """A machine for the instructions that the assembler emits."""
    wanted = sum({"m": 1, "r": 2, "w": 4}[one] for one in access)
    context = struct.pack("=III", wanted << 16 | {"b": 1, "c": 2}[kind], major, minor)
    registers, at = [0] * 11, 0
    while True:
        code, pair, offset, immediate = struct.unpack_from("=BBhi", program, at * 8)
        dst, src, immediate = pair & 15, pair >> 4, immediate & 0xFFFFFFFF
        at += 1
        if code == ebpf.EXIT:
            return bool(registers[0])
        if code == ebpf.LDX_W:
            assert src == 1
            registers[dst] = struct.unpack_from("=I", context, offset)[0]
        elif code == ebpf.MOV32_X:
            registers[dst] = registers[src]
        elif code == ebpf.MOV_K:
            registers[dst] = immediate
        elif code == ebpf.AND32_K:
            registers[dst] &= immediate
        elif code == ebpf.RSH32_K:
            registers[dst] >>= immediate
        else:
            assert code in (ebpf.JNE32_K, ebpf.JEQ32_K)
            assert offset >= 0
            if (registers[dst] == immediate) == (code == ebpf.JEQ32_K):
                at += offset


@settings(max_examples=300, deadline=None)
@given(_rules, st.sampled_from("bc"), st.sampled_from([0, 1, 8, 2**31]), st.sampled_from([0, 3, 9]), _access)
def test_the_device_program_does_what_the_rules_say(rules: list[DeviceCgroup], kind: str, major: int, minor: int,
                                                    access: str) -> None:
    program = device_filter.assemble(rules)
    assert _run_filter(program, kind, major, minor, access) == _last_word(rules, kind, major, minor, access)


def _by_set(devices: DeviceSet, kind: str, major: int, minor: int, access: str) -> bool:
    excepted: set[str] = set()
    for (one, first, second), letters in devices.exceptions.items():
        if one == kind and first in (-1, major) and second in (-1, minor):
            excepted |= letters
    return not set(access) & excepted if devices.default_allow else set(access) <= excepted


@settings(max_examples=300, deadline=None)
@given(_rules, st.sampled_from("bc"), st.sampled_from([0, 1, 8, 2**31]), st.sampled_from([0, 3, 9]), _access)
def test_exceptions_mean_the_same_as_rules(rules: list[DeviceCgroup], kind: str, major: int, minor: int,
                                           access: str) -> None:
    try:
        devices = evaluate(rules)
    except InvalidResources as error:
        assert "cgroup v1 cannot express" in error.message
        return
    assert _by_set(devices, kind, major, minor, access) == _last_word(rules, kind, major, minor, access)


def test_device_rules_as_text() -> None:
    devices = evaluate(security.default_device_rules())
    lines = {line(key, access) for key, access in devices.exceptions.items()}
    assert not devices.default_allow
    assert {"c *:* m", "b *:* m", "c 1:3 rwm", "c 136:* rwm", "c 5:2 rwm"} <= lines
    assert parse_list("\n".join(sorted(lines))) == devices
    assert parse_list("a *:* rwm\n") == DeviceSet(True)
    for rule in (DeviceCgroup(type="x"), DeviceCgroup(access="q"), DeviceCgroup(type="a", major=1)):
        with pytest.raises(InvalidResources, match="invalid device rule"):
            evaluate([rule])


def test_block_io_counters() -> None:
    octets, operations = v2_stats._io("8:0 rbytes=10 wbytes=20 rios=1 wios=2 dbytes=0 dios=0\n7:0 \n")
    assert [(entry.op, entry.value) for entry in octets] == [("Read", 10), ("Write", 20), ("Discard", 0)]
    assert [(entry.op, entry.value) for entry in operations] == [("Read", 1), ("Write", 2), ("Discard", 0)]
    assert [(e.major, e.op, e.value) for e in _entries("8:16 Read 5\n8:16 Total 5\nTotal 5\n")] == [
        (8, "Read", 5), (8, "Total", 5)]


def test_units_and_slices() -> None:
    assert systemd.unit_of("a-b.slice:docker:xyz") == ("a-b.slice", "docker-xyz.scope")
    assert systemd.unit_of("::xyz") == ("system.slice", "xyz.scope")
    assert systemd.slice_path("a-b-c.slice") == "/a.slice/a-b.slice/a-b-c.slice"
    assert systemd.slice_path("-.slice") == "/"
    for path in ("/docker/xyz", "a:b", "a:b:", "x.slice:y:z.slice", "a:b:c/d"):
        with pytest.raises(InvalidResources):
            systemd.unit_of(path)
    for name in ("a", ".slice", "a--b.slice", "-a.slice", "a/b.slice"):
        with pytest.raises(InvalidResources, match="invalid slice name"):
            systemd.slice_path(name)


def test_unit_properties() -> None:
    resources = Resources(memory=Memory(limit=-1), cpu=CPU(quota=33_333, period=100_000, shares=2), pids=Pids(-1))
    assert dict(systemd.properties(resources, True)) == {
        "MemoryMax": ("t", (1 << 64) - 1), "MemorySwapMax": ("t", (1 << 64) - 1), "CPUWeight": ("t", 1),
        "CPUQuotaPerSecUSec": ("t", 340_000), "CPUQuotaPeriodUSec": ("t", 100_000), "TasksMax": ("t", (1 << 64) - 1)}
    assert dict(systemd.properties(resources, False))["MemoryLimit"] == ("t", (1 << 64) - 1)
    text = "Character devices:\n  1 mem\n136 pts\n136 ptmx\n\nBlock devices:\n  1 ramdisk\n"
    assert systemd._drivers("c", 136, text) == ["pts", "ptmx"]
    assert systemd._drivers("b", 1, text) == ["ramdisk"]


def test_without_systemd_its_driver_says_so() -> None:
    if systemd.running():
        pytest.skip("systemd is this host's init")
    manager = cgroups.manager("system.slice:barque:x", driver="systemd",
                              layout=host_layout(MOUNTS["v2"], "0::/\n", ENABLED))
    with pytest.raises(OSError, match="systemd not running on this host"):
        manager.create()
