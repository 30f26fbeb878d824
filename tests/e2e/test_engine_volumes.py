"""Volumes whose options name something to mount, and containers that are frozen while others ask things of them."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from barque.engine.volume_mounts import mounted
from tests.e2e.engine_world import EngineWorld, engine_world


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EngineWorld]:
    with engine_world(tmp_path_factory.mktemp("vols")) as made:
        yield made


def mountpoint(world: EngineWorld, name: str) -> str:
    return str(json.loads(world.ok("volume", "inspect", name))[0]["Mountpoint"])


def test_tmpfs_volume_is_shared_and_mounted_while_in_use(world: EngineWorld) -> None:
    world.ok("volume", "create", "-o", "type=tmpfs", "-o", "device=tmpfs", "-o", "o=size=1m,uid=7", "fast")
    path = mountpoint(world, "fast")
    assert not mounted(path)
    world.ok("run", "-d", "--name", "one", "-v", "fast:/v", "busybox", "sleep", "1000")
    world.ok("run", "-d", "--name", "two", "-v", "fast:/w:ro", "busybox", "sleep", "1000")
    assert mounted(path)
    world.ok("exec", "one", "sh", "-c", "stat -c %u /v > /v/owner")
    assert world.ok("exec", "two", "cat", "/w/owner") == "7"
    assert world.docker("exec", "two", "touch", "/w/x").code == 1
    world.ok("rm", "-f", "one")
    assert mounted(path)
    world.end(signal.SIGKILL)
    world.start()
    assert world.ok("exec", "two", "cat", "/w/owner") == "7"
    world.ok("rm", "-f", "two")
    assert not mounted(path)
    world.ok("volume", "rm", "fast")


def test_bind_volume_and_its_failure(world: EngineWorld, tmp_path: Path) -> None:
    source = tmp_path / "there"
    (source / "sub").mkdir(parents=True)
    (source / "sub" / "file").write_text("content")
    options = ["-o", "type=none", "-o", "o=bind", "-o"]
    world.ok("volume", "create", *options, f"device={source}", "bound")
    assert world.ok("run", "--rm", "-v", "bound:/v", "busybox", "cat", "/v/sub/file") == "content"
    assert world.ok("run", "--rm", "--mount", "source=bound,target=/v,volume-subpath=sub", "busybox", "cat",
                    "/v/file") == "content"
    world.ok("volume", "rm", "bound")
    assert (source / "sub" / "file").read_text() == "content"
    world.ok("volume", "create", *options, f"device={tmp_path}/missing", "broken")
    done = world.docker("run", "--rm", "-v", "broken:/v", "busybox", "true")
    path = mountpoint(world, "broken")
    assert f"error while mounting volume '{path}': failed to mount local volume: mount {tmp_path}/missing:" in done.err
    assert "no such file or directory" in done.err
    assert world.ok("ps", "-aq") == ""
    world.ok("volume", "rm", "broken")


def test_a_frozen_container_takes_no_exec(world: EngineWorld) -> None:
    container = world.ok("run", "-d", "--name", "cold", "busybox", "sleep", "1000")
    world.ok("pause", "cold")
    done = world.docker("exec", "cold", "true")
    assert done.code == 1
    assert f"ontainer {container} is paused, unpause the container before exec" in done.err
    assert "cannot attach to a paused container" in world.docker("attach", "cold").err
    assert "is already paused" in world.docker("pause", "cold").err
    world.ok("unpause", "cold")
    assert "is not paused" in world.docker("unpause", "cold").err
    execs = [world.popen("exec", "cold", "echo", "ran") for _ in range(4)]
    world.ok("pause", "cold")
    world.ok("unpause", "cold")
    for process in execs:
        out, error = process.communicate(timeout=60)
        # Frozen just then: the refusal comes instead of the upgrade, or through the stream after it.
        assert out == b"ran\n" or b"is paused" in out + error or b"received 409" in error
    world.ok("pause", "cold")
    world.ok("stop", "-t", "1", "cold")
    assert world.inspect("cold", "{{.State.Status}} {{.State.ExitCode}}") == "exited 137"
    world.ok("rm", "cold")
