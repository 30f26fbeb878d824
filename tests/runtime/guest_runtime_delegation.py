"""An ordinary user with a cgroup of its own on version 2: limits without root. Run in the virtual machine."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.runtime.conftest import Bundle
from tests.runtime.test_runtime_rootless import GID, UID, User, run
from tests.runtime.test_runtime_rootless import own as own
from tests.runtime.test_runtime_rootless import user as user

TOP = Path("/sys/fs/cgroup")
#: What a session manager gives away (cgroup-v2.rst, "Model of Delegation"): the user sits in a cgroup below it.
DELEGATED = TOP / "delegated"


@pytest.fixture
def delegated(user: User) -> Iterator[User]:
    (TOP / "cgroup.subtree_control").write_text("+memory +pids +cpu")
    (DELEGATED / "session").mkdir(parents=True)
    for path in (DELEGATED, *(DELEGATED / name for name in ("cgroup.procs", "cgroup.subtree_control"))):
        os.chown(path, UID, GID)
    alone = user.command
    user.command = ["sh", "-c", f'echo $$ > {DELEGATED}/session/cgroup.procs; exec "$@"', "sh", *alone]
    yield user
    user.command = alone
    (DELEGATED / "session").rmdir()
    DELEGATED.rmdir()


class TestDelegation:
    def test_limits_hold(self, delegated: User, own: Bundle) -> None:
        own.linux["resources"] = {"memory": {"limit": 64 << 20}, "pids": {"limit": 5}}
        assert run(delegated, own, "cat", "/proc/self/cgroup").stdout == "0::/\n"
        done = run(delegated, own, "sh", "-c", "for i in 1 2 3 4 5 6; do sleep 1 & done")
        assert "can't fork" in done.stderr
        assert not (DELEGATED / "rootless").exists()

    def test_life_in_a_cgroup(self, delegated: User, own: Bundle) -> None:
        own.linux["resources"] = {"memory": {"limit": 64 << 20}}
        own.save("sleep", "1000")
        delegated.detached("run", "--detach", "--bundle", str(own.path), "box")
        assert (DELEGATED / "box/memory.max").read_text() == f"{64 << 20}\n"
        where = delegated.ok("exec", "box", "cat", "/proc/self/cgroup")
        assert where == delegated.ok("exec", "box", "cat", "/proc/1/cgroup")
        delegated.ok("update", "--pids-limit", "33", "box")
        assert (DELEGATED / "box/pids.max").read_text() == "33\n"
        delegated.ok("pause", "box")
        assert json.loads(delegated.ok("state", "box"))["status"] == "paused"
        delegated.ok("delete", "--force", "box")
        assert not (DELEGATED / "box").exists()
