"""Checkpoints of an engine that has them, with a stand-in for criu: the real one is in guest_runtime_criu.py."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.engine_world import EngineWorld, barque, engine_world
from tests.e2e.test_bad_input import wait_until
from tests.runtime.criu_stand_in import install


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EngineWorld]:
    root = tmp_path_factory.mktemp("checkpoints")
    install(root / "bin/criu")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", f"{root / 'bin'}:/usr/bin:/bin:/usr/sbin:/sbin", prepend=":")
        with engine_world(root, flags=["--experimental"]) as made:
            yield made


def kept(world: EngineWorld, container: str) -> Path:
    return world.root / "data/containers" / container / "checkpoints"


def test_a_container_goes_on_from_a_checkpoint(world: EngineWorld) -> None:
    name = world.ok("run", "-d", "--restart", "always", "busybox", "sh", "-c", "echo first; exec sleep 1000")
    wait_until(lambda: world.ok("logs", name) == "first")
    created = barque(world, "checkpoint", "create", name, "one")
    assert (created.code, created.out) == (0, "one\n"), created.err
    assert world.inspect(name, "{{.State.Status}} {{.State.ExitCode}} {{.RestartCount}}") == "exited 137 0"
    assert barque(world, "checkpoint", "ls", name).out.split()[-1] == "one"

    (kept(world, name) / "one/behave").write_text("wait sh -c echo${IFS}again;exit${IFS}5")
    world.ok("update", "--restart", "no", name)
    started = barque(world, "start", "--checkpoint", "one", name)
    assert started.code == 0, started.err
    assert world.ok("wait", name) == "5"
    assert world.ok("logs", name) == "first\nagain"
    assert barque(world, "checkpoint", "rm", name, "one").code == 0
    assert not list(kept(world, name).iterdir())
    world.ok("rm", name)


def test_it_may_run_on(world: EngineWorld) -> None:
    name = world.ok("run", "-d", "busybox", "sleep", "1000")
    folder = world.root / "elsewhere"
    done = barque(world, "checkpoint", "create", "--leave-running", "--checkpoint-dir", str(folder), name, "two")
    assert done.code == 0, done.err
    assert world.inspect(name, "{{.State.Status}}") == "running"
    assert (folder / "two/descriptors.json").is_file() and not kept(world, name).exists()
    assert "already exists" in barque(world, "checkpoint", "create", "--checkpoint-dir", str(folder), name, "two").err
    world.ok("kill", name)

    (folder / "two/behave").write_text("wait sleep 1000")
    done = barque(world, "start", "--checkpoint", "two", "--checkpoint-dir", str(folder), name)
    assert done.code == 0, done.err
    assert world.inspect(name, "{{.State.Running}}") == "true"
    world.ok("kill", name)
    world.ok("rm", name)


def test_what_does_not_work(world: EngineWorld) -> None:
    name = world.ok("create", "--name", "wrong", "busybox", "sleep", "1000")
    assert "Container wrong not running" in barque(world, "checkpoint", "create", "wrong", "one").err
    assert "checkpoint none does not exist for container /wrong" in barque(
        world, "start", "--checkpoint", "none", "wrong").err
    world.ok("start", name)
    assert "Invalid checkpoint ID (../x), only" in barque(world, "checkpoint", "create", name, "../x").err
    assert "must be an absolute path" in barque(world, "checkpoint", "ls", "--checkpoint-dir", "x", name).err
    assert "does not exist for container" in barque(world, "checkpoint", "rm", name, "none").err

    criu = world.root / "bin/criu"
    criu.write_text("#!/bin/sh\nexit 1\n")
    try:
        failed = barque(world, "checkpoint", "create", name, "one")
    finally:
        install(criu)
    assert f"Cannot checkpoint container {name}: criu failed: it has ended with exit code 1" in failed.err
    assert world.inspect(name, "{{.State.Status}}") == "running"
    assert barque(world, "checkpoint", "ls", name).out.split() == ["CHECKPOINT", "NAME"]
    world.ok("rm", "-f", name)
