"""The daemon dies, or stops, with containers running; the next one takes over."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from tests.e2e.engine_world import PATIENCE, EngineWorld, engine_world
from tests.e2e.test_bad_input import wait_until

TICK = "i=0; while :; do echo tick $i; i=$((i+1)); sleep 0.1; done"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EngineWorld]:
    with engine_world(tmp_path_factory.mktemp("restart")) as made:
        yield made


def end(world: EngineWorld, container: str, pid: int, number: int) -> None:
    """End a container of a daemon that is dead; returns once its monitor has recorded it."""
    os.kill(pid, number)
    wait_until((world.root / "run/containers" / container / "exit.json").exists)


def test_kill_9_leaves_containers_running_and_the_next_daemon_adopts_them(world: EngineWorld) -> None:
    world.ok("run", "-d", "--name", "on", "busybox", "sh", "-c", TICK)
    ends = world.ok("run", "-d", "--name", "ends", "busybox", "sh", "-c",
                    "trap 'exit 9' TERM; read x < /dev/zero & echo ready; while :; do sleep 0.1; done")
    goes = world.ok("run", "-d", "--rm", "--name", "goes", "busybox", "sleep", "1000")
    wait_until(lambda: world.ok("logs", "ends") == "ready")
    pid, ending, going = (int(world.inspect(name, "{{.State.Pid}}")) for name in ("on", "ends", "goes"))
    world.end(signal.SIGKILL)
    assert os.path.exists(f"/proc/{pid}")
    end(world, ends, ending, signal.SIGTERM)
    end(world, goes, going, signal.SIGKILL)
    ticks_at_restart = time.time()
    world.start()
    assert world.inspect("on", "{{.State.Running}} {{.State.Pid}}") == f"true {pid}"
    assert world.inspect("ends", "{{.State.Status}} {{.State.ExitCode}}") == "exited 9"
    assert world.ok("exec", "on", "echo", "in") == "in"
    events = world.ok("events", "--since", str(ticks_at_restart), "--until", str(time.time() + 1), "--filter",
                      "event=die",
                      "--format", "{{.Actor.Attributes.name}} {{.Actor.Attributes.exitCode}}").split("\n")
    assert "ends 9" in events
    numbers = [int(line.split()[1]) for line in world.ok("logs", "on").split("\n")]
    assert numbers == list(range(len(numbers)))
    wait_until(lambda: "goes" not in world.ok("ps", "-a", "--format", "{{.Names}}"))
    world.ok("stop", "-t", "1", "on")
    assert world.inspect("on", "{{.State.ExitCode}}") == "137"
    world.ok("rm", "on", "ends")


def test_a_stop_of_the_daemon_stops_containers_and_policies_bring_them_back(world: EngineWorld) -> None:
    for name, policy in (("no", "no"), ("always", "always"), ("unless", "unless-stopped"), ("stopped",
                                                                                            "unless-stopped")):
        world.ok("run", "-d", "--name", name, "--restart", policy, "--stop-timeout", "1", "busybox", "sleep", "1000")
    world.ok("kill", "stopped")
    assert world.end() == 0
    assert not os.path.exists(world.socket)
    world.start()
    wait_until(lambda: set(world.ok("ps", "--format", "{{.Names}}").split()) == {"always", "unless"})
    world.ok("rm", "-f", "no", "always", "unless", "stopped")


@pytest.mark.parametrize("point", ["container.create.after-snapshot", "container.create.after-row",
                                   "container.start.after-create", "container.start.after-row",
                                   "container.remove.after-row"])
def test_a_crash_anywhere_leaves_no_ghost(world: EngineWorld, point: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert world.end() == 0
    monkeypatch.setenv("BARQUE_FAILPOINTS", f"{point}=kill")
    world.start()
    assert world.docker("run", "--rm", "--name", "crash", "busybox", "sleep", "0.2").code != 0
    assert world.process is not None
    assert world.process.wait(PATIENCE) == -signal.SIGKILL
    monkeypatch.delenv("BARQUE_FAILPOINTS")
    world.start()
    world.docker("rm", "-f", "crash")
    # The daemon may be about to remove it already: then the name is free a little later.
    wait_until(lambda: world.ok("ps", "-aq", "-f", "name=crash") == "")
    assert world.ok("run", "--rm", "--name", "crash", "busybox", "echo", "fine") == "fine"
    wait_until(lambda: not os.listdir(world.root / "data" / "containers")
               and not os.listdir(world.root / "run" / "containers"))
    assert world.ok("ps", "-aq") == ""


@pytest.mark.parametrize("point", ["container.exit.before-row", "container.exit.after-row"])
def test_an_end_that_the_daemon_did_not_live_to_tell(world: EngineWorld, point: str, monkeypatch: pytest.MonkeyPatch
                                                     ) -> None:
    assert world.end() == 0
    monkeypatch.setenv("BARQUE_FAILPOINTS", f"{point}=kill")
    world.start()
    assert world.docker("run", "--name", "ended", "busybox", "sh", "-c", "echo said; exit 9").code != 9
    assert world.process is not None
    assert world.process.wait(PATIENCE) == -signal.SIGKILL
    monkeypatch.delenv("BARQUE_FAILPOINTS")
    world.start()
    assert world.inspect("ended", "{{.State.Status}} {{.State.ExitCode}} {{.State.Pid}}") == "exited 9 0"
    assert world.ok("logs", "ended") == "said"
    assert not os.listdir(world.root / "run" / "containers")
    world.ok("rm", "ended")


def test_two_daemons_do_not_share_a_data_root(world: EngineWorld) -> None:
    command = [sys.executable, "-m", "barque.daemon", "--data-root", str(world.root / "data"), "--exec-root",
               str(world.root / "other"), "--config-file", str(world.root / "daemon.json")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=PATIENCE)
    assert done.returncode == 1
    assert "is in use by the process with the id" in done.stderr
    assert world.docker("version").code == 0
