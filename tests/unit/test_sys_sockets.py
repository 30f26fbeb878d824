"""Sockets without the module ``socket``."""

from __future__ import annotations

import os

from barque.sys import sockets


def test_descriptors_arrive_in_order_and_are_closed_by_exec():
    ours, theirs = sockets.pair(sockets.SOCK_SEQPACKET)
    reading, writing = os.pipe()
    with ours, theirs:
        sockets.send(ours, b"two", [reading, writing])
        sockets.send(ours, b"none")
        data, received = sockets.receive(theirs, 16)
        assert (data, sockets.receive(theirs, 16)) == (b"two", (b"none", []))
    os.write(received[1], b"through")
    assert os.read(received[0], 16) == b"through"
    assert not any(map(os.get_inheritable, received))
    for fd in (reading, writing, *received):
        os.close(fd)


def test_a_listening_socket_answers(tmp_path):
    path = str(tmp_path / "gate")
    with sockets.Socket(sockets.AF_UNIX, sockets.SOCK_SEQPACKET) as gate, \
            sockets.Socket(sockets.AF_UNIX, sockets.SOCK_SEQPACKET) as caller:
        gate.bind(path)
        gate.listen(1)
        caller.connect(path)
        with gate.accept() as answering:
            answering.send(b"hello")
        assert sockets.receive(caller, 16) == (b"hello", [])
        assert sockets.receive(caller, 16) == (b"", [])
