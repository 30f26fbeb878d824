"""Demultiplexing, detach keys, and the poll loop over a real socket pair and pipes."""

from __future__ import annotations

import contextlib
import os
import pty
import socket
import termios
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from barque.cli.errors import ExitCode
from barque.cli.stream import Frames, Session, signal_name
from barque.cli.tty import DetachFilter, RawMode, detach_keys
from barque.client.http import Connection


def frame(kind: int, data: bytes) -> bytes:
    return bytes((kind, 0, 0, 0)) + len(data).to_bytes(4, "big") + data


def test_frames_in_any_pieces(tmp_path: Path) -> None:
    stream = frame(1, b"out") + frame(2, b"") + frame(2, b"err") + frame(1, b"x" * 70_000)
    for step in (1, 7, 8, 4096, len(stream)):
        out = os.open(tmp_path / "out", os.O_RDWR | os.O_CREAT | os.O_TRUNC)
        err = os.open(tmp_path / "err", os.O_RDWR | os.O_CREAT | os.O_TRUNC)
        frames = Frames(out, err)
        for start in range(0, len(stream), step):
            frames.feed(stream[start : start + step])
        os.close(out)
        os.close(err)
        assert (tmp_path / "out").read_bytes() == b"out" + b"x" * 70_000
        assert (tmp_path / "err").read_bytes() == b"err"


def test_a_frame_of_no_kind_is_refused() -> None:
    with pytest.raises(ExitCode, match="Unrecognized input header: 9"):
        Frames(-1, -1).feed(frame(9, b"x"))


@pytest.mark.parametrize(("text", "keys"), [
    ("", b"\x10\x11"), ("ctrl-a", b"\x01"), ("ctrl-[,b", b"\x1bb"), ("ctrl-_", b"\x1f"), ("a,b", b"ab")])
def test_detach_keys(text: str, keys: bytes) -> None:
    assert detach_keys(text) == keys


@pytest.mark.parametrize("text", ["foo", "ctrl-", "ctrl-1", "a,,b"])
def test_bad_detach_keys(text: str) -> None:
    with pytest.raises(ValueError, match="invalid detach keys"):
        detach_keys(text)


@pytest.mark.parametrize(("pieces", "passed", "detached"), [
    ([b"ab\x10\x11cd"], b"ab", True),
    ([b"\x10", b"\x11"], b"", True),
    ([b"\x10", b"x\x11"], b"\x10x\x11", False),
    ([b"\x10\x10\x11"], b"\x10", True),
])
def test_detach_filter(pieces: list[bytes], passed: bytes, detached: bool) -> None:
    keys, out, done = DetachFilter(b"\x10\x11"), b"", False
    for piece in pieces:
        data, done = keys.feed(piece)
        out += data
    assert (out, done) == (passed, detached)


def test_raw_mode_goes_away_again() -> None:
    master, slave = pty.openpty()
    before = termios.tcgetattr(slave)
    raw = RawMode(slave)
    assert not termios.tcgetattr(slave)[3] & (termios.ICANON | termios.ECHO)
    raw.restore()
    raw.restore()
    assert termios.tcgetattr(slave) == before
    os.close(master)
    os.close(slave)


def test_signal_names() -> None:
    assert (signal_name(2), signal_name(15), signal_name(28)) == ("SIGINT", "SIGTERM", "SIGWINCH")


@contextlib.contextmanager
def stdio() -> Iterator[tuple[int, int]]:
    """Our descriptors 0 and 1 replaced by pipes: gives (what feeds stdin, what reads stdout)."""
    saved = os.dup(0), os.dup(1)
    read_in, write_in = os.pipe()
    read_out, write_out = os.pipe()
    os.dup2(read_in, 0)
    os.dup2(write_out, 1)
    os.close(read_in)
    os.close(write_out)
    try:
        yield write_in, read_out
    finally:
        os.dup2(saved[0], 0)
        os.dup2(saved[1], 1)
        for fd in (*saved, read_out):
            os.close(fd)


def test_input_larger_than_every_buffer_comes_back() -> None:
    """A peer that echoes must not lock up with us: both sides would wait for the other to read."""
    mine, theirs = socket.socketpair()
    data, back = os.urandom(4 << 20), bytearray()

    def feed(fd: int) -> None:
        with open(fd, "wb") as file:
            file.write(data)

    def echo(_: int) -> None:
        while piece := theirs.recv(65536):
            theirs.sendall(frame(1, piece))
        theirs.close()

    def collect(fd: int) -> None:
        while len(back) < len(data):
            back.extend(os.read(fd, 65536))

    with stdio() as (write_in, read_out):
        work = ((feed, write_in), (echo, -1), (collect, read_out))
        threads = [threading.Thread(target=target, args=(fd,)) for target, fd in work]
        for thread in threads:
            thread.start()
        session = Session(Connection(mine), tty=False, stdin=True)
        session.run(None)
        session.close()
        for thread in threads:
            thread.join(10)
    assert bytes(back) == data
