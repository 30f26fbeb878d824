"""Seccomp notification: the listener reaches its agent; and the agent of ours that learns a profile."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest

from barque.oci import go_json
from barque.oci.runtime_spec import Seccomp
from barque.runtime import learn, seccomp_profile
from barque.sys import seccomp_notify
from tests.runtime.conftest import ANSWER, read_until

MKDIR = 83 if os.uname().machine == "x86_64" else 34


class Agent:
    """Takes one listener and lets every call through, after noting it."""

    def __init__(self, path: Path) -> None:
        self.server = socket.socket(socket.AF_UNIX)
        self.server.settimeout(ANSWER)
        self.server.bind(str(path))
        self.server.listen()
        self.message: dict[str, object] = {}
        self.calls: list[int] = []
        self.thread = threading.Thread(target=self._serve, daemon=True)
        self.thread.start()

    def _serve(self) -> None:
        connection, _ = self.server.accept()
        with connection:
            data, [listener], _, _ = socket.recv_fds(connection, 1 << 16, 1)
        self.message = json.loads(data)
        try:
            while True:
                call = seccomp_notify.receive(listener)
                if call is not None:
                    self.calls.append(call.number)
                    seccomp_notify.let_through(listener, call)
                    if call.number == MKDIR:
                        return
        finally:
            os.close(listener)

    def close(self) -> None:
        self.thread.join(ANSWER)
        assert not self.thread.is_alive()
        self.server.close()


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Agent]:
    found = Agent(tmp_path / "agent")
    yield found
    found.close()


def notify(bundle, tmp_path: Path, *names: str) -> None:
    bundle.linux["seccomp"] = {
        "defaultAction": "SCMP_ACT_ALLOW", "listenerPath": str(tmp_path / "agent"), "listenerMetadata": "some data",
        "syscalls": [{"names": list(names), "action": "SCMP_ACT_NOTIFY"}]}


@pytest.mark.parametrize("no_new_privileges", [True, False])
def test_calls_reach_the_agent(runtime, bundle, tmp_path, agent, no_new_privileges):
    bundle.process["noNewPrivileges"] = no_new_privileges
    notify(bundle, tmp_path, "mkdir")
    assert runtime.output(bundle, "sh", "-c", "mkdir /made; ls / | grep made; ls /proc/self/fd") == "made\n0\n1\n2\n3\n"
    assert agent.calls == [MKDIR]
    assert agent.message["metadata"] == "some data"
    assert agent.message["fds"] == ["seccompFd"]
    state = agent.message["state"]
    assert isinstance(state, dict)
    assert (state["id"], state["bundle"]) == ("run-test", str(bundle.path))


def test_what_leads_to_the_program_may_notify_too(runtime, bundle, tmp_path, agent):
    bundle.process["noNewPrivileges"] = False
    notify(bundle, tmp_path, "mkdir", "execve", "capset", "read", "close", "mmap", "brk", "recvfrom", "sendto")
    assert runtime.output(bundle, "sh", "-c", "mkdir /made && echo made") == "made\n"
    assert MKDIR in agent.calls


def test_create_and_start(runtime, bundle, tmp_path, agent):
    notify(bundle, tmp_path, "mkdir")
    bundle.save("sh", "-c", "mkdir /made; exec sleep 1000")
    runtime.detached("create", "--bundle", str(bundle.path), "noted")
    pid = runtime.state("noted")["pid"]
    runtime.ok("start", "noted")
    agent.thread.join(ANSWER)
    assert agent.message["pid"] == pid


def test_exec_has_a_listener_of_its_own(runtime, bundle, tmp_path):
    notify(bundle, tmp_path, "mkdir")
    bundle.save("sh", "-c", "mkdir /made; exec sleep 1000")
    first = Agent(tmp_path / "agent")
    runtime.detached("run", "--detach", "--bundle", str(bundle.path), "noted")
    first.close()
    (tmp_path / "agent").unlink()
    second = Agent(tmp_path / "agent")
    runtime.ok("exec", "noted", "mkdir", "/second")
    second.close()
    assert second.calls == [MKDIR]


@pytest.mark.parametrize("name", ["mkdir", "execve", "read"])
def test_without_an_agent_nothing_starts(barque, bundle, tmp_path, name):
    notify(bundle, tmp_path, name)
    done = barque.run(bundle, "true")
    assert done.returncode == 1
    assert f"cannot hand over the seccomp listener to {tmp_path}/agent: no such file or directory" in done.stderr
    assert barque.ok("list", "-q") == ""


@pytest.mark.parametrize(("default", "name", "text"), [
    ("SCMP_ACT_NOTIFY", "mkdir", "SCMP_ACT_NOTIFY cannot be used as default action"),
    ("SCMP_ACT_ALLOW", "write", "SCMP_ACT_NOTIFY cannot be used for the write syscall")])
def test_what_can_never_notify(runtime, bundle, tmp_path, default, name, text):
    notify(bundle, tmp_path, name)
    bundle.linux["seccomp"]["defaultAction"] = default
    assert text in runtime.run(bundle, "true").stderr


@contextmanager
def learning(tmp_path: Path, bundle) -> Iterator[Path]:
    """The bundle runs under the default profile, watched; yields where the profile will be when the block has ended."""
    base = seccomp_profile.default_profile(frozenset(bundle.process["capabilities"]["bounding"]))
    asking = learn.asking(base, str(tmp_path / "learn"))
    bundle.linux["seccomp"] = msgspec.to_builtins(asking)
    target = tmp_path / "learned.json"
    learner = subprocess.Popen([sys.executable, "-m", "barque.runtime.learn", str(tmp_path / "learn"),
                                str(target)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert learner.stdin and learner.stdout
    learner.stdin.write(go_json.encode(base))
    learner.stdin.close()
    try:
        assert read_until(learner.stdout.fileno(), b"\n") == b"listening\n"
        yield target
        assert learner.wait(ANSWER) == 0
    finally:
        learner.kill()
        learner.wait()
        learner.stdout.close()


def names(path: Path) -> set[str]:
    profile = go_json.decode(path.read_bytes(), Seccomp)
    return {name for entry in profile.syscalls if entry.action == "SCMP_ACT_ALLOW" for name in entry.names}


def test_a_learned_profile_is_enough_and_no_more(barque, bundle, tmp_path):
    script = "mkdir /made; echo done"
    with learning(tmp_path, bundle) as target:
        assert barque.output(bundle, "sh", "-c", script) == "done\n"
    assert {"mkdir", "execve", "write"} <= names(target)
    assert not {"mount", "socket", "ptrace", "chmod", "symlink"} & names(target)
    assert len(names(target)) < 60
    (bundle.rootfs / "made").rmdir()
    bundle.linux["seccomp"] = json.loads(target.read_bytes())
    assert barque.output(bundle, "sh", "-c", script) == "done\n"
    done = barque.run(bundle, "sh", "-c", "chmod 777 /made; ln -s a /link")
    assert done.stderr.count("Operation not permitted") == 2


def test_what_the_profile_denies_is_denied_while_learning(barque, bundle, tmp_path):
    bundle.process["noNewPrivileges"] = False
    with learning(tmp_path, bundle) as target:
        done = barque.run(bundle, "sh", "-c", "mount -t tmpfs none /tmp")
        assert done.returncode != 0
    assert "mount" not in names(target)


def test_runs_add_up_and_exec_counts(barque, bundle, tmp_path):
    with learning(tmp_path, bundle):
        barque.output(bundle, "sh", "-c", "mkdir /made")
    with learning(tmp_path, bundle) as target:
        bundle.save("sleep", "1000")
        barque.detached("run", "--detach", "--bundle", str(bundle.path), "learned")
        barque.ok("exec", "learned", "ln", "-s", "a", "/link")
        barque.ok("delete", "--force", "learned")
    assert {"mkdir", "symlink"} <= names(target)
