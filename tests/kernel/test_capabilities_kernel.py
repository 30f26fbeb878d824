"""Capabilities and resource limits on real processes."""

from __future__ import annotations

import os
import resource

import pytest

from barque.oci.runtime_spec import Capabilities
from barque.runtime import capabilities
from barque.sys import caps, rlimit
from tests.kernel.in_child import in_child


def _status() -> dict[str, int]:
    with open("/proc/self/status") as file:
        return {line[3:6]: int(line.split()[1], 16) for line in file if line.startswith("Cap")}


def test_names_and_numbers_agree_with_the_kernel() -> None:
    assert caps.NAMES[0] == "CAP_CHOWN"
    assert caps.NUMBERS["CAP_CHECKPOINT_RESTORE"] == 40
    assert caps.last() == len(capabilities.known()) - 1
    status = _status()
    assert caps.get_sets() == (status["Eff"], status["Prm"], status["Inh"])
    assert caps.bounding() == status["Bnd"]
    assert caps.to_mask(caps.to_names(status["Bnd"])) == status["Bnd"]


def _wanted(names: list[str], ambient: list[str] | None = None) -> Capabilities:
    return Capabilities(bounding=names, effective=names, permitted=names, inheritable=ambient or [],
                        ambient=ambient or [])


@pytest.mark.parametrize("uid", [0, 1000])
def test_a_process_gets_exactly_the_sets(uid: int) -> None:
    sets, warnings = capabilities.prepare(_wanted(list(capabilities.DEFAULT)))
    assert warnings == []

    def child() -> dict[str, int]:
        capabilities.limit_bounding(sets)
        os.setresuid(uid, uid, uid)
        capabilities.apply(sets)
        assert not caps.keeps_on_setuid()
        return _status()
    assert in_child(child) == {"Inh": 0, "Prm": 0xA80425FB, "Eff": 0xA80425FB, "Bnd": 0xA80425FB, "Amb": 0}


def test_ambient_capabilities_survive_exec_of_another_user() -> None:
    sets, _ = capabilities.prepare(_wanted(["CAP_NET_BIND_SERVICE", "CAP_CHOWN"], ["CAP_NET_BIND_SERVICE"]))
    reader, writer = os.pipe()

    def child() -> None:
        capabilities.limit_bounding(sets)
        os.setresuid(1000, 1000, 1000)
        capabilities.apply(sets)
        os.dup2(writer, 1)
        os.execv("/bin/cat", ["cat", "/proc/self/status"])
    pid = os.fork()
    if pid == 0:
        try:
            child()
        finally:
            os._exit(1)
    os.close(writer)
    with os.fdopen(reader) as file:
        text = file.read()
    assert os.waitpid(pid, 0)[1] == 0
    assert f"CapEff:\t{1 << 10:016x}" in text
    assert f"CapAmb:\t{1 << 10:016x}" in text
    assert f"CapBnd:\t{1 << 10 | 1:016x}" in text


def test_what_was_dropped_cannot_be_used_or_had_back() -> None:
    sets, _ = capabilities.prepare(_wanted(["CAP_SETUID"]))

    def child() -> str:
        capabilities.limit_bounding(sets)
        capabilities.apply(sets)
        with pytest.raises(PermissionError):
            os.chown("/proc/self", 1, 1)
        with pytest.raises(PermissionError):
            caps.set_sets(1, 1, 0)
        with pytest.raises(PermissionError):
            caps.raise_ambient(1)
        return "refused"
    assert in_child(child) == "refused"


def test_what_the_host_lacks_is_dropped_with_a_warning() -> None:
    def child() -> tuple[int, list[str]]:
        caps.drop_from_bounding(1 << caps.NUMBERS["CAP_SYS_TIME"])
        sets, warnings = capabilities.prepare(_wanted(["CAP_CHOWN", "CAP_SYS_TIME", "CAP_NO_SUCH"]))
        capabilities.limit_bounding(sets)
        capabilities.apply(sets)
        return _status()["Eff"], warnings
    effective, warnings = in_child(child)
    assert effective == 1
    assert warnings == ["ignoring unknown or unavailable capabilities: CAP_NO_SUCH",
                        "this host cannot grant: CAP_SYS_TIME"]


def test_resource_limits_are_set_by_name() -> None:
    def child() -> tuple[tuple[int, int], tuple[int, int], str | None]:
        first = rlimit.set_limit("RLIMIT_NOFILE", 100, 200)
        rlimit.set_limit("RLIMIT_CORE", 0, 0)
        return rlimit.get("RLIMIT_NOFILE"), rlimit.get("RLIMIT_CORE"), first
    assert in_child(child) == ((100, 200), (0, 0), None)


def test_a_hard_limit_that_may_not_be_raised_degrades_with_a_warning() -> None:
    def child() -> tuple[str | None, tuple[int, int]]:
        resource.setrlimit(resource.RLIMIT_NOFILE, (50, 100))
        os.setresuid(65534, 65534, 65534)
        return rlimit.set_limit("RLIMIT_NOFILE", 150, rlimit.INFINITY), rlimit.get("RLIMIT_NOFILE")
    warning, limit = in_child(child)
    assert warning == "RLIMIT_NOFILE: the hard limit stays at 100, no permission to raise it to unlimited"
    assert limit == (100, 100)


def test_limits_that_make_no_sense_are_refused() -> None:
    with pytest.raises(rlimit.UnknownRlimit, match="wrong rlimit value: RLIMIT_FOO"):
        rlimit.set_limit("RLIMIT_FOO", 1, 1)
    with pytest.raises(ValueError, match="above the hard limit"):
        rlimit.set_limit("RLIMIT_NOFILE", 2, 1)


def test_what_cannot_be_ambient_is_a_warning() -> None:
    sets, warnings = capabilities.prepare(Capabilities(bounding=["CAP_CHOWN"], permitted=["CAP_CHOWN"],
                                                       effective=["CAP_CHOWN"], ambient=["CAP_CHOWN"]))
    assert sets.ambient == 0
    assert warnings == ["cannot be ambient without being permitted and inheritable: CAP_CHOWN"]
