"""A pull on a terminal: what we draw, byte for byte, is what docker's client draws of the same stream."""

from __future__ import annotations

import json
import os
import pty
import socket
import subprocess
import termios
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli_pair import DOCKER, PROGRAMS

pytestmark = pytest.mark.skipif(not DOCKER, reason="needs docker")
MIB = 1 << 20


def _layer(name: str, status: str, current: int = 0, total: int = 0) -> dict[str, object]:
    return {"id": name, "status": status, "progressDetail": {"current": current, "total": total} if total else {}}


MESSAGES: list[dict[str, object]] = [
    {"id": "latest", "status": "Pulling from library/x"},
    *[_layer(name, "Pulling fs layer") for name in ("aaaaaaaaaaaa", "bbbbbbbbbbbb", "cccccccccccc")],
    _layer("cccccccccccc", "Waiting"),
    *[_layer("aaaaaaaaaaaa", "Downloading", n * MIB, 7 * MIB) for n in range(8)],
    *[_layer("bbbbbbbbbbbb", "Downloading", n * 300, 1500) for n in range(6)],
    _layer("bbbbbbbbbbbb", "Verifying Checksum"), _layer("bbbbbbbbbbbb", "Download complete"),
    _layer("aaaaaaaaaaaa", "Extracting", 3, 7 * MIB), _layer("aaaaaaaaaaaa", "Pull complete"),
    _layer("cccccccccccc", "Already exists"), _layer("bbbbbbbbbbbb", "Pull complete"),
    {"status": "Digest: sha256:" + "0" * 64}, {"status": "Status: Downloaded newer image for x:latest"},
]
BODY = b"".join(json.dumps(message).encode() + b"\r\n" for message in MESSAGES)
FAILED = BODY[: BODY.index(b'"Extracting"')].rpartition(b"\r\n")[0] + b"\r\n" + json.dumps(
    {"errorDetail": {"message": "no space left"}, "error": "no space left"}).encode() + b"\r\n"


def _serve(listener: socket.socket, body: bytes) -> None:
    while True:
        try:
            connection, _ = listener.accept()
        except OSError:
            return  # closed by the test
        with connection, connection.makefile("rb") as lines:
            while request := lines.readline():
                while lines.readline() not in (b"\r\n", b""):
                    pass
                ping = b"/_ping" in request
                head = b"HTTP/1.1 200 OK\r\nApi-Version: 1.50\r\nContent-Type: application/json\r\n"
                size = 0 if ping else len(body)
                connection.sendall(head + b"Content-Length: %d\r\n\r\n" % size + (b"" if ping else body))


@pytest.fixture(params=[BODY, FAILED], ids=["complete", "failed"])
def host(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "s"))
    listener.listen()
    thread = threading.Thread(target=_serve, args=(listener, request.param))
    thread.start()
    yield f"unix://{tmp_path}/s"
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    thread.join(10)


def drawn(program: list[str], host: str, columns: int) -> tuple[bytes, int]:
    """What the program writes to a terminal that wide, and its exit code."""
    master, slave = pty.openpty()
    termios.tcsetwinsize(slave, (24, columns))
    process = subprocess.Popen([*program, "-H", host, "pull", "x"], stdin=subprocess.DEVNULL, stdout=slave,
                               stderr=slave, env={"PATH": os.environ["PATH"], "HOME": "/nonexistent", "TERM": "xterm"})
    os.close(slave)
    seen = b""
    try:
        while piece := os.read(master, 65536):
            seen += piece
    except OSError:
        pass  # EIO: the last writer is gone
    os.close(master)
    return seen, process.wait(60)


@pytest.mark.parametrize("columns", [130, 80, 40])
def test_the_same_bytes(host: str, columns: int) -> None:
    docker, ours = (drawn(program, host, columns) for program in PROGRAMS)
    assert ours == docker
    assert b"aaaaaaaaaaaa" in ours[0]
