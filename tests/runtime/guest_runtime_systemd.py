"""The whole runtime under a real systemd with its driver, on cgroup version 2; run in the virtual machine."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.runtime.conftest import Bundle, Runtime
from tests.runtime.test_runtime_rootless import GID, UID, User, run
from tests.runtime.test_runtime_rootless import own as own
from tests.runtime.test_runtime_rootless import user as user

SCOPE = "/sys/fs/cgroup/system.slice/barque-box.scope"
#: The cgroup of the user's systemd in the virtual machine.
USER = "/sys/fs/cgroup/system.slice/user.service"


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


@pytest.fixture
def session(user: User, own: Bundle) -> Iterator[User]:
    """A user with a systemd of its own, in a cgroup below that one's, as a login or a service of the user is."""
    session = Path(f"{USER}/session")
    session.mkdir()
    for path in (session, session / "cgroup.procs"):
        os.chown(path, UID, GID)
    alone = user.command
    user.command = ["sh", "-c", f'echo $$ > {session}/cgroup.procs; exec "$@"', "sh", *alone, "--systemd-cgroup"]
    own.linux["cgroupsPath"] = ":barque:own"
    yield user
    user.command = alone
    session.rmdir()


class TestUsersSystemd:
    def test_life_in_a_scope_of_the_users(self, session: User, own: Bundle) -> None:
        own.linux["resources"] = {"memory": {"limit": 64 << 20}, "pids": {"limit": 20}}
        own.save("sleep", "1000")
        session.detached("run", "--detach", "--bundle", str(own.path), "box")
        scope = Path(f"{USER}/user.slice/barque-own.scope")
        assert (scope / "pids.max").read_text() == "20\n"
        assert (scope / "memory.max").read_text() == f"{64 << 20}\n"
        where = session.ok("exec", "box", "cat", "/proc/self/cgroup")
        assert where == session.ok("exec", "box", "cat", "/proc/1/cgroup")
        session.ok("pause", "box")
        assert json.loads(session.ok("state", "box"))["status"] == "paused"
        session.ok("delete", "--force", "box")
        assert not scope.exists()

    def test_a_failure_leaves_no_unit(self, session: User, own: Bundle) -> None:
        assert run(session, own, "absent").returncode == 1
        assert not Path(f"{USER}/user.slice/barque-own.scope").exists()
