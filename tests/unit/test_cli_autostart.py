"""Starting a daemon of one's own: connected as soon as it answers, and its end is a message."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import pytest

from barque.cli import autostart
from barque.cli.errors import CommandError
from barque.client.transport import parse_host

DAEMON = """
import os, socket, sys
listener = socket.socket(socket.AF_UNIX)
listener.bind(sys.argv[1])
listener.listen()
notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
if sys.argv[2] == "notify":
    notify.sendto(b"READY=1", sys.argv[3])
for _ in range(100):
    peer, _ = listener.accept()
    peer.close()
"""


@pytest.mark.parametrize("how", ["notify", "silent"])
def test_waits_until_the_daemon_answers(tmp_path: Path, how: str) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ready:
        ready.bind(str(tmp_path / "ready"))
        process = subprocess.Popen([sys.executable, "-I", "-S", "-c", DAEMON, str(tmp_path / "s"), how,
                                    str(tmp_path / "ready")])
        autostart._wait(parse_host(f"unix://{tmp_path}/s"), process, ready)
        process.kill()
        process.wait()


def test_a_daemon_that_ends_is_reported_with_its_last_word(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "log").write_text("first\nstate directory is locked by process 7\n")
    monkeypatch.setattr(autostart, "LOG", str(tmp_path / "log"))
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ready:
        ready.bind(str(tmp_path / "ready"))
        process = subprocess.Popen([sys.executable, "-I", "-S", "-c", "raise SystemExit(3)"])
        with pytest.raises(CommandError, match="barqued ended with code 3: state directory is locked by process 7"):
            autostart._wait(parse_host(f"unix://{tmp_path}/s"), process, ready)
