"""Engines behind a real OpenSSH server on loopback: docker's command line and ours, at the near and at the far end."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.e2e.engine_world import PATIENCE, EngineWorld, engine_world, free_port, wait_listening

SSHD = shutil.which("sshd", path="/usr/sbin:/usr/bin")
pytestmark = pytest.mark.skipif(not (SSHD and shutil.which("ssh") and shutil.which("docker")),
                                reason="needs openssh-server, ssh and docker")
#: Where sshd, as root, shuts its unprivileged half in.
EMPTY = Path("/run/sshd")
OURS = [sys.executable, "-m", "barque.cli.main"]
SERVER = """
ListenAddress 127.0.0.1:{port}
HostKey {root}/host
AuthorizedKeysFile {root}/mine.pub
PidFile none
UsePAM no
StrictModes no
PermitRootLogin prohibit-password
PasswordAuthentication no
KbdInteractiveAuthentication no
SetEnv PATH={far}:/usr/bin:/bin
"""
#: The programs take no configuration of ssh but the user's own, so one of this name hands them the test's.
CLIENT = """#!/bin/sh
exec {ssh} -F none -i {root}/mine -o IdentitiesOnly=yes -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null \\
    -o LogLevel=ERROR "$@"
"""


@dataclass
class Far:
    """``programs`` is the directory with what the far end has beside Debian's docker."""

    host: str
    programs: Path
    environ: dict[str, str]

    def offer(self, name: str) -> None:
        """Have the far end find our command line as ``name``."""
        script(self.programs / name, f'#!/bin/sh\nexec {" ".join(OURS)} "$@"\n')

    def call(self, program: list[str], *arguments: str, stdin: bytes = b"") -> tuple[int, bytes, bytes]:
        done = subprocess.run([*program, *arguments], input=stdin, capture_output=True, check=False,
                              env={**self.environ, "DOCKER_HOST": self.host}, timeout=PATIENCE)
        return done.returncode, done.stdout, done.stderr


def script(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o755)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EngineWorld]:
    with engine_world(tmp_path_factory.mktemp("engine")) as made:
        yield made


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, int]]:
    """sshd with keys of its own, and where its files are."""
    root, port = tmp_path_factory.mktemp("ssh"), free_port()
    (root / "far").mkdir()
    for name in ("host", "mine"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", root / name], check=True)
    (root / "config").write_text(SERVER.format(port=port, root=root, far=root / "far"))
    made = not EMPTY.exists()
    EMPTY.mkdir(mode=0o755, exist_ok=True)
    assert SSHD is not None
    with open(root / "log", "wb") as log:
        process = subprocess.Popen([SSHD, "-D", "-e", "-f", root / "config"], stdin=subprocess.DEVNULL, stderr=log)
    try:
        wait_listening(port)
        yield root, port
    finally:
        process.terminate()
        process.wait(PATIENCE)
        if made:
            with suppress(OSError):    # another one has begun to use it
                EMPTY.rmdir()


@pytest.fixture
def far(world: EngineWorld, server: tuple[Path, int], tmp_path: Path) -> Iterator[Far]:
    root, port = server
    script(tmp_path / "ssh", CLIENT.format(ssh=shutil.which("ssh"), root=root))
    environ = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "DOCKER_CONFIG": str(tmp_path / "config"),
               "DOCKER_CLI_HINTS": "false"}
    yield Far(f"ssh://root@127.0.0.1:{port}{world.socket}", root / "far", environ)
    for program in (root / "far").iterdir():
        program.unlink()


@pytest.mark.parametrize(("near", "programs"), [("barque", ["barque"]), ("barque", []), ("docker", ["docker"])],
                         ids=["ours to ours", "ours to docker", "docker to ours by its name"])
def test_streams_and_statuses(far: Far, near: str, programs: list[str]) -> None:
    for name in programs:
        far.offer(name)
    sent = b"x" * 300_000
    assert far.call(OURS if near == "barque" else ["docker"], "run", "--rm", "-i", "busybox", "sh", "-c",
                    "cat; echo err >&2; exit 9", stdin=sent) == (9, sent, b"err\n")


def test_a_context(world: EngineWorld, far: Far) -> None:
    far.offer("barque")
    host, far.host = far.host, ""
    assert far.call(OURS, "context", "create", "far", "--docker", f"host={host}")[0] == 0
    for program in (OURS, ["docker"]):
        code, out, err = far.call(program, "--context", "far", "info", "-f", "{{.DockerRootDir}}")
        assert (code, out.decode().strip(), err) == (0, f"{world.root}/data", b"")


def test_what_cannot_be_reached(far: Far) -> None:
    """ssh says why, and the command fails as it does without an engine."""
    for host, reason in ((far.host.replace("root@", "nobody@"), b"Permission denied (publickey)"),
                         (f"ssh://root@127.0.0.1:{free_port()}", b"Connection refused")):
        far.host = host
        code, out, err = far.call(OURS, "ps")
        assert (code, out) == (1, b"")
        assert reason in err
