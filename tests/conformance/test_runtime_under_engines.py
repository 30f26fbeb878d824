"""Debian's podman and Debian's dockerd with ``barque-runtime`` in the place of runc.

What they ask of a runtime is theirs to say: create, start, exec with and without terminal, kill, pause, resume, update,
state and delete, by conmon and by containerd's shim. Skipped where an engine is absent.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.test_bad_input import wait_until

PATIENCE = 60
#: Where the engines are to put their containers: their own default stays behind.
CGROUP = f"barque-engines-{os.getpid()}"
BUSYBOX = shutil.which("busybox")
APPLETS = ("sh", "echo", "cat", "true", "sleep", "ls", "id", "tty", "stty", "mkdir", "hostname", "readlink", "kill",
           "touch", "sed")


class Engine:
    """One engine's docker-like command line; ``runtime`` are the words of its run that name ours."""

    def __init__(self, command: list[str], environment: dict[str, str], runtime: list[str]) -> None:
        self.command = command
        self.environment = environment
        self.runtime = runtime

    def __call__(self, *words: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run([*self.command, *words], env=self.environment, input=stdin, capture_output=True,
                              text=True, check=False, timeout=PATIENCE)

    def ok(self, *words: str, stdin: str = "") -> str:
        done = self(*words, stdin=stdin)
        assert done.returncode == 0, (words, done.stdout, done.stderr)
        return done.stdout.strip()

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        return self("run", *self.runtime, "--network", "none", *words)

    def start(self, *words: str) -> str:
        """A container in the background; returns its id."""
        return self.ok("run", "-d", *self.runtime, "--network", "none", *words)

    def remove(self, name: str) -> None:
        """By force; podman would first ask the process to end, and wait ten seconds."""
        self.ok("rm", "-f", *(["-t", "0"] if self.command[0] == "podman" else []), name)

    def inspect(self, name: str, template: str) -> str:
        return self.ok("inspect", "-f", template, name)


def write_runtime(directory: Path) -> str:
    """Our runtime as one program, whatever directory it is called in."""
    program = directory / "barque-runtime"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -I -m barque.runtime.main "$@"\n')
    program.chmod(0o755)
    return str(program)


def write_rootfs(path: Path) -> None:
    assert BUSYBOX is not None
    with tarfile.open(path, "w") as tar:
        tar.add(BUSYBOX, "bin/busybox")
        for applet in APPLETS:
            link = tarfile.TarInfo(f"bin/{applet}")
            link.type, link.linkname = tarfile.SYMTYPE, "busybox"
            tar.addfile(link)
        for name in ("etc", "tmp", "proc", "sys", "dev"):
            entry = tarfile.TarInfo(name)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(entry)


def podman(directory: Path) -> Iterator[Engine]:
    runtime = write_runtime(directory)
    (directory / "empty.conf").write_text("")
    (directory / "policy.json").write_text('{"default": [{"type": "insecureAcceptAnything"}]}')
    environment = {**os.environ, "CONTAINERS_CONF": str(directory / "empty.conf"), "HOME": str(directory)}
    (directory / "tmp").mkdir()
    command = ["podman", "--root", str(directory / "root"), "--runroot", str(directory / "run"), "--tmpdir",
               str(directory / "tmp"), "--cgroup-manager", "cgroupfs", "--events-backend", "file", "--storage-driver",
               "vfs", "--runtime", runtime]
    # Its default limits are above what a process without CAP_SYS_RESOURCE may set.
    engine = Engine(command, environment, ["--ulimit", "host", "--cgroup-parent", f"/{CGROUP}"])
    write_rootfs(directory / "rootfs.tar")
    engine.ok("import", str(directory / "rootfs.tar"), "busybox")
    try:
        yield engine
    finally:
        engine("rm", "-af", "-t", "0")
        engine("rmi", "-af")
        remove_cgroup(CGROUP)


def dockerd(directory: Path) -> Iterator[Engine]:
    runtime = write_runtime(directory)
    notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    notify.bind(str(directory / "notify"))
    notify.settimeout(PATIENCE)
    host = f"unix://{directory}/s"
    with (directory / "log").open("wb") as log:
        process = subprocess.Popen(
            ["unshare", "--net", "dockerd", "--data-root", str(directory / "root"), "--exec-root",
             str(directory / "exec"), "-H", host, "--pidfile", str(directory / "pid"), "--bip", "10.99.0.1/24",
             "--cgroup-parent", f"/{CGROUP}", "--add-runtime", f"barque={runtime}"],
            stdout=log, stderr=log, start_new_session=True,
            env={**os.environ, "NOTIFY_SOCKET": str(directory / "notify")})
    engine = Engine(["docker", "-H", host], {**os.environ, "DOCKER_CONFIG": str(directory / "none")},
                    ["--runtime", "barque"])
    try:
        while b"READY=1" not in notify.recv(4096):
            pass
        write_rootfs(directory / "rootfs.tar")
        engine.ok("import", str(directory / "rootfs.tar"), "busybox")
        yield engine
        containers = engine.ok("ps", "-aq").split()
        if containers:
            engine.ok("rm", "-f", *containers)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(PATIENCE)
        notify.close()
        remove_cgroup(CGROUP)


def remove_cgroup(name: str) -> None:
    """The parent that an engine made and does not remove itself."""
    for tree in Path("/sys/fs/cgroup").iterdir():
        for path in (tree / name, Path("/sys/fs/cgroup") / name):
            if path.is_dir():
                for below in [*(entry for entry in path.iterdir() if entry.is_dir()), path]:
                    below.rmdir()


ENGINES = {"podman": podman, "dockerd": dockerd}


@pytest.fixture(scope="module", params=list(ENGINES))
def engine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    needed = [request.param, *(["docker"] if request.param == "dockerd" else [])]
    if BUSYBOX is None or any(shutil.which(name) is None for name in needed):
        pytest.skip(f"needs {' and '.join(needed)} and busybox")
    yield from ENGINES[request.param](tmp_path_factory.mktemp(request.param))


def test_output_and_exit_codes(engine: Engine) -> None:
    done = engine.run("--rm", "busybox", "sh", "-c", "echo out; echo err >&2; exit 7")
    assert (done.returncode, done.stdout) == (7, "out\n")
    assert done.stderr.endswith("err\n")
    assert engine.run("--rm", "busybox", "absent").returncode == 127
    assert engine.run("--rm", "busybox", "/etc").returncode == 126


def test_standard_input(engine: Engine) -> None:
    assert engine.ok("run", "-i", "--rm", *engine.runtime, "--network", "none", "busybox", "cat",
                     stdin="through\n") == "through"


def test_what_the_process_is_given(engine: Engine) -> None:
    done = engine.run("--rm", "-u", "12:34", "-w", "/tmp", "-e", "X=y", "-h", "some-host", "--cap-drop", "all",
                      "--memory", "64m", "--tmpfs", "/t:size=64k", "--read-only", "busybox", "sh", "-c",
                      "id -u; id -g; echo $PWD $X; hostname; sed -n 's/^CapBnd:.//p' /proc/self/status; touch /x")
    assert done.stdout.split() == ["12", "34", "/tmp", "y", "some-host", "0" * 16]
    assert "Read-only file system" in done.stderr


def test_exec(engine: Engine) -> None:
    name = engine.start("busybox", "sleep", "1000")
    done = engine("exec", "-e", "X=y", "-u", "12:34", name, "sh", "-c", "id -u; echo $X; exit 5")
    assert (done.returncode, done.stdout.split()) == (5, ["12", "y"])
    assert engine.ok("exec", "-i", name, "cat", stdin="through") == "through"
    assert engine("exec", name, "absent").returncode in (126, 127)
    engine.remove(name)


def test_terminals(engine: Engine) -> None:
    name = engine.start("-t", "busybox", "sh", "-c", "tty; readlink /proc/self/fd/0; exec sleep 1000")
    engine.ok("exec", "-d", "-t", name, "sh", "-c", "tty > /tmp/tty; exec sleep 1000")
    wait_until(lambda: engine("exec", name, "cat", "/tmp/tty").stdout == "/dev/pts/1\n")
    wait_until(lambda: engine.ok("logs", name).split() == ["/dev/pts/0", "/dev/pts/0"])
    engine.remove(name)


def test_stop_kill_and_wait(engine: Engine) -> None:
    name = engine.start("busybox", "sh", "-c", "trap 'exit 9' TERM; echo ready; while :; do sleep 0.1; done")
    wait_until(lambda: engine.ok("logs", name) == "ready")
    engine.ok("stop", "-t", "30", name)
    assert engine.inspect(name, "{{.State.ExitCode}}") == "9"
    engine.ok("start", name)
    assert engine.inspect(name, "{{.State.Running}}") == "true"
    engine.ok("kill", name)
    assert engine.ok("wait", name) == "137"
    engine.ok("rm", name)


def test_pause_and_unpause(engine: Engine) -> None:
    name = engine.start("busybox", "sleep", "1000")
    engine.ok("pause", name)
    assert engine.inspect(name, "{{.State.Status}}") == "paused"
    assert engine("exec", name, "true").returncode != 0
    engine.ok("unpause", name)
    assert engine.ok("exec", name, "echo", "runs") == "runs"
    engine.remove(name)


def test_limits_and_top(engine: Engine) -> None:
    name = engine.start("--pids-limit", "50", "busybox", "sleep", "1000")
    assert "sleep 1000" in engine.ok("top", name)
    if engine.command[0] == "docker":
        # podman updates cgroups and reads statistics itself.
        engine.ok("update", "--pids-limit", "77", name)
        stats = json.loads(engine.ok("stats", "--no-stream", "--format", "{{json .}}", name))
        assert stats["PIDs"] == "1"
    engine.remove(name)


def test_volumes_and_shared_namespaces(engine: Engine, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("content\n")
    name = engine.start("-v", f"{tmp_path}:/data:ro", "busybox", "sleep", "1000")
    assert engine.ok("exec", name, "cat", "/data/file") == "content"
    joined = engine("run", "--rm", *engine.runtime, "--network", f"container:{name}", "--pid", f"container:{name}",
                    "busybox", "cat", "/proc/1/cmdline")
    assert joined.stdout == "sleep\x001000\x00"
    engine.remove(name)
