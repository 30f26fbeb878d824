"""Log drivers from `docker run` to a receiver, and back through `docker logs`."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.e2e.engine_world import PATIENCE, EngineWorld, engine_world
from tests.e2e.test_bad_input import wait_until
from tests.registry_peers import free_port

METRICS = free_port()
SPEAK = "echo out; echo err >&2"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EngineWorld]:
    flags = ["--metrics-addr", f"127.0.0.1:{METRICS}"]
    with engine_world(tmp_path_factory.mktemp("logs"), flags=flags) as engine:
        yield engine


def listen(kind: int) -> tuple[socket.socket, str]:
    sock = socket.socket(socket.AF_INET, kind)
    sock.settimeout(PATIENCE)
    sock.bind(("127.0.0.1", 0))
    if kind == socket.SOCK_STREAM:
        sock.listen()
    return sock, f"127.0.0.1:{sock.getsockname()[1]}"


def drain(sock: socket.socket) -> bytes:
    """All that the one connection brings."""
    connection, _ = sock.accept()
    data = b""
    with connection:
        connection.settimeout(PATIENCE)
        while piece := connection.recv(1 << 16):
            data += piece
    return data


def options(driver: str, **values: str) -> list[str]:
    pairs = [f"{key.replace('_', '-')}={value}" for key, value in values.items()]
    return ["--log-driver", driver, *(part for pair in pairs for part in ("--log-opt", pair))]


def test_syslog_and_its_copy(world: EngineWorld) -> None:
    sock, address = listen(socket.SOCK_STREAM)
    with sock:
        chosen = options("syslog", syslog_address=f"tcp://{address}", tag="{{.Name}}", labels="colour")
        assert world.ok("run", "--name", "sys", "--label", "colour=red", *chosen, "busybox", "sh", "-c", SPEAK) == "out"
        messages = drain(sock).splitlines()
    assert sorted(message.rpartition(b"]: ")[2] for message in messages) == [b"err", b"out"]
    assert all(b" sys[" in message for message in messages)
    done = world.docker("logs", "--details", "sys")
    assert (done.out, done.err) == ("colour=red,tag=sys out\n", "colour=red,tag=sys err\n")
    assert world.inspect("sys", "{{.LogPath}}|{{.HostConfig.LogConfig.Type}}") == "|syslog"


def test_gelf(world: EngineWorld) -> None:
    sock, address = listen(socket.SOCK_DGRAM)
    with sock:
        chosen = options("gelf", gelf_address=f"udp://{address}", gelf_compression_type="none")
        identity = world.ok("run", "-d", "--name", "gelf", *chosen, "busybox", "sh", "-c", "echo out")
        message: dict[str, Any] = json.loads(sock.recv(4096))
    assert (message["short_message"], message["_container_id"], message["_container_name"], message["_command"],
            message["_image_name"]) == ("out", identity, "gelf", "sh -c echo out", "busybox")


def test_fluentd_comes_later(world: EngineWorld, tmp_path: Path) -> None:
    path = str(tmp_path / "f")
    chosen = options("fluentd", fluentd_address=f"unix://{path}", fluentd_async="true", fluentd_retry_wait="10ms")
    world.ok("run", "-d", "--name", "fluent", *chosen, "busybox", "sh", "-c", "echo out; exec sleep 100")
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(PATIENCE)
        sock.bind(path)
        sock.listen()
        connection, _ = sock.accept()
        with connection:
            connection.settimeout(PATIENCE)
            tag, _, record, _ = msgspec.msgpack.decode(connection.recv(4096))
    assert (len(tag), record["container_name"], record["log"], record["source"]) == (12, "/fluent", "out", "stdout")
    world.ok("rm", "-f", "fluent")


def test_journald(world: EngineWorld) -> None:
    """On a file system of its own in place of the host's, which this run's mount namespace alone sees."""
    directory = Path("/run/systemd")
    directory.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "none", str(directory)], check=True)
    try:
        refused = world.docker("run", "--rm", *options("journald"), "busybox", "true")
        assert "failed to initialize logging driver: journald is not enabled on this host" in refused.err
        (directory / "journal").mkdir()
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.settimeout(PATIENCE)
            sock.bind(str(directory / "journal/socket"))
            world.ok("run", "--rm", "--name", "jour", *options("journald", env="E"), "-e", "E=1", "busybox", "echo",
                     "out")
            fields = dict(line.split(b"=", 1) for line in sock.recv(4096).splitlines())
        assert (fields[b"MESSAGE"], fields[b"CONTAINER_NAME"], fields[b"PRIORITY"], fields[b"E"]) == (
            b"out", b"jour", b"6", b"1")
    finally:
        subprocess.run(["umount", str(directory)], check=True)


def test_local(world: EngineWorld) -> None:
    script = "i=0; while [ $i -lt 3000 ]; do echo line $i; i=$((i+1)); done; read x; echo end"
    identity = world.ok("run", "-di", "--name", "loc", *options("local", max_size="40k", max_file="2"), "busybox", "sh",
                        "-c", script)
    follower = world.popen("logs", "-f", "--tail", "1000", "loc")
    assert follower.stdout is not None
    assert b"line" in follower.stdout.readline()
    world.ok("attach", "loc", stdin="go\n")
    out, _ = follower.communicate(timeout=PATIENCE)
    assert out.endswith(b"line 2999\nend\n")
    assert world.ok("logs", "--tail", "2", "loc") == "line 2999\nend"
    lines = world.ok("logs", "-t", "loc").splitlines()
    numbers = [int(line.split()[2]) for line in lines[:-1]]
    assert numbers == list(range(numbers[0], 3000))
    assert 1000 < len(numbers) < 3000
    assert world.inspect("loc", "{{.LogPath}}") == ""
    written = sorted(path.name for path in world.root.glob(f"data/containers/{identity}/local-logs/*"))
    assert written == ["container.log", "container.log.1.gz"]


@pytest.mark.parametrize("driver", ["json-file", "local"])
def test_non_blocking_files_are_whole_when_the_end_is_told(world: EngineWorld, driver: str) -> None:
    world.ok("run", "--name", f"nb-{driver}", *options(driver, mode="non-blocking"), "busybox", "seq", "5000")
    assert world.ok("logs", f"nb-{driver}") == "\n".join(map(str, range(1, 5001)))


def test_logs_that_cannot_be_read(world: EngineWorld) -> None:
    sock, address = listen(socket.SOCK_DGRAM)
    with sock:
        world.ok("run", "--name", "nocache", *options("syslog", syslog_address=f"udp://{address}",
                                                      cache_disabled="true"), "busybox", "echo", "x")
        assert sock.recv(1000).endswith(b": x\n")
    world.ok("run", "--name", "none", *options("none"), "busybox", "echo", "x")
    for name in ("nocache", "none"):
        done = world.docker("logs", name)
        assert (done.code, done.err) == (
            1, "Error response from daemon: configured logging driver does not support reading\n")


def test_a_target_that_is_not_there(world: EngineWorld) -> None:
    done = world.docker("run", "--name", "dead", *options("syslog", syslog_address="tcp://127.0.0.1:9"), "busybox",
                        "true")
    assert "failed to initialize logging driver: dial tcp 127.0.0.1:9: connect: connection refused" in done.err
    assert done.code == 125
    assert world.inspect("dead", "{{.State.Status}}") == "created"
    done = world.docker("run", "--rm", *options("local", tag="{{.Nope}}"), "busybox", "true")
    assert "failed to initialize logging driver: template: " in done.err


def test_a_target_that_hangs(world: EngineWorld) -> None:
    """A blocking log holds the container back, and nobody else; a non-blocking one drops."""
    sock, address = listen(socket.SOCK_STREAM)
    script = "yes | head -c 1000000; echo done > /done"
    with sock:
        where = f"tcp://{address}"
        world.ok("run", "-d", "--name", "held", *options("syslog", syslog_address=where), "busybox", "sh", "-c", script)
        held, _ = sock.accept()
        with held:
            loose = world.ok("run", "-d", "--name", "loose",
                             *options("syslog", syslog_address=where, mode="non-blocking", max_buffer_size="10k"),
                             "busybox", "sh", "-c", script)
            assert world.ok("wait", loose) == "0"
            assert world.inspect("held", "{{.State.Running}}") == "true"
            assert world.docker("exec", "held", "ls", "/done").code == 1
            world.ok("rm", "-f", "held")


def test_metrics(world: EngineWorld) -> None:
    def scrape() -> dict[str, float]:
        with urllib.request.urlopen(f"http://127.0.0.1:{METRICS}/metrics", timeout=PATIENCE) as answer:
            assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
            lines = answer.read().decode().splitlines()
        return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines if line[0] != "#")}

    before = scrape()
    world.ok("run", "-d", "--name", "counted", "busybox", "sleep", "100")
    after = scrape()
    for action in ("create", "start"):
        name = f'engine_daemon_container_actions_seconds_count{{action="{action}"}}'
        assert after[name] == before[name] + 1
    running = 'engine_daemon_container_states_containers{state="running"}'
    assert after[running] == before[running] + 1
    assert after["engine_daemon_events_total"] > before["engine_daemon_events_total"]
    world.ok("rm", "-f", "counted")


def test_shippers_outlive_the_daemon(world: EngineWorld) -> None:
    sock, address = listen(socket.SOCK_DGRAM)
    with sock:
        chosen = options("syslog", syslog_address=f"udp://{address}")
        world.ok("run", "-di", "--name", "long", *chosen, "busybox", "cat")
        world.end(signal.SIGKILL)
        world.start()
        world.ok("exec", "long", "sh", "-c", "echo after > /proc/1/fd/1")
        assert sock.recv(1000).endswith(b": after\n")
        assert world.ok("logs", "long") == "after"
        world.ok("rm", "-f", "long")


def unix_listener(path: Path) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(PATIENCE)
    sock.bind(str(path))
    sock.listen()
    return sock


def messages_from(listener: socket.socket) -> tuple[socket.socket, int]:
    """The next connection, once it has brought a whole message, and the shipper that made it."""
    connection, _ = listener.accept()
    connection.settimeout(PATIENCE)
    text = b""
    while b"\n" not in text:
        piece = connection.recv(1 << 16)
        assert piece, text
        text += piece
    assert re.match(rb"<30>.* again\[\d+\]: \d+\n", text), text
    (pid, _, _) = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return connection, pid


def test_a_shipper_that_dies_is_followed_by_another(world: EngineWorld, tmp_path: Path) -> None:
    path = tmp_path / "devlog"
    with unix_listener(path) as listener:
        world.ok("run", "-d", "--name", "again", *options("syslog", syslog_address=f"unix://{path}", tag="again"),
                 "busybox", "sh", "-c", "i=0; while true; do echo $i; i=$((i+1)); sleep 0.02; done")
        first, pid = messages_from(listener)
        os.kill(pid, signal.SIGKILL)
        second, other = messages_from(listener)
        assert other != pid
        world.end(signal.SIGKILL)
        os.kill(other, signal.SIGKILL)
        world.start()
        third, pid = messages_from(listener)
        assert pid != other
    world.end(signal.SIGKILL)
    world.start()
    path.unlink()
    for connection in (first, second, third):
        connection.close()
    wait_until(lambda: "the log target takes no messages: [Errno 2] No such file or directory" in world.log)
    with unix_listener(path) as listener:
        fourth, same = messages_from(listener)
        fourth.close()
    assert same == pid
    wait_until(lambda: "the log target takes messages again; lost in between: " in world.log)
    assert world.log.count("the process that passes its log on has died; starting another one") == 2
    world.ok("rm", "-f", "again")


@pytest.fixture
def journald() -> Iterator[None]:
    """One of this run's own, whose files are in memory."""
    program = Path("/lib/systemd/systemd-journald")
    if not (program.exists() and Path("/etc/machine-id").exists() and shutil.which("journalctl")):
        pytest.skip("no systemd-journald")
    directories = ("/run/systemd", "/run/log")
    for directory in directories:
        Path(directory).mkdir(exist_ok=True)
        subprocess.run(["mount", "-t", "tmpfs", "none", directory], check=True)
    Path("/run/systemd/journal").mkdir()
    process = subprocess.Popen([program], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                               stderr=subprocess.DEVNULL)
    try:
        wait_until(lambda: subprocess.run(["journalctl", "--sync"], check=False, capture_output=True).returncode == 0)
        yield
    finally:
        process.terminate()
        process.wait(PATIENCE)
        for directory in directories:
            subprocess.run(["umount", directory], check=True)


@pytest.mark.usefixtures("journald")
def test_the_journal_is_read_where_it_has_the_only_copy(world: EngineWorld) -> None:
    script = "echo out; echo err >&2; printf '%020000d\\n' 7; printf '\\377end\\n'; read line; echo $line"
    world.ok("run", "-di", "--name", "jour", "--label", "colour=red",
             *options("journald", cache_disabled="true", labels="colour"), "busybox", "sh", "-c", script)
    follower = world.popen("logs", "-f", "jour")
    assert follower.stdout is not None
    assert follower.stderr is not None
    assert (follower.stdout.readline(), follower.stderr.readline()) == (b"out\n", b"err\n")
    world.ok("attach", "jour", stdin="last\n")
    out = follower.stdout.read()
    follower.communicate(timeout=PATIENCE)
    assert out == b"%020000d\n\xffend\nlast\n" % 7
    again = subprocess.run(["docker", "logs", "jour"], env=world.environment(), capture_output=True, check=True)
    assert (again.stdout, again.stderr) == (b"out\n" + out, b"err\n")
    assert world.ok("logs", "--tail", "1", "--details", "jour") == "COLOUR=red last"
    stamp = world.ok("logs", "--tail", "1", "-t", "jour").split()[0]
    assert world.ok("logs", "--since", stamp, "jour") == "last"
    world.ok("rm", "jour")
