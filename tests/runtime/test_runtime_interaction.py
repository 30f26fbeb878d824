"""Hooks of the container's side, terminals in the foreground, events, and what exec can be told."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import struct
import subprocess
import termios
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.runtime.conftest import ANSWER, read_until, wait_until


def test_a_hook_in_the_container_before_the_program(runtime, bundle):
    bundle.spec["hooks"] = {"startContainer": [{"path": "/bin/sh", "args": ["sh", "-c", "cat > /state; exit 0"]}]}
    state = json.loads(runtime.output(bundle, "cat", "/state"))
    assert (state["id"], state["bundle"]) == ("run-test", str(bundle.path))


def test_a_hook_of_the_container_that_fails(runtime, bundle):
    bundle.spec["hooks"] = {"startContainer": [{"path": "/bin/sh", "args": ["sh", "-c", "echo why >&2; exit 3"]}]}
    done = runtime.run(bundle, "touch", "/ran")
    assert done.returncode != 0
    assert not (bundle.rootfs / "ran").exists()
    assert runtime.ok("list", "-q") == ""


def test_processors_of_exec(barque, bundle, tmp_path):
    bundle.save("sleep", "1000")
    barque.detached("run", "--detach", "--bundle", str(bundle.path), "pinned")
    process = {**bundle.process, "args": ["grep", "Cpus_allowed_list", "/proc/self/status"],
               "execCPUAffinity": {"initial": "0-1", "final": "0"}}
    (tmp_path / "process.json").write_text(json.dumps(process))
    assert barque.ok("exec", "--process", str(tmp_path / "process.json"), "pinned").split()[1] == "0"


def test_an_id_mapped_bind(barque, bundle, tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data/file").touch()
    os.chown(tmp_path / "data/file", 1000, 2000)
    bundle.spec["mounts"].append({
        "destination": "/data", "type": "bind", "source": str(tmp_path / "data"), "options": ["bind", "idmap"],
        "uidMappings": [{"containerID": 1000, "hostID": 7, "size": 1}],
        "gidMappings": [{"containerID": 2000, "hostID": 8, "size": 1}]})
    assert barque.output(bundle, "stat", "-c", "%u %g", "/data/file") == "7 8\n"
    assert os.stat(tmp_path / "data/file").st_uid == 1000


def test_a_terminal_in_the_foreground(runtime, bundle):
    bundle.process["terminal"] = True
    # runc tells the size to a program that already runs and may have asked before.
    bundle.save("sh", "-c", "tty; n=0; until [ \"$(stty size)\" = '44 111' ] || [ $n = 200 ]; do n=$((n + 1)); "
                            "sleep 0.05; done; echo after $n waits; read x; echo got $x; exit 7")
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 44, 111, 0, 0))
    before = termios.tcgetattr(theirs)
    running = subprocess.Popen([*runtime.base, "run", "--bundle", str(bundle.path), "terminal"], stdin=theirs,
                               stdout=theirs, stderr=theirs, start_new_session=True)
    try:
        text = read_until(ours, b"waits")
        os.write(ours, b"typed\n")
        text += read_until(ours, b"got typed")
        assert running.wait(ANSWER) == 7
        assert termios.tcgetattr(theirs) == before
    finally:
        running.kill()
        running.wait()
        os.close(ours)
        os.close(theirs)
    # Not by lines, whose ends depend on when runc has changed the modes of both terminals; nor is stty always content.
    assert text.startswith(b"/dev/pts/0")
    waits = re.search(rb"after (\d+) waits", text)
    assert waits and int(waits[1]) < (200 if runtime.name == "runc" else 1)


class Watching:
    """Reads the events of a container, one by one."""

    def __init__(self, program: subprocess.Popen[bytes]) -> None:
        self.program = program
        self._text = b""

    def next(self) -> dict[str, Any]:
        assert self.program.stdout
        while b"\n" not in self._text:
            self._text += read_until(self.program.stdout.fileno(), b"\n")
        line, _, self._text = self._text.partition(b"\n")
        event: dict[str, Any] = json.loads(line)
        return event


@contextmanager
def watching(runtime, container: str) -> Iterator[Watching]:
    events = subprocess.Popen([*runtime.base, "events", "--interval", "100ms", container], stdin=subprocess.DEVNULL,
                              stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert events.stdout
    try:
        yield Watching(events)
    finally:
        events.kill()
        events.wait()
        events.stdout.close()


def test_events_go_on(runtime, bundle):
    bundle.save("sleep", "1000")
    runtime.detached("run", "--detach", "--bundle", str(bundle.path), "watched")
    with watching(runtime, "watched") as events:
        for _ in range(2):
            event = events.next()
            assert (event["type"], event["id"]) == ("stats", "watched")
            assert event["data"]["pids"]["current"] == 1
            assert event["data"]["memory"]["usage"]["usage"] >= 0
            assert event["data"]["cpu"]["usage"]["total"] > 0


def test_events_end_with_the_container(barque, bundle):
    bundle.save("sleep", "1000")
    barque.detached("run", "--detach", "--bundle", str(bundle.path), "watched")
    with watching(barque, "watched") as events:
        assert events.next()
        barque.ok("kill", "watched", "KILL")
        assert events.program.wait(ANSWER) == 0


def test_an_event_when_memory_runs_out(runtime, bundle):
    bundle.linux["resources"]["memory"] = {"limit": 16 << 20, "swap": 16 << 20}
    bundle.save("sh", "-c", "read x < /go; dd if=/dev/zero of=/dev/null bs=64M count=1; sleep 1000")
    os.mkfifo(bundle.rootfs / "go")
    runtime.detached("run", "--detach", "--bundle", str(bundle.path), "hungry")
    with watching(runtime, "hungry") as events:
        assert events.next()["type"] == "stats"
        # Read-write, since a writer would wait for the reader.
        go = os.open(bundle.rootfs / "go", os.O_RDWR)
        try:
            os.write(go, b"go\n")
            wait_until(lambda: events.next()["type"] == "oom")
        finally:
            os.close(go)


def test_exec_into_a_cgroup_below(barque, bundle):
    bundle.save("sleep", "1000")
    barque.detached("run", "--detach", "--bundle", str(bundle.path), "below")
    base = next(path for path in (Path("/sys/fs/cgroup/pids"), Path("/sys/fs/cgroup")) if path.is_dir())
    inner = Path(f"{base}{bundle.cgroup}/inner")
    inner.mkdir()
    prefix = "pids:" if base.name == "pids" else ""
    assert "/inner\n" in barque.ok("exec", "--cgroup", f"{prefix}/inner", "below", "cat", "/proc/self/cgroup")
    assert "is not a cgroup" in barque("exec", "--cgroup", f"{prefix}/absent", "below", "true").stderr
    assert "is not a cgroup" not in barque("exec", "--cgroup", f"{prefix}../../..", "below", "true").stderr
    barque.ok("delete", "--force", "below")


@pytest.mark.parametrize(("words", "text"), [
    (["--apparmor", "x"], "apparmor is not enabled on this host"),
    (["--process-label", "x"], "selinux is disabled or not supported"),
    (["--cgroup", "nosuch:/x"], "unknown controller nosuch")])
def test_what_exec_cannot_have_here(barque, bundle, words, text):
    bundle.save("sleep", "1000")
    barque.detached("run", "--detach", "--bundle", str(bundle.path), "refused")
    assert text in barque("exec", *words, "refused", "true").stderr
