"""A criu for hosts whose kernel no criu runs on: it speaks criu's protocol, and restores a program that only waits.

Named ``criu`` and run as ``criu swrk 3``. What it is asked is left in ``asked`` in the directory of the images; how it
is to behave stands in ``behave`` there: ``fail``, ``die`` or ``wait PROGRAM...``, what it restores.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
from pathlib import Path

from barque.runtime.criu import wire
from barque.sys import process

VERSION = bytes([0x08, 10, 0x10, 1, 0x52, 6, 0x08, 3, 0x10, 17, 0x20, 1])


def install(path: Path) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(f'#!/bin/sh\nexec {sys.executable} {__file__} "$@"\n')
    path.chmod(0o755)


def answer(kind: int, rest: bytes = b"", *, success: bool = True) -> bytes:
    return bytes([0x08, kind, 0x10, success]) + rest


def notice(script: str, pid: int = 0) -> bytes:
    inner = wire._message({"script": script, "pid": pid}, {"script": 1, "pid": 2})
    return answer(wire.NOTIFY, bytes([0x2A, len(inner)]) + inner)


def tell(channel: socket.socket, script: str, pid: int = 0) -> None:
    channel.send(notice(script, pid))
    heard = wire._fields(channel.recv(4096))
    if not heard.get(3):
        sys.exit(1)


def options_of(request: bytes) -> dict[int, int | bytes]:
    inner = wire._fields(request)[2]
    assert isinstance(inner, bytes)
    return wire._fields(inner)


def dump(channel: socket.socket, kind: int, options: dict[int, int | bytes]) -> None:
    tell(channel, "pre-dump")
    tell(channel, "post-dump")
    pid = options[2]
    assert isinstance(pid, int)
    if kind == wire.DUMP and not options.get(3):
        os.kill(pid, signal.SIGKILL)
    channel.send(answer(kind))


def restore(channel: socket.socket, program: list[str]) -> None:
    """As a sibling, which waits until the last notification is answered."""
    held, go = os.pipe()
    child = process.clone(process.CLONE_PARENT)
    if child is None:
        os.close(go)
        os.read(held, 1)
        os.execvp(program[0], program)
    tell(channel, "setup-namespaces", child.pid)
    tell(channel, "post-restore", child.pid)
    os.write(go, b"x")
    channel.send(answer(wire.RESTORE))


def main() -> None:
    channel = socket.socket(fileno=3)
    request = channel.recv(1 << 16)
    kind = wire._fields(request)[1]
    assert isinstance(kind, int)
    if kind == wire.VERSION:
        channel.send(VERSION)
        return
    options = options_of(request)
    images = Path(f"/proc/{os.getppid()}/fd/{options[1]}").resolve()
    (images / "asked").write_bytes(request)
    behave = (images / "behave").read_text().split() if (images / "behave").exists() else []
    if behave == ["die"]:
        os.kill(os.getpid(), signal.SIGSEGV)
    if behave == ["fail"]:
        log = options[10]
        assert isinstance(log, bytes)
        (images / log.decode()).write_text("(00.1) Doing\n(00.2) Error (criu/x.c:1): The reason\n")
        channel.send(answer(kind, success=False))
        return
    if kind == wire.RESTORE:
        restore(channel, behave[1:])
    else:
        dump(channel, kind, options)


if __name__ == "__main__":
    main()
