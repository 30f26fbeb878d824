"""``barque`` where no engine runs: it starts one on the default socket, says so, and the next command finds it.

The default paths are real ones: /run and /var/lib are directories of the test's own in a private mount namespace.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.e2e.engine_world import PATIENCE, Done, busybox_registry

BARQUE = [sys.executable, "-m", "barque.cli.main"]
HOLD = 'mount --bind "$0/run" /run && mount --bind "$0/lib" /var/lib && echo ready && exec cat'
STARTED = ("No engine was running: started barqued in the background (log /var/lib/barque/barqued.log; stop it with: "
           "kill $(cat /run/barque/barqued.pid))\n")


class Place:
    """A mount namespace, kept by a process, in which ``run`` and ``lib`` of ``root`` are /run and /var/lib."""

    def __init__(self, root: Path) -> None:
        self.run_directory, self.lib = root / "run", root / "lib"
        self.run_directory.mkdir()
        self.lib.mkdir()
        self.holder = subprocess.Popen(["unshare", "--mount", "sh", "-c", HOLD, str(root)], stdin=subprocess.PIPE,
                                       stdout=subprocess.PIPE)
        assert self.holder.stdout is not None
        assert self.holder.stdout.readline() == b"ready\n"

    def command(self, *words: str) -> list[str]:
        return ["nsenter", f"--mount=/proc/{self.holder.pid}/ns/mnt", "--", *words]

    def environment(self, **more: str) -> dict[str, str]:
        return {"PATH": os.environ["PATH"], "HOME": "/nonexistent", **more}

    def barque(self, *words: str, **environment: str) -> Done:
        done = subprocess.run(self.command(*BARQUE, *words), capture_output=True, text=True, check=False,
                              timeout=PATIENCE, env=self.environment(**environment), stdin=subprocess.DEVNULL)
        return Done(done.stdout, done.stderr, done.returncode)

    @property
    def pidfile(self) -> Path:
        return self.run_directory / "barque/barqued.pid"

    def stop_daemon(self) -> None:
        """As the message says, and until it has gone."""
        if not self.pidfile.exists():
            return
        pidfd = os.pidfd_open(int(self.pidfile.read_text()))
        signal.pidfd_send_signal(pidfd, signal.SIGTERM)
        assert select.select([pidfd], [], [], PATIENCE)[0]
        os.close(pidfd)

    def close(self) -> None:
        self.holder.communicate(timeout=PATIENCE)


@contextmanager
def place_of(root: Path) -> Iterator[Place]:
    place = Place(root)
    try:
        yield place
    finally:
        place.stop_daemon()
        place.close()


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    with place_of(tmp_path) as made:
        yield made


def test_the_first_command_starts_the_engine_and_the_next_ones_use_it(place: Place, tmp_path: Path) -> None:
    with busybox_registry(tmp_path) as port:
        image = f"127.0.0.1:{port}/library/busybox"
        first = place.barque("run", "--rm", image, "echo", "hello")
        assert (first.out, first.code) == ("hello\n", 0), first
        assert first.err.startswith(STARTED)
        assert first.err.count("No engine was running") == 1
        pid = place.pidfile.read_text()
        second = place.barque("run", "--rm", image, "echo", "again")
        assert (second.out, second.err, second.code) == ("again\n", "", 0)
        assert place.pidfile.read_text() == pid
    # The daemon belongs to no terminal and holds none of the streams of the command that started it.
    assert os.getsid(int(pid)) == int(pid)
    streams = {os.readlink(f"/proc/{pid}/fd/{number}") for number in (0, 1, 2)}
    assert streams == {"/dev/null", "/var/lib/barque/barqued.log"}
    place.stop_daemon()
    assert not place.pidfile.exists()
    assert not (place.run_directory / "barque/barque.sock").exists()
    assert place.barque("ps", "-q").err == STARTED


def test_of_two_at_once_one_starts_the_engine(place: Place) -> None:
    both = [subprocess.Popen(place.command(*BARQUE, "ps", "-q"), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                             text=True, env=place.environment()) for _ in range(2)]
    ends = [process.communicate(timeout=PATIENCE) for process in both]
    assert sorted(ends) == [("", ""), ("", STARTED)]
    assert [process.returncode for process in both] == [0, 0]


def test_an_engine_that_cannot_start_says_why(place: Place, tmp_path: Path) -> None:
    other = subprocess.Popen(place.command(sys.executable, "-m", "barque.daemon", "--exec-root", str(tmp_path / "x")),
                             stderr=subprocess.PIPE, text=True)
    assert other.stderr is not None
    while "API listen on" not in other.stderr.readline():
        assert other.poll() is None
    done = place.barque("ps")
    assert (done.out, done.code) == ("", 1)
    assert done.err.startswith(STARTED + "barqued ended with code 1: ")
    assert f"is in use by the process with the id {other.pid}" in done.err
    other.terminate()
    other.communicate(timeout=PATIENCE)


def test_a_host_that_was_named_is_not_started(place: Place) -> None:
    done = place.barque("-H", "unix:///run/barque/barque.sock", "ps")
    assert done.code == 1
    assert done.err == ("Cannot connect to the Barque daemon at unix:///run/barque/barque.sock. "
                        "Is barqued running?\n")
    assert not place.pidfile.exists()


def test_commands_that_need_no_engine_start_none(place: Place) -> None:
    for words in (["--version"], ["--help"], ["context", "ls"], ["run", "--nosuch"]):
        place.barque(*words)
    assert not place.pidfile.exists()
