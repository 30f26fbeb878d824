"""Containers whose runtime is Debian's runc (or crun) instead of ours: the same monitor, the same commands."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.engine_world import PATIENCE, EngineWorld, engine_world
from tests.e2e.test_bad_input import wait_until

RUNTIMES = ("runc", "crun")


def usable(name: str) -> bool:
    """crun before 1.9 refuses hosts whose controllers are on cgroup version 1 beside a version 2 without them."""
    if shutil.which(name) is None:
        return False
    hybrid = Path("/sys/fs/cgroup/unified").is_dir()
    return name != "crun" or not hybrid


@pytest.fixture(scope="module", params=RUNTIMES)
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[EngineWorld]:
    if not usable(request.param):
        pytest.skip(f"needs a {request.param} that works on this host")
    root = tmp_path_factory.mktemp(request.param)
    with engine_world(root, flags=["--add-runtime", f"foreign={shutil.which(request.param)}", "--default-runtime",
                                   "foreign"]) as made:
        yield made


def test_run(world: EngineWorld) -> None:
    done = world.docker("run", "--rm", "-i", "-e", "X=y", "-w", "/made/here", "busybox", "sh", "-c",
                        "cat; echo $X; pwd; echo err >&2; exit 7", stdin="in\n")
    assert (done.code, done.out, done.err) == (7, "in\ny\n/made/here\n", "err\n")


def test_it_is_the_other_runtime(world: EngineWorld) -> None:
    name = world.ok("run", "-d", "busybox", "sleep", "1000")
    assert world.inspect(name, "{{.HostConfig.Runtime}}") == "foreign"
    assert list((world.root / "run/containers" / name / "oci").iterdir())
    world.ok("rm", "-f", name)


@pytest.mark.parametrize(("program", "code"), [("absent", 127), ("/etc", 126), ("/etc/passwd", 126)])
def test_what_cannot_run(world: EngineWorld, program: str, code: int) -> None:
    assert world.docker("run", "--rm", "busybox", program).code == code
    assert world.ok("ps", "-aq") == ""


def test_users_limits_and_hardening(world: EngineWorld) -> None:
    text = world.ok("run", "--rm", "-u", "bob", "--group-add", "wheel", "--cap-drop", "all", "--pids-limit", "20",
                    "--read-only", "--tmpfs", "/t", "busybox", "sh", "-c",
                    "id -u; id -G; sed -n 's/^CapBnd:.//p; s/^Seccomp:.//p' /proc/self/status; touch /x || touch /t/x")
    uid, *rest = text.split("\n")
    assert uid == "1000"
    assert set(rest[0].split()) == {"1000", "10"}
    assert rest[1:] == ["0" * 16, "2"]


def test_exec(world: EngineWorld) -> None:
    name = world.ok("run", "-d", "busybox", "sleep", "1000")
    done = world.docker("exec", "-i", "-u", "bob", name, "sh", "-c", "cat; id -u; exit 5", stdin="in\n")
    assert (done.code, done.out) == (5, "in\n1000\n")
    assert world.docker("exec", name, "absent").code == 127
    world.ok("rm", "-f", name)


def test_terminals(world: EngineWorld) -> None:
    name = world.ok("run", "-d", "-t", "busybox", "sh", "-c", "tty; exec sleep 1000")
    wait_until(lambda: world.ok("logs", name) == "/dev/pts/0")
    program = ["script", "-qec", f"docker exec -t {name} tty", "/dev/null"]
    done = subprocess.run(program, env=world.environment(), capture_output=True, text=True, check=True,
                          timeout=PATIENCE, stdin=subprocess.DEVNULL)
    assert "/dev/pts/1" in done.stdout
    world.ok("rm", "-f", name)


def test_kill_stop_and_restart(world: EngineWorld) -> None:
    name = world.ok("run", "-d", "busybox", "sh", "-c", "trap 'exit 9' TERM; echo ready; while :; do sleep 0.1; done")
    wait_until(lambda: world.ok("logs", name) == "ready")
    world.ok("stop", "-t", "30", name)
    assert world.inspect(name, "{{.State.ExitCode}}") == "9"
    world.ok("start", name)
    world.ok("kill", name)
    assert world.ok("wait", name) == "137"
    world.ok("restart", name)
    assert world.inspect(name, "{{.State.Running}}") == "true"
    world.ok("rm", "-f", name)


def test_pause_and_update(world: EngineWorld) -> None:
    name = world.ok("run", "-d", "--memory", "64m", "busybox", "sleep", "1000")
    world.ok("pause", name)
    assert world.inspect(name, "{{.State.Status}}") == "paused"
    world.ok("unpause", name)
    world.ok("update", "--pids-limit", "33", name)
    assert world.ok("stats", "--no-stream", "--format", "{{.PIDs}}", name) == "1"
    assert world.ok("top", name).endswith("sleep 1000")
    world.ok("rm", "-f", name)


def test_a_killed_daemon_finds_them_again(world: EngineWorld) -> None:
    name = world.ok("run", "-d", "busybox", "sh", "-c", "while :; do echo tick; sleep 0.1; done")
    ending = world.ok("run", "-d", "busybox", "sh", "-c", "while [ ! -e /end ]; do sleep 0.05; done; exit 9")
    pid, last = world.inspect(name, "{{.State.Pid}}"), world.inspect(ending, "{{.State.Pid}}")
    world.end(signal.SIGKILL)
    Path(f"/proc/{last}/root/end").touch()
    wait_until((world.root / "run/containers" / ending / "exit.json").exists)
    world.start()
    assert world.inspect(name, "{{.State.Running}} {{.State.Pid}}") == f"true {pid}"
    assert world.inspect(ending, "{{.State.Status}} {{.State.ExitCode}}") == "exited 9"
    assert world.ok("exec", name, "echo", "in") == "in"
    world.ok("rm", "-f", name, ending)


def test_a_name_that_nobody_registered(world: EngineWorld) -> None:
    done = world.docker("run", "--rm", "--runtime", "unknown", "busybox", "true")
    assert done.code == 125
    assert "unknown or invalid runtime name: unknown" in done.err


def test_the_names_that_dockerd_always_has(world: EngineWorld) -> None:
    world.ok("run", "--rm", "--runtime", "runc", "busybox", "true")
    assert {"barque", "runc", "io.containerd.runc.v2", "foreign"} == set(json.loads(
        world.ok("info", "--format", "{{json .Runtimes}}")))
