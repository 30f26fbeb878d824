"""What the forked parts of supervise import, the framing, docker's frames and the restart policy."""

from __future__ import annotations

import os
import socket
import struct
import subprocess
import sys

import pytest

from barque.supervise import messages as m
from barque.supervise import mux, wire
from barque.supervise.restart_policy import Backoff, Policy, after_exit, at_boot

FORBIDDEN = ("asyncio", "threading", "concurrent", "subprocess", "multiprocessing", "logging", "sqlite3", "aiohttp")


def test_zygote_imports_nothing_that_brings_threads_or_loops() -> None:
    code = f"import sys, barque.supervise.zygote; print(*[m for m in {FORBIDDEN!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_fence_stops_imports() -> None:
    code = ("import sys; from barque.supervise.forkserver import Fence; sys.meta_path.insert(0, Fence());"
            "import json.tool")
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=False)
    assert "ImportError: json" in done.stderr


def test_frames_come_out_whatever_the_pieces() -> None:
    sent = [(1, m.Hello(1, "abc")), (2, m.Attach("e", stdin=True)), (7, m.Signal(9))]
    data = b"".join(wire.encode(serial, message) for serial, message in sent) + b"early input"
    decoder = wire.Decoder(wire.REQUESTS)
    received = []
    for index in range(len(data) - len(b"early input")):
        decoder.feed(data[index:index + 1])
        while (item := decoder.next()) is not None:
            received.append(item)
    decoder.feed(b"early input")
    assert received == sent
    assert decoder.rest() == b"early input"
    assert decoder.rest() == b""


@pytest.mark.parametrize("data", [
    struct.pack("!II", wire.MAX_MESSAGE + 1, 1),
    struct.pack("!II", 3, 1) + b"\xc1\xc1\xc1",
    wire.encode(1, m.Welcome(1, "new")),
], ids=["too long", "no msgpack", "an answer"])
def test_what_is_no_request_is_refused(data: bytes) -> None:
    decoder = wire.Decoder(wire.REQUESTS)
    decoder.feed(data)
    with pytest.raises(wire.ProtocolError):
        decoder.next()


def test_packets_carry_descriptors() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    reading, writing = os.pipe()
    wire.send_packet(ours, 3, m.Fork("monitor"), [writing])
    os.close(writing)
    received = wire.receive_packet(theirs, wire.ZYGOTE_REQUESTS)
    assert received is not None
    serial, message, fds = received
    assert (serial, message) == (3, m.Fork("monitor"))
    assert not os.get_inheritable(fds[0])
    os.write(fds[0], b"x")
    assert os.read(reading, 1) == b"x"
    ours.close()
    assert wire.receive_packet(theirs, wire.ZYGOTE_REQUESTS) is None
    theirs.close()
    for fd in (reading, *fds):
        os.close(fd)


def test_bad_packet_closes_the_descriptors_that_came_with_it() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    reading, writing = os.pipe()
    socket.send_fds(ours, [b"\0\0\0\1garbage"], [writing])
    os.close(writing)
    with pytest.raises(wire.ProtocolError):
        wire.receive_packet(theirs, wire.ZYGOTE_REQUESTS)
    assert os.read(reading, 1) == b""
    os.close(reading)
    ours.close()
    theirs.close()


def test_docker_frame() -> None:
    assert mux.header(2, 258) == b"\x02\0\0\0\0\0\x01\x02"


def test_back_off_doubles_to_a_minute_and_falls_back_after_ten_seconds() -> None:
    state: Backoff | None = Backoff()
    delays = []
    for _ in range(12):
        assert state is not None
        state = after_exit(Policy("always"), state, exit_code=0, ran_for=1, stopped=False)
        assert state is not None
        delays.append(state.delay)
    assert delays[:4] == [0.1, 0.2, 0.4, 0.8]
    assert delays[-1] == 60.0
    assert after_exit(Policy("always"), state, exit_code=0, ran_for=10, stopped=False) == Backoff(13, 0.1)


@pytest.mark.parametrize(("policy", "restarts", "exit_code", "stopped", "again"), [
    (Policy(), 0, 1, False, False),
    (Policy("no"), 0, 1, False, False),
    (Policy("always"), 9, 0, False, True),
    (Policy("always"), 0, 1, True, False),
    (Policy("unless-stopped"), 0, 0, False, True),
    (Policy("unless-stopped"), 0, 0, True, False),
    (Policy("on-failure"), 99, 1, False, True),
    (Policy("on-failure"), 0, 0, False, False),
    (Policy("on-failure", 2), 1, 1, False, True),
    (Policy("on-failure", 2), 2, 1, False, False),
])
def test_who_is_restarted(policy: Policy, restarts: int, exit_code: int, stopped: bool, again: bool) -> None:
    state = after_exit(policy, Backoff(restarts, 0.1), exit_code=exit_code, ran_for=0, stopped=stopped)
    assert (state is not None) == again


def test_who_comes_up_with_the_daemon() -> None:
    assert at_boot(Policy("always"), stopped=True)
    assert at_boot(Policy("unless-stopped"), stopped=False)
    assert not at_boot(Policy("unless-stopped"), stopped=True)
    assert not at_boot(Policy("on-failure"), stopped=False)
