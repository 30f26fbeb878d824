"""``run --security-opt seccomp=learn:FILE``, then ``seccomp=FILE``: from a command to the least that it needs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.engine_world import PATIENCE, Done, EngineWorld, engine_world

SCRIPT = "mkdir /tmp/made && echo made"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EngineWorld]:
    with engine_world(tmp_path_factory.mktemp("learn")) as made:
        yield made


def barque(world: EngineWorld, *words: str, cwd: Path | None = None) -> Done:
    done = subprocess.run([sys.executable, "-m", "barque.cli.main", *words], env=world.environment(), cwd=cwd,
                          stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=PATIENCE)
    return Done(done.stdout, done.stderr, done.returncode)


def written(path: Path) -> dict[str, object]:
    """The learner writes after the last process has gone, which is a little later than the client hears of the end."""
    deadline = time.monotonic() + PATIENCE
    while not path.exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    document = json.loads(path.read_text())
    assert isinstance(document, dict)
    return document


def test_from_a_run_to_a_profile(world: EngineWorld, tmp_path: Path) -> None:
    done = barque(world, "run", "--rm", "--security-opt", "seccomp=learn:profile.json", "busybox", "sh", "-c", SCRIPT,
                  cwd=tmp_path)
    assert (done.code, done.out) == (0, "made\n"), done.err
    profile = written(tmp_path / "profile.json")
    assert profile["defaultAction"] == "SCMP_ACT_ERRNO"
    option = f"seccomp={tmp_path}/profile.json"
    assert barque(world, "run", "--rm", "--security-opt", option, "busybox", "sh", "-c", SCRIPT).out == "made\n"
    refused = barque(world, "run", "--rm", "--security-opt", option, "busybox", "ln", "-s", "a", "/b")
    assert refused.code != 0
    assert "Operation not permitted" in refused.err


def test_a_daemon_that_dies_meanwhile(world: EngineWorld, tmp_path: Path) -> None:
    name = barque(world, "run", "-d", "--security-opt", f"seccomp=learn:{tmp_path}/p", "busybox", "sleep",
                  "1000").out.strip()
    world.end(9)
    world.start()
    world.ok("exec", name, "ln", "-s", "a", "/b")
    world.ok("rm", "-f", name)
    assert "symlink" in json.dumps(written(tmp_path / "p"))


def test_nothing_is_left_of_a_start_that_failed(world: EngineWorld, tmp_path: Path) -> None:
    done = barque(world, "run", "--rm", "--security-opt", f"seccomp=learn:{tmp_path}/p", "busybox", "absent")
    assert done.code == 127
    assert not (tmp_path / "p").exists()
    assert [name for name in os.listdir(world.root / "run/m") if name.endswith(".learn")] == []


@pytest.mark.parametrize(("words", "text"), [
    (["--privileged"], "of no use to a privileged container"),
    (["--security-opt", "seccomp=learn:/no/such/directory/p"], "cannot learn a seccomp profile")])
def test_what_cannot_be_learned(world: EngineWorld, tmp_path: Path, words: list[str], text: str) -> None:
    done = barque(world, "run", "--rm", *words, "--security-opt", f"seccomp=learn:{tmp_path}/p", "busybox", "true")
    assert done.code == 125
    assert text in done.err
