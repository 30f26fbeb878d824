"""The whole runtime under a real systemd with its driver, on cgroup version 2; run in the virtual machine."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.runtime.conftest import Bundle, Runtime

SCOPE = "/sys/fs/cgroup/system.slice/barque-box.scope"


@pytest.fixture
def systemd(barque: Runtime, bundle: Bundle) -> Runtime:
    barque.base.append("--systemd-cgroup")
    bundle.linux["cgroupsPath"] = "system.slice:barque:box"
    return barque


class TestSystemd:
    def test_a_run_in_a_scope(self, systemd: Runtime, bundle: Bundle) -> None:
        bundle.linux["namespaces"] = [item for item in bundle.linux["namespaces"] if item["type"] != "cgroup"]
        assert systemd.output(bundle, "cat", "/proc/self/cgroup").strip() == "0::/system.slice/barque-box.scope"
        assert not Path(SCOPE).exists()

    def test_life_with_limits(self, systemd: Runtime, bundle: Bundle) -> None:
        bundle.linux["resources"] |= {"pids": {"limit": 20}, "memory": {"limit": 64 << 20}}
        bundle.save("sleep", "1000")
        systemd.detached("create", "--bundle", str(bundle.path), "box")
        systemd.ok("start", "box")
        assert Path(f"{SCOPE}/pids.max").read_text() == "20\n"
        where = systemd.ok("exec", "box", "cat", "/proc/self/cgroup")
        assert where == systemd.ok("exec", "box", "cat", "/proc/1/cgroup")
        systemd.ok("update", "--pids-limit", "33", "box")
        assert Path(f"{SCOPE}/pids.max").read_text() == "33\n"
        assert json.loads(systemd.ok("events", "--stats", "box"))["data"]["memory"]["usage"]["limit"] == 64 << 20
        systemd.ok("pause", "box")
        assert systemd.state("box")["status"] == "paused"
        systemd.ok("resume", "box")
        systemd.ok("delete", "--force", "box")
        assert not Path(SCOPE).exists()

    def test_a_failure_leaves_no_unit(self, systemd: Runtime, bundle: Bundle) -> None:
        assert systemd.run(bundle, "absent").returncode == 1
        assert not Path(SCOPE).exists()

    def test_a_path_that_is_none_of_systemds(self, systemd: Runtime, bundle: Bundle) -> None:
        bundle.linux["cgroupsPath"] = "/some/path"
        assert "slice:prefix:name" in systemd.run(bundle, "true").stderr

    def test_devices_are_filtered(self, systemd: Runtime, bundle: Bundle) -> None:
        bundle.process["capabilities"]["bounding"].append("CAP_MKNOD")
        bundle.process["noNewPrivileges"] = False
        done = systemd.run(bundle, "sh", "-c", "mknod /kmsg c 1 11; cat /kmsg; echo x > /dev/null && echo null")
        assert done.stdout == "null\n"
        assert "Operation not permitted" in done.stderr


