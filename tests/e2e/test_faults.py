"""Slow starts, clients that do not read, full disks, processes that are killed: the rest goes on, nothing is lost."""

from __future__ import annotations

import os
import select
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.e2e.engine_world import PATIENCE, EngineWorld, engine_world
from tests.e2e.test_bad_input import small_disk, wait_until

#: A runtime that reads a line from a FIFO before it creates anything.
SLOW = """#!/bin/sh
case " $* " in *" create "*) read line < {gate};; esac
exec {python} -m barque.runtime.main "$@"
"""

#: More than a client's connection holds, again and again.
TALK = "yes | head -c 2000000 > /tmp/text; while cat /tmp/text; do sleep 0.05; done"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EngineWorld]:
    root = tmp_path_factory.mktemp("faults")
    os.mkfifo(root / "gate")
    (root / "slow").write_text(SLOW.format(gate=root / "gate", python=sys.executable))
    (root / "slow").chmod(0o755)
    with engine_world(root, flags=["--add-runtime", f"slow={root / 'slow'}"]) as made:
        yield made


def open_gate(world: EngineWorld) -> None:
    """Once the runtime waits there."""
    def try_it() -> bool:
        try:
            gate = os.open(world.root / "gate", os.O_WRONLY | os.O_NONBLOCK)
        except OSError:
            return False  # nobody reads
        os.write(gate, b"go\n")
        os.close(gate)
        return True

    wait_until(try_it)


def test_nobody_waits_for_a_slow_start(world: EngineWorld) -> None:
    starting = world.popen("run", "-d", "--name", "slow", "--runtime", "slow", "busybox", "sleep", "1000")
    wait_until(lambda: world.ok("ps", "-aq", "-f", "name=slow") != "")
    assert world.ok("ps", "-a", "--format", "{{.Names}} {{.State}}") == "slow created"
    assert world.inspect("slow", "{{.State.Status}}") == "created"
    assert world.ok("run", "--rm", "busybox", "echo", "other") == "other"
    assert "SIZE" in world.ok("system", "df")
    assert world.ok("logs", "slow") == ""
    assert starting.poll() is None
    removing = world.popen("rm", "-f", "slow")
    open_gate(world)
    for process in (starting, removing):
        process.communicate(timeout=PATIENCE)
        assert process.returncode == 0
    assert world.ok("ps", "-aq") == ""


def attach_and_stop_reading(world: EngineWorld, name: str) -> socket.socket:
    """A client that takes the header of the answer and no more."""
    client = socket.socket(socket.AF_UNIX)
    client.settimeout(PATIENCE)
    client.connect(world.socket)
    client.sendall(f"POST /v1.45/containers/{name}/attach?stream=1&stdout=1&stderr=1 HTTP/1.1\r\nHost: d\r\n"
                   "Connection: Upgrade\r\nUpgrade: tcp\r\n\r\n".encode())
    answer = b""
    while b"\r\n\r\n" not in answer:
        answer += client.recv(1)
    assert answer.startswith(b"HTTP/1.1 101 ")
    return client


@pytest.mark.parametrize("end", ["rm -f", "stop -t 0"])
def test_a_client_that_stops_reading_holds_up_nobody(world: EngineWorld, end: str) -> None:
    world.ok("run", "-d", "--name", "talks", "busybox", "sh", "-c", TALK)
    with closing(attach_and_stop_reading(world, "talks")), closing(attach_and_stop_reading(world, "talks")):
        other = world.popen("attach", "--no-stdin", "talks")
        assert other.stdout is not None
        assert len(other.stdout.read(4 << 20)) == 4 << 20
        assert world.ok("exec", "talks", "echo", "in") == "in"
        assert world.ok("ps", "--format", "{{.Names}}") == "talks"
        world.ok(*end.split(), "talks")
        other.kill()
        other.communicate(timeout=PATIENCE)
    if end != "rm -f":
        world.ok("rm", "talks")


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1])


def runs(pid: int) -> bool:
    """An orphan may wait for whoever reaps on this host."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def pid_of(world: EngineWorld, name: str) -> int:
    return int(world.inspect(name, "{{.State.Pid}}"))


def kill_and_wait(pid: int) -> None:
    """Until the process is gone, whoever's child it is."""
    pidfd = os.pidfd_open(pid)
    try:
        os.kill(pid, signal.SIGKILL)
        assert select.select([pidfd], [], [], PATIENCE)[0], f"process {pid} does not end"
    finally:
        os.close(pidfd)


def what_is_left(world: EngineWorld, container: str) -> list[str]:
    """Traces of a container that runs no more, apart from its record."""
    names = [*(world.root / "run" / "netns").glob(container[:12] + "*"), *(world.root / "run" / "m").glob(
        container[:12] + "*"), *Path("/sys/fs/cgroup").glob(f"*/barque/{container}")]
    return [str(name) for name in names]


@pytest.mark.parametrize("daemon", ["lives", "dies first"])
@pytest.mark.parametrize("victim", ["init", "monitor"])
def test_what_is_killed_ends_its_container_alone(world: EngineWorld, victim: str, daemon: str) -> None:
    ident = world.ok("run", "-d", "--name", "killed", "-v", "kept:/v", "busybox", "sh", "-c",
                     "echo said; echo kept > /v/f; exec sleep 1000")
    world.ok("run", "-d", "--name", "other", "busybox", "sleep", "1000")
    wait_until(lambda: world.ok("logs", "killed") == "said")
    init, other = pid_of(world, "killed"), pid_of(world, "other")
    target = init if victim == "init" else parent(init)
    if daemon == "dies first":
        world.end(signal.SIGKILL)
    kill_and_wait(target)
    if daemon == "dies first":
        world.start()
    wait_until(lambda: world.inspect("killed", "{{.State.Status}}") == "exited")
    # Who watched it can tell that it was killed; else nobody knows how it ended.
    code = 137 if victim == "init" else 255
    assert world.inspect("killed", "{{.State.ExitCode}} {{.State.Pid}}") == f"{code} 0"
    assert not runs(init)
    wait_until(lambda: what_is_left(world, ident) == [])
    assert pid_of(world, "other") == other
    assert world.ok("exec", "other", "echo", "in") == "in"
    assert world.ok("logs", "killed") == "said"
    world.ok("start", "killed")
    assert world.ok("exec", "killed", "cat", "/v/f") == "kept"
    world.ok("rm", "-f", "killed", "other")
    world.ok("volume", "rm", "kept")


def test_an_end_that_the_engine_has_yet_to_hear_of(world: EngineWorld) -> None:
    """The process and its cgroup are gone, who watches it has not said so yet: nobody is told of files missing."""
    ident = world.ok("run", "-d", "--name", "late", "busybox", "sleep", "1000")
    init = pid_of(world, "late")
    watcher = parent(init)
    os.kill(watcher, signal.SIGSTOP)
    try:
        kill_and_wait(init)
        for cgroup in Path("/sys/fs/cgroup").glob(f"*/barque/{ident}"):
            cgroup.rmdir()
        assert world.inspect("late", "{{.State.Running}}") == "true"
        copying = world.popen("cp", "late:/data/from-image", "-")
        assert world.ok("update", "--memory", "100m", "--memory-swap", "-1", "late") == "late"
    finally:
        os.kill(watcher, signal.SIGCONT)
    archive, error = copying.communicate(timeout=PATIENCE)
    assert copying.returncode == 0, error
    assert b"image\n" in archive
    assert world.inspect("late", "{{.State.ExitCode}} {{.HostConfig.Memory}}") == f"137 {100 << 20}"
    world.ok("rm", "late")


def test_a_killed_zygote_is_replaced(world: EngineWorld) -> None:
    assert world.process is not None
    world.ok("run", "-d", "--name", "on", "busybox", "sleep", "1000")
    children = Path(f"/proc/{world.process.pid}/task/{world.process.pid}/children").read_text().split()
    zygotes = [int(child) for child in children
               if b"barque.supervise.zygote" in Path(f"/proc/{child}/cmdline").read_bytes()]
    assert zygotes
    for pid in zygotes:
        kill_and_wait(pid)
    assert world.ok("run", "--rm", "busybox", "echo", "again") == "again"
    assert world.ok("exec", "on", "echo", "in") == "in"
    world.ok("rm", "-f", "on")


def test_full_disk_while_committing_and_copying(tmp_path_factory: pytest.TempPathFactory) -> None:
    """An error that says so, nothing half-made, and room again."""
    root = tmp_path_factory.mktemp("tight")
    (root / "big").write_bytes(os.urandom(20 << 20))
    with small_disk(root / "data", "24m"), engine_world(root, "172.31.98.1/24") as world:
        world.ok("run", "-d", "--name", "box", "-v", "/v", "busybox", "sh", "-c",
                 "head -c 12000000 /dev/urandom > /f; echo ready; exec sleep 1000")
        wait_until(lambda: world.ok("logs", "box") == "ready")
        images, used = world.ok("images", "-aq"), os.statvfs(root / "data").f_bfree
        for command in (["commit", "box", "full:1"], ["cp", str(root / "big"), "box:/v/"]):
            done = world.docker(*command)
            assert done.code == 1
            assert "no space left on device" in done.err, done
        assert world.ok("images", "-aq") == images
        assert world.ok("exec", "box", "sh", "-c", "rm -f /v/*; echo in") == "in"
        wait_until(lambda: os.statvfs(root / "data").f_bfree >= used - 64)
        world.ok("rm", "-f", "-v", "box")
        assert world.ok("run", "--rm", "busybox", "echo", "room") == "room"
