"""The D-Bus client: bytes of the specification, and a real bus daemon that refuses whatever is malformed."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from barque.sys import dbus
from barque.sys.dbus import CallFailed, Connection, Message, ProtocolError, Reader, Writer, decode, encode, split

BUS = "org.freedesktop.DBus"
START = "ssa(sv)a(sa(sv))"
START_BODY: list[Any] = ["web.scope", "replace", [
    ("Description", ("s", "it's a test")), ("PIDs", ("au", [4711])), ("Delegate", ("b", True)),
    ("MemoryMax", ("t", (1 << 64) - 1)), ("DeviceAllow", ("a(ss)", [("/dev/char/1:3", "rwm"), ("char-*", "m")]))], []]


def test_a_call_in_bytes() -> None:
    message = Message(dbus.METHOD_CALL, serial=1, path="/org/freedesktop/DBus", interface=BUS, member="Hello",
                      destination=BUS)
    assert encode(message) == bytes.fromhex(
        "6c01000100000000010000006d000000"
        "01016f00150000002f6f72672f667265656465736b746f702f44427573000000"
        "02017300140000006f72672e667265656465736b746f702e4442757300000000"
        "030173000500000048656c6c6f000000"
        "06017300140000006f72672e667265656465736b746f702e4442757300000000")


def test_what_is_encoded_is_decoded() -> None:
    message = Message(dbus.METHOD_CALL, 9, "/a", "b.c", "D", destination="e.f", signature=START, body=START_BODY)
    data = encode(message)
    assert dbus.message_length(data[:16]) == len(data)
    assert decode(data) == message


def test_big_endian_is_understood() -> None:
    body = bytes.fromhex("00000002 6869 00")
    fields = bytes.fromhex("05 01 75 00 00000007  08 01 67 00 01 73 00")
    data = b"B\x02\x01\x01" + len(body).to_bytes(4, "big") + (3).to_bytes(4, "big") + len(fields).to_bytes(4, "big")
    data += fields + bytes(-len(fields) % 8) + body
    message = decode(data)
    assert (message.kind, message.serial, message.reply_serial, message.body) == (2, 3, 7, ["hi"])


@pytest.mark.parametrize(("signature", "parts"), [("", []), ("sa(sv)u", ["s", "a(sv)", "u"]),
                                                  ("a{sa{sv}}(i(yy))", ["a{sa{sv}}", "(i(yy))"])])
def test_signatures(signature: str, parts: list[str]) -> None:
    assert split(signature) == parts


@pytest.mark.parametrize("signature", ["a", "(s", "z", "a" * 100 + "s", ")"])
def test_bad_signatures(signature: str) -> None:
    with pytest.raises(ProtocolError):
        split(signature)


_text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=9)
_variants = st.one_of(st.tuples(st.just("s"), _text), st.tuples(st.just("t"), st.integers(0, (1 << 64) - 1)),
                      st.tuples(st.just("as"), st.lists(_text, max_size=3)), st.tuples(st.just("b"), st.booleans()),
                      st.tuples(st.just("x"), st.integers(-(1 << 63), (1 << 63) - 1)))


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(_text, _variants), max_size=5), st.dictionaries(_text, _variants, max_size=3),
       st.integers(0, 255))
def test_values_survive(properties: list[Any], mapping: dict[str, Any], octet: int) -> None:
    writer = Writer()
    for kind, value in (("y", octet), ("a(sv)", properties), ("a{sv}", mapping)):
        writer.value(kind, value)
    reader = Reader(bytes(writer.data))
    assert [reader.value(kind) for kind in ("y", "a(sv)", "a{sv}")] == [octet, properties, mapping]


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=80))
def test_garbage_is_an_error_and_not_a_crash(data: bytes) -> None:
    for kind in ("a(sv)", "s", "v", "(yt)", "a{sv}"):
        try:
            Reader(data).value(kind)
        except ProtocolError:
            continue


def _serve(path: str, answer: bytes) -> threading.Thread:
    """A peer that takes one connection and sends ``answer``."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen()

    def run() -> None:
        with listener, listener.accept()[0] as peer:
            peer.recv(4096)
            peer.sendall(answer)
            while peer.recv(4096):
                pass
    thread = threading.Thread(target=run)
    thread.start()
    return thread


def test_a_refused_identity(tmp_path: Path) -> None:
    thread = _serve(str(tmp_path / "s"), b"REJECTED ANONYMOUS\r\n")
    with pytest.raises(PermissionError, match="refuses to authenticate"):
        Connection(str(tmp_path / "s"))
    thread.join()


def test_a_silent_peer_is_given_up(tmp_path: Path) -> None:
    thread = _serve(str(tmp_path / "s"), b"OK 1234\r\n")
    connection = Connection(str(tmp_path / "s"))
    connection._timeout = 0.1  # from now on: letting us in may take longer
    with pytest.raises(TimeoutError):
        connection.call("a.b", "/a", "a.b", "C")
    connection.close()
    thread.join()


CONFIG = """<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig><listen>unix:path={path}</listen><auth>EXTERNAL</auth>
<policy context="default">
<allow send_destination="*" eavesdrop="true"/><allow eavesdrop="true"/><allow own="*"/>
</policy>
</busconfig>
"""


@pytest.fixture
def bus(tmp_path: Path) -> Iterator[str]:
    if shutil.which("dbus-daemon") is None or shutil.which("dbus-monitor") is None:
        pytest.skip("dbus-daemon is not installed")
    path = str(tmp_path / "bus")
    (tmp_path / "bus.conf").write_text(CONFIG.format(path=path))
    with subprocess.Popen(["dbus-daemon", f"--config-file={tmp_path}/bus.conf", "--nofork", "--print-address"],
                          stdout=subprocess.PIPE, text=True) as daemon:
        assert daemon.stdout is not None
        assert path in daemon.stdout.readline()
        yield path
        daemon.terminate()


def test_a_real_bus_answers(bus: str) -> None:
    connection = Connection(bus)
    name = connection.hello()
    assert name in connection.call(BUS, "/org/freedesktop/DBus", BUS, "ListNames")[0]
    assert connection.call(BUS, "/org/freedesktop/DBus", BUS, "GetConnectionUnixUser", "s", name) == [os.geteuid()]
    assert connection.call(BUS, "/org/freedesktop/DBus", BUS, "RequestName", "su", "org.example.Test", 4) == [1]
    owner = connection.wait_signal("NameAcquired", lambda body: body == ["org.example.Test"])
    assert owner == ["org.example.Test"]
    with pytest.raises(CallFailed) as failed:
        connection.call(BUS, "/org/freedesktop/DBus", BUS, "GetNameOwner", "s", "no.such.name")
    assert failed.value.name == "org.freedesktop.DBus.Error.NameHasNoOwner"
    connection.close()


def test_another_implementation_reads_our_call(bus: str) -> None:
    """The daemon disconnects whoever sends a malformed message; the monitor shows what arrived."""
    with subprocess.Popen(["dbus-monitor", "--address", f"unix:path={bus}"], stdout=subprocess.PIPE,
                          text=True) as monitor:
        try:
            assert monitor.stdout is not None
            assert "NameAcquired" in monitor.stdout.readline()
            connection = Connection(bus)
            connection.hello()
            with pytest.raises(CallFailed, match="UnknownInterface"):
                connection.call(BUS, "/org/freedesktop/systemd1", "org.freedesktop.systemd1.Manager",
                                "StartTransientUnit", START, *START_BODY)
            connection.close()
            seen = ""
            while "UnknownInterface" not in seen:
                line = monitor.stdout.readline()
                assert line, seen
                seen += line
        finally:
            monitor.terminate()
    for text in ("member=StartTransientUnit", 'string "web.scope"', 'string "it\'s a test"', "uint32 4711",
                 "boolean true", "uint64 18446744073709551615", 'string "/dev/char/1:3"', 'string "char-*"'):
        assert text in seen, seen
