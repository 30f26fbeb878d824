"""Shippers against receivers on loopback and unix sockets: what each protocol looks like on the wire, and what a target
that is slow, dead or gone does to the container.
"""

from __future__ import annotations

import array
import gzip
import json
import os
import re
import select
import socket
import ssl
import subprocess
import time
import zlib
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from barque.supervise.log_sink import PIECE, open_log
from barque.supervise.loop import Loop
from barque.supervise.messages import STDERR, STDOUT, LogConfig, Shipping
from barque.supervise.shippers import process
from barque.supervise.shippers.orders import (
    FileOrder,
    FluentdOrder,
    GelfOrder,
    JournaldOrder,
    ShipOrder,
    SyslogOrder,
    Tls,
)

PATIENCE = 60
#: 2001-09-09T01:46:40.123456789Z
MOMENT = 1_000_000_000_123_456_789
HOST = os.uname().nodename


class Ship:
    """A shipper in a process of its own, with the test as daemon and as monitor."""

    def __init__(self, path: Path, order: ShipOrder) -> None:
        self.path = str(path / "log.sock")
        self.daemons = str(path / "shipper.sock")
        self.channel, theirs = socket.socketpair()
        self.channel.settimeout(PATIENCE)
        self.source: socket.socket | None = None
        self.status: int | None = None
        with closing(socket.socket(socket.AF_UNIX)) as listening, closing(socket.socket(socket.AF_UNIX)) as later:
            for sock, name in ((listening, self.path), (later, self.daemons)):
                Path(name).unlink(missing_ok=True)
                sock.bind(name)
                sock.listen()
            later.setblocking(False)
            self.pid = os.fork()
            if self.pid == 0:
                try:
                    for fd in range(3, 64):
                        if fd not in (theirs.fileno(), listening.fileno(), later.fileno()):
                            os.closerange(fd, fd + 1)
                    os._exit(process.be(theirs, [listening.detach(), later.detach()]))
                finally:
                    os._exit(70)
        theirs.close()
        request = msgspec.msgpack.encode(order)
        self.channel.sendall(len(request).to_bytes(4, "big") + request)

    def said(self) -> str:
        """The next line over the channel."""
        text = b""
        while not text.endswith(b"\n"):
            data = self.channel.recv(1)
            assert data, f"the shipper ended with {text!r}"
            text += data
        return text.decode().strip()

    def connect(self) -> None:
        assert self.said() == ""
        self.source = socket.socket(socket.AF_UNIX)
        self.source.settimeout(PATIENCE)
        self.source.connect(self.path)

    def write(self, data: bytes, stream: int = STDOUT) -> None:
        assert self.source is not None
        self.source.sendall(PIECE.pack(stream, len(data), MOMENT) + data)

    def end(self) -> int:
        """The container's end; returns the shipper's status."""
        # Again from the end of a test's block, where the test has looked at it before.
        if self.status is not None:
            return self.status
        if self.source is not None:
            self.source.close()
        self.channel.close()
        descriptor = os.pidfd_open(self.pid)
        ready, _, _ = select.select([descriptor], [], [], PATIENCE)
        os.close(descriptor)
        if not ready:
            os.kill(self.pid, 9)
        _, status = os.waitpid(self.pid, 0)
        assert ready, "the shipper outlives its container"
        self.status = os.waitstatus_to_exitcode(status)
        return self.status


@contextmanager
def shipped(path: Path, order: ShipOrder) -> Iterator[Ship]:
    ship = Ship(path, order)
    ended = False
    try:
        ship.connect()
        yield ship
        ended = True
    finally:
        status = ship.end()
        assert not ended or status == 0


def receiver(kind: int) -> socket.socket:
    sock = socket.socket(socket.AF_INET, kind)
    sock.settimeout(PATIENCE)
    sock.bind(("127.0.0.1", 0))
    if kind == socket.SOCK_STREAM:
        sock.listen()
    return sock


def address(sock: socket.socket) -> str:
    return f"127.0.0.1:{sock.getsockname()[1]}"


def until_end(connection: socket.socket) -> bytes:
    connection.settimeout(PATIENCE)
    data = b""
    while piece := connection.recv(1 << 16):
        data += piece
    return data


def syslog(network: str, where: str, **options: Any) -> SyslogOrder:
    return SyslogOrder(network=network, address=where, facility=24, tag="t/1", **options)


@pytest.fixture(autouse=True)
def utc(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "UTC0")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.parametrize(("form", "head"), [
    ("", r"<30>Sep  9 01:46:40 t/1\[\d+\]: "),
    ("rfc3164", rf"<30>Sep  9 01:46:40 {HOST} t/1\[\d+\]: "),
    ("rfc5424", rf"<30>1 2001-09-09T01:46:40Z {HOST} t/1 \d+ t/1 - "),
    ("rfc5424micro", rf"<30>1 2001-09-09T01:46:40.123456Z {HOST} t/1 \d+ t/1 - "),
])
def test_syslog_formats(tmp_path: Path, form: Any, head: str) -> None:
    with receiver(socket.SOCK_DGRAM) as sock, shipped(tmp_path, syslog("udp", address(sock), format=form)) as ship:
        ship.write(b"one\n\ntwo")
        assert re.fullmatch(head.encode() + b"one\n", sock.recv(2000))
        ship.write(b" parts\n", STDOUT)
        ship.write(b"bad\n", STDERR)
        assert re.fullmatch(head.encode() + b"two parts\n", sock.recv(2000))
        assert sock.recv(2000).startswith(b"<27>")


@pytest.mark.parametrize("network", ["unix", "unixgram"])
def test_syslog_over_unix_sockets(tmp_path: Path, network: str) -> None:
    path = str(tmp_path / "devlog")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM if network == "unix" else socket.SOCK_DGRAM) as sock:
        sock.settimeout(PATIENCE)
        sock.bind(path)
        if network == "unix":
            sock.listen()
        with shipped(tmp_path, syslog(network, path)) as ship:
            ship.write(b"one\ntwo\n")
        if network == "unix":
            with sock.accept()[0] as connection:
                assert until_end(connection).count(b"]: ") == 2
        else:
            assert sock.recv(100).endswith(b": one\n")
            assert sock.recv(100).endswith(b": two\n")


def test_syslog_reconnects_and_says_what_was_lost(tmp_path: Path) -> None:
    with receiver(socket.SOCK_STREAM) as sock, shipped(tmp_path, syslog("tcp", address(sock))) as ship:
        first, _ = sock.accept()
        ship.write(b"one\n")
        assert first.recv(100).endswith(b": one\n")
        first.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")    # a reset, not an end
        first.close()
        ship.write(b"two\n")
        second, _ = sock.accept()
        with second:
            second.settimeout(PATIENCE)
            assert second.recv(100).endswith(b": two\n")
            where = sock.getsockname()
            sock.close()
            second.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        ship.write(b"three\n")
        assert ship.said() == "the log target takes no messages: [Errno 111] Connection refused"
        with closing(socket.socket()) as again:
            again.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            again.settimeout(PATIENCE)
            again.bind(where)
            again.listen()
            ship.write(b"four\n")
            assert ship.said() == "the log target takes messages again; lost in between: 1"
            with again.accept()[0] as third:
                assert third.recv(100).endswith(b": four\n")


def test_syslog_over_tls(tmp_path: Path) -> None:
    key, certificate = str(tmp_path / "key.pem"), str(tmp_path / "cert.pem")
    try:
        subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1",
                        "-nodes", "-keyout", key, "-out", certificate, "-days", "2", "-subj", "/CN=x", "-addext",
                        "subjectAltName=IP:127.0.0.1"], check=True, capture_output=True)
    except FileNotFoundError:
        pytest.skip("no openssl")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    with receiver(socket.SOCK_STREAM) as sock:
        ship = Ship(tmp_path, syslog("tcp+tls", address(sock), format="rfc5424", tls=Tls(ca=certificate)))
        with context.wrap_socket(sock.accept()[0], server_side=True) as connection:
            ship.connect()
            ship.write(b"one\ntwo\n")
            data = connection.recv(1000)
            while data.count(b"\n") < 2:
                data += connection.recv(1000)
            assert ship.end() == 0
        length, _, rest = data.partition(b" ")
        assert rest[:int(length)].endswith(b" - one\n")
        assert rest[int(length):].split(b" ", 1)[0] == length

        distrustful = Ship(tmp_path, syslog("tcp+tls", address(sock)))
        with sock.accept()[0] as plain, pytest.raises(OSError):
            context.wrap_socket(plain, server_side=True).recv(1)
        assert "CERTIFICATE_VERIFY_FAILED" in distrustful.said()
        assert distrustful.end() == 1


def test_later_daemons_hear_what_nobody_has_heard(tmp_path: Path) -> None:
    path = tmp_path / "devlog"

    def listen() -> socket.socket:
        sock = socket.socket(socket.AF_UNIX)
        sock.settimeout(PATIENCE)
        sock.bind(str(path))
        sock.listen()
        return sock

    def come() -> socket.socket:
        sock = socket.socket(socket.AF_UNIX)
        sock.settimeout(PATIENCE)
        sock.connect(ship.daemons)
        return sock

    with listen() as sock:
        ship = Ship(tmp_path, syslog("unix", str(path)))
        ship.connect()
        ship.channel.close()
        sock.accept()[0].close()
        path.unlink()
    ship.write(b"one\n")
    with come() as second, second.makefile() as said:
        ship.write(b"two\n")
        assert said.readline() == "the log target takes no messages: [Errno 2] No such file or directory\n"
    with listen() as sock, come() as third, third.makefile() as said:
        ship.write(b"three\n")
        assert said.readline().startswith("the log target takes messages again; lost in between: ")
        with sock.accept()[0] as target:
            target.settimeout(PATIENCE)
            text = target.recv(100)
            while not text.endswith(b": three\n"):    # what was said before may have waited for this moment
                text += target.recv(100)
            assert ship.end() == 0


@pytest.mark.parametrize(("order", "reason"), [
    (syslog("tcp", "127.0.0.1:9"), "dial tcp 127.0.0.1:9: connect: connection refused"),
    (syslog("unixgram", "/proc/nonexistent"), "dial unixgram /proc/nonexistent: connect: no such file or directory"),
    (FluentdOrder("tcp", "127.0.0.1:9", "t", {}), "dial tcp 127.0.0.1:9: connect: connection refused"),
    (GelfOrder("tcp", "127.0.0.1:9", {}),
     "gelf: cannot connect to GELF endpoint: 127.0.0.1:9 dial tcp 127.0.0.1:9: connect: connection refused"),
    (JournaldOrder({}, "/proc/nonexistent"), "journald is not enabled on this host"),
    (FileOrder(LogConfig("/proc/nonexistent/log")), "[Errno 2] No such file or directory: '/proc/nonexistent/log'"),
], ids=lambda value: type(value).__name__)
def test_targets_that_are_not_there(tmp_path: Path, order: ShipOrder, reason: str) -> None:
    ship = Ship(tmp_path, order)
    assert ship.said() == reason
    assert ship.end() == 1


def test_nobody_comes(tmp_path: Path) -> None:
    """The daemon died before the container was created."""
    with receiver(socket.SOCK_DGRAM) as sock:
        ship = Ship(tmp_path, syslog("udp", address(sock)))
        assert ship.said() == ""
        assert ship.end() == 1


def test_a_shipper_has_no_capabilities(tmp_path: Path) -> None:
    with receiver(socket.SOCK_DGRAM) as sock, shipped(tmp_path, syslog("udp", address(sock))) as ship:
        status = Path(f"/proc/{ship.pid}/status").read_text()
    assert re.findall(r"Cap(?:Prm|Eff):\s+(\w+)", status) == ["0" * 16] * 2


def journal_fields(message: bytes) -> dict[str, bytes]:
    """The native protocol, strictly."""
    fields: dict[str, bytes] = {}
    while message:
        head, _, message = message.partition(b"\n")
        name, equals, value = head.partition(b"=")
        if not equals:
            size = int.from_bytes(message[:8], "little")
            value, message = message[8:8 + size], message[8 + size:]
            assert message[:1] == b"\n"
            message = message[1:]
        assert re.fullmatch(rb"[A-Z0-9][A-Z0-9_]*", name), name
        assert name.decode() not in fields
        fields[name.decode()] = value
    return fields


def test_journald(tmp_path: Path) -> None:
    path = str(tmp_path / "journal")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.settimeout(PATIENCE)
        sock.bind(path)
        order = JournaldOrder({"CONTAINER_ID": "abc", "TWO": "a\nb"}, path)
        with shipped(tmp_path, order) as ship:
            ship.write(b"one\n")
            ship.write(b"\xff\n", STDERR)
            ship.write(b"x" * 20000 + b"\n")
            messages = [journal_fields(sock.recv(1 << 17)) for _ in range(4)]
            assert messages[0] | {"CONTAINER_LOG_EPOCH": b""} == {
                "PRIORITY": b"6", "MESSAGE": b"one", "CONTAINER_ID": b"abc", "TWO": b"a\nb",
                "SYSLOG_TIMESTAMP": b"2001-09-09T01:46:40.123456789Z", "CONTAINER_LOG_EPOCH": b"",
                "CONTAINER_LOG_ORDINAL": b"1"}
            assert (messages[1]["PRIORITY"], messages[1]["MESSAGE"]) == (b"3", b"\xff")
            pieces = messages[2:]
            assert [len(piece["MESSAGE"]) for piece in pieces] == [16384, 3616]
            assert len({piece["CONTAINER_PARTIAL_ID"] for piece in pieces}) == 1
            assert [piece["CONTAINER_PARTIAL_ORDINAL"] for piece in pieces] == [b"1", b"2"]
            assert [piece["CONTAINER_PARTIAL_LAST"] for piece in pieces] == [b"false", b"true"]
            assert [piece.get("CONTAINER_PARTIAL_MESSAGE") for piece in pieces] == [b"true", None]


def test_journald_takes_what_is_too_long_as_a_file(tmp_path: Path) -> None:
    path = str(tmp_path / "journal")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.settimeout(PATIENCE)
        sock.bind(path)
        with shipped(tmp_path, JournaldOrder({"BIG": "x" * 500_000}, path)) as ship:
            ship.write(b"one\n")
            data, ancillary, _, _ = sock.recvmsg(1 << 16, socket.CMSG_SPACE(4))
            assert data == b""
            fd = array.array("i", ancillary[0][2])[0]
            with open(fd, "rb") as file:
                fields = journal_fields(os.pread(fd, 1 << 20, 0))
                assert not file.closed
            assert (fields["MESSAGE"], len(fields["BIG"])) == (b"one", 500_000)


@pytest.mark.parametrize("compression", ["gzip", "zlib", "none"])
def test_gelf_over_udp(tmp_path: Path, compression: Any) -> None:
    unpack = {"gzip": gzip.decompress, "zlib": zlib.decompress, "none": bytes}[compression]
    with receiver(socket.SOCK_DGRAM) as sock:
        order = GelfOrder("udp", address(sock), {"_tag": "t"}, compression=compression)
        with shipped(tmp_path, order) as ship:
            ship.write(b"one\n\n")
            ship.write(b"\xff\n", STDERR)
            assert json.loads(unpack(sock.recv(2000))) == {
                "version": "1.1", "host": HOST, "short_message": "one", "timestamp": 1000000000.123, "level": 6,
                "_tag": "t"}
            assert json.loads(unpack(sock.recv(2000)))["level"] == 3
            line = os.urandom(3000).hex().encode()
            ship.write(line + b"\n")
            chunks = [sock.recv(2000)]
            total = chunks[0][11]
            chunks += [sock.recv(2000) for _ in range(total - 1)]
            assert {chunk[:10] for chunk in chunks} == {chunks[0][:10]}
            assert chunks[0][:2] == b"\x1e\x0f"
            assert sorted(chunk[10] for chunk in chunks) == list(range(total))
            assert max(map(len, chunks)) <= 1420
            whole = b"".join(chunk[12:] for chunk in sorted(chunks, key=lambda chunk: chunk[10]))
            assert json.loads(unpack(whole))["short_message"] == line.decode()


def test_gelf_over_tcp_reconnects(tmp_path: Path) -> None:
    with receiver(socket.SOCK_STREAM) as sock:
        with shipped(tmp_path, GelfOrder("tcp", address(sock), {}, reconnect_delay=0)) as ship:
            first, _ = sock.accept()
            first.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            first.close()
            ship.write(b"one\ntwo\n")
        second, _ = sock.accept()
        with second:
            documents = until_end(second).split(b"\0")
        assert documents.pop() == b""
        assert [json.loads(document)["short_message"] for document in documents] == ["one", "two"]


def test_fluentd(tmp_path: Path) -> None:
    with receiver(socket.SOCK_STREAM) as sock:
        order = FluentdOrder("tcp", address(sock), "docker.t", {"container_name": "/n"})
        with shipped(tmp_path, order) as ship:
            ship.write(b"one\n")
            ship.write(b"x", STDERR)
        with sock.accept()[0] as connection:
            data = until_end(connection)
        first = msgspec.msgpack.encode(["docker.t", 1_000_000_000, {"source": "stdout", "log": "one",
                                                                  "container_name": "/n"}, {}])
        assert data[:len(first)] == first
        tag, _, record, _ = msgspec.msgpack.decode(data[len(first):])
        assert (tag, record["source"], record["log"], record["partial_message"], record["partial_last"]) == (
            "docker.t", "stderr", "x", "true", "false")


def test_fluentd_with_receipts_and_fractions_of_seconds(tmp_path: Path) -> None:
    with receiver(socket.SOCK_STREAM) as sock:
        order = FluentdOrder("tcp", address(sock), "t", {}, request_ack=True, subsecond=True, retry_wait=0.001)
        with shipped(tmp_path, order) as ship:
            ship.write(b"one\n")
            first, _ = sock.accept()
            with first:
                first.settimeout(PATIENCE)
                _, moment, _, option = msgspec.msgpack.decode(first.recv(1000))
                assert (moment.code, moment.data) == (0, (10**9).to_bytes(4, "big") + (123456789).to_bytes(4, "big"))
                first.sendall(msgspec.msgpack.encode({"ack": "of another"}))
            second, _ = sock.accept()
            with second:
                second.settimeout(PATIENCE)
                assert msgspec.msgpack.decode(second.recv(1000))[3] == option
                answer = msgspec.msgpack.encode({"ack": option["chunk"]})
                second.sendall(answer[:3])
                second.sendall(answer[3:])
                ship.write(b"two\n")
                _, _, record, option = msgspec.msgpack.decode(second.recv(1000))
                assert record["log"] == "two"
                second.sendall(msgspec.msgpack.encode({"ack": option["chunk"]}))


def test_fluentd_comes_up_later(tmp_path: Path) -> None:
    path = str(tmp_path / "fluentd")
    with shipped(tmp_path, FluentdOrder("unix", path, "t", {}, lazy=True, retry_wait=0.01)) as ship:
        ship.write(b"one\n")
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(PATIENCE)
            sock.bind(path)
            sock.listen()
            with sock.accept()[0] as connection:
                connection.settimeout(PATIENCE)
                assert msgspec.msgpack.decode(connection.recv(1000))[2]["log"] == "one"


def test_the_end_waits_a_while_for_a_target_that_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "GRACE", 0.2)
    with receiver(socket.SOCK_STREAM) as sock, shipped(tmp_path, syslog("tcp", address(sock))) as ship:
        with sock.accept()[0]:
            assert ship.source is not None
            ship.source.setblocking(False)
            with pytest.raises(BlockingIOError):
                while True:
                    ship.source.send(PIECE.pack(STDOUT, 10, MOMENT) + b"too much!\n")
            assert ship.end() == 0


class Monitor:
    """The monitor's side of a log, by itself."""

    def __init__(self, config: LogConfig) -> None:
        self.loop = Loop()
        self.throttled: list[bool] = []
        self.log = open_log(config, self.loop, lambda: None, self.throttled.append)


@pytest.fixture
def shipper(tmp_path: Path) -> Iterator[socket.socket]:
    """A shipper that reads when the test does."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(PATIENCE)
        sock.bind(str(tmp_path / "s"))
        sock.listen()
        yield sock


def pieces(connection: socket.socket) -> list[tuple[int, bytes]]:
    result = []
    with connection, connection.makefile("rb") as stream:
        while head := stream.read(PIECE.size):
            number, length, _ = PIECE.unpack(head)
            result.append((number, stream.read(length)))
    return result


def test_blocking_mode_holds_the_container(tmp_path: Path, shipper: socket.socket) -> None:
    monitor = Monitor(LogConfig(shipping=Shipping(str(tmp_path / "s"))))
    connection, _ = shipper.accept()
    line = b"x" * 65535 + b"\n"
    while True not in monitor.throttled:
        monitor.log.write(STDOUT, line)
    sent = monitor.throttled.count(False) + 1
    monitor.log.close()
    assert monitor.throttled[-1] is False
    assert pieces(connection) == [(STDOUT, line)] * sent
    assert monitor.log.dropped == 0


@pytest.mark.parametrize("count_lines", [False, True])
def test_non_blocking_mode_drops_whole_lines(tmp_path: Path, shipper: socket.socket, count_lines: bool) -> None:
    limit = 1000 if count_lines else 100_000
    monitor = Monitor(LogConfig(shipping=Shipping(str(tmp_path / "s"), buffer=limit, count_lines=count_lines)))
    connection, _ = shipper.accept()
    written = b""
    number = 0
    while monitor.log.dropped < 300_000:
        data = b"".join(b"line %d on its way\n" % n for n in range(number, number + 500))
        number += 500
        cut = len(data) - 7    # pieces end within lines
        for part in (data[:cut], data[cut:]):
            written += part
            monitor.log.write(STDERR, part)
    assert True not in monitor.throttled
    monitor.log.close()
    received = pieces(connection)
    assert {stream for stream, _ in received} == {STDERR}
    kept = b"".join(data for _, data in received)
    assert set(kept.splitlines()) <= set(written.splitlines())
    assert monitor.log.dropped == len(written) - len(kept)


def test_a_dead_shipper_holds_nobody_up(tmp_path: Path, shipper: socket.socket) -> None:
    monitor = Monitor(LogConfig(path=str(tmp_path / "cache"), format="local", shipping=Shipping(str(tmp_path / "s"))))
    shipper.accept()[0].close()
    for _ in range(3):
        monitor.log.write(STDOUT, b"one\n")
    assert monitor.throttled[-1] is False
    monitor.log.close()
    assert (tmp_path / "cache").read_bytes().count(b"one") == 3
    assert monitor.log.dropped >= 8


def test_a_shipper_writes_files(tmp_path: Path) -> None:
    path = tmp_path / "log"
    order = FileOrder(LogConfig(str(path), max_size=1000, max_files=3, compress=True))
    with shipped(tmp_path, order) as ship:
        for _ in range(30):
            ship.write(b"a line of the container\n")
    assert sorted(item.name for item in tmp_path.iterdir() if item.name.startswith("log.")) == [
        "log.1.gz", "log.2.gz", "log.sock"]
