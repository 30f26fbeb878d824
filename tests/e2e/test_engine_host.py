"""The engine and its machine: limits that this host cannot give, sockets from outside, several engines side by side."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from barque.sys import caps
from tests.e2e.engine_world import PATIENCE, EngineWorld, engine_world
from tests.e2e.test_bad_input import wait_until
from tests.registry_peers import free_port


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EngineWorld]:
    with engine_world(tmp_path_factory.mktemp("host")) as made:
        yield made


def own_capabilities() -> set[str]:
    _, permitted, _ = caps.get_sets()
    return set(caps.to_names(permitted & caps.bounding()))


def test_privileged_gets_what_the_host_has(world: EngineWorld) -> None:
    done = world.docker("run", "--rm", "--privileged", "busybox", "sh", "-c",
                        "grep CapEff /proc/self/status; test -e /dev/kmsg && echo devices; "
                        "mount -t tmpfs none /tmp && echo mounted; test -w /proc/sys/kernel && echo writable")
    assert done.code == 0, done
    lines = done.out.split("\n")
    assert lines[1:4] == ["devices", "mounted", "writable"]
    granted = set(caps.to_names(int(lines[0].split()[1], 16)))
    assert granted == own_capabilities()
    with open("/proc/sys/kernel/cap_last_cap", encoding="ascii") as file:
        everything = len(granted) == int(file.read()) + 1
    assert ("lacks some capabilities" in done.err) != everything


def test_limits_beyond_the_host_s_are_cut_with_a_warning(world: EngineWorld) -> None:
    """Without CAP_SYS_RESOURCE nobody can raise a hard limit nor lower the score."""
    asked = ["--ulimit", "nofile=2000000000:2000000000", "--ulimit", "core=0", "--oom-score-adj", "-900"]
    may = "CAP_SYS_RESOURCE" in own_capabilities()
    out = world.ok("run", "--name", "limits", *asked, "busybox", "sh", "-c",
                   "ulimit -Hc; cat /proc/self/oom_score_adj").split()
    assert out[0] == "0"
    assert (out[1] == "-900") == may
    world.ok("rm", "limits")
    score = world.ok("run", "--rm", "--oom-score-adj", "500", "busybox", "cat", "/proc/self/oom_score_adj")
    assert score == "500"


_DATAGRAM_SERVER = """
import socket, sys
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
    sock.bind(("0.0.0.0", int(sys.argv[1])))
    while True:
        _, who = sock.recvfrom(100)
        sock.sendto(b"over-udp", who)
"""
_DATAGRAM_CLIENT = """
import socket, sys
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
    sock.settimeout(1)
    sock.connect((sys.argv[1], int(sys.argv[2])))
    while True:
        try:
            sock.send(b"hi")
            print(sock.recv(100).decode(), end="")
            break
        except (TimeoutError, ConnectionRefusedError):
            pass
"""


def test_published_ports_from_other_containers(world: EngineWorld) -> None:
    """TCP and UDP, through the host's address on the bridge, as well as directly."""
    tcp, udp = free_port(), free_port()
    world.ok("run", "-d", "--name", "server", "-p", f"{tcp}:80", "-p", f"{udp}:53/udp", "busybox", "sh", "-c",
             "while :; do echo over-tcp | nc -l -p 80; done")
    gateway = world.inspect("server", "{{.NetworkSettings.Gateway}}")
    address = world.inspect("server", "{{.NetworkSettings.IPAddress}}")
    for where, port in ((gateway, tcp), (address, 80)):
        script = f"until nc -w 2 {where} {port} </dev/null | grep over-tcp; do sleep 0.1; done"
        assert world.ok("run", "--rm", "busybox", "sh", "-c", script) == "over-tcp"
    world.ok("run", "-d", "--name", "client", "busybox", "sleep", "1000")
    # busybox does not speak in datagrams, so that both ends only borrow the containers' networks.
    server = in_network(world, "server", _DATAGRAM_SERVER, "53")
    for where, port in ((gateway, udp), (address, 53)):
        out, _ = in_network(world, "client", _DATAGRAM_CLIENT, where, str(port)).communicate(timeout=PATIENCE)
        assert out == b"over-udp"
    server.kill()
    server.communicate()
    world.ok("rm", "-f", "server", "client")


def in_network(world: EngineWorld, name: str, program: str, *arguments: str) -> subprocess.Popen[bytes]:
    pid = world.inspect(name, "{{.State.Pid}}")
    return subprocess.Popen(["nsenter", f"--net=/proc/{pid}/ns/net", sys.executable, "-c", program, *arguments],
                            stdout=subprocess.PIPE)


def test_live_restore_leaves_containers_running(world: EngineWorld) -> None:
    world.flags.append("--live-restore")
    try:
        assert world.end() == 0
        world.start()
        world.ok("run", "-d", "--name", "lives", "busybox", "sleep", "1000")
        pid = int(world.inspect("lives", "{{.State.Pid}}"))
        assert world.end() == 0
        assert os.path.exists(f"/proc/{pid}")
        world.start()
        assert world.inspect("lives", "{{.State.Pid}}") == str(pid)
        assert world.ok("exec", "lives", "echo", "in") == "in"
        world.ok("rm", "-f", "lives")
        assert json.loads(world.ok("info", "-f", "{{json .LiveRestoreEnabled}}")) is True
    finally:
        world.flags.clear()


_ACTIVATE = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.set_inheritable(3, True)
os.environ.update(LISTEN_FDS="1", LISTEN_PID=str(os.getpid()))
os.execv(sys.executable, [sys.executable, "-m", "barque.daemon", *sys.argv[2:]])
"""


def test_socket_activation(tmp_path: Path) -> None:
    """A connection made before the daemon is there is served by it, and the socket outlives it."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s"))
        listener.listen()
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(PATIENCE)
            client.connect(str(tmp_path / "s"))
            client.sendall(b"GET /_ping HTTP/1.1\r\nHost: d\r\nConnection: close\r\n\r\n")
            (tmp_path / "daemon.json").write_text("{}")
            daemon = subprocess.Popen(
                [sys.executable, "-c", _ACTIVATE, str(listener.fileno()), "-H", "fd://", "--data-root",
                 str(tmp_path / "data"), "--exec-root", str(tmp_path / "run"), "--config-file",
                 str(tmp_path / "daemon.json"), "--bip", "172.31.97.1/24"],
                pass_fds=[listener.fileno()], stderr=subprocess.PIPE)
            try:
                answer = b""
                while piece := client.recv(4096):
                    answer += piece
                assert answer.startswith(b"HTTP/1.1 200 OK")
                assert answer.endswith(b"OK")
            finally:
                daemon.terminate()
                _, errors = daemon.communicate(timeout=PATIENCE)
        assert daemon.returncode == 0, errors
        assert (tmp_path / "s").exists()


def test_socket_activation_without_sockets(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-m", "barque.daemon", "-H", "fd://", "--data-root", str(tmp_path / "data"),
                           "--exec-root", str(tmp_path / "run"), "--bip", "172.31.97.1/24"],
                          capture_output=True, text=True, check=False, timeout=PATIENCE)
    assert done.returncode == 1
    assert "no sockets found via socket activation" in done.stderr


@pytest.fixture
def dockerd(tmp_path: Path) -> Iterator[list[str]]:
    """Debian's engine in the same namespaces, as the beginning of a command line of its client."""
    if shutil.which("dockerd") is None:
        pytest.skip("needs dockerd")
    sock = f"unix://{tmp_path}/d"
    with open(tmp_path / "log", "wb") as log:
        process = subprocess.Popen(
            ["dockerd", "--data-root", str(tmp_path / "data"), "--exec-root", str(tmp_path / "run"), "-H", sock,
             "--pidfile", str(tmp_path / "pid"), "--bridge", "none", "--iptables=false"], stdout=log, stderr=log)
    command = ["docker", "-H", sock]
    deadline = time.monotonic() + PATIENCE
    try:
        while subprocess.run([*command, "version"], capture_output=True, check=False).returncode != 0:
            assert process.poll() is None, (tmp_path / "log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.1)
        yield command
    finally:
        process.terminate()
        process.wait(PATIENCE)


def test_engines_side_by_side(world: EngineWorld, tmp_path_factory: pytest.TempPathFactory, dockerd: list[str]) -> None:
    """Two of ours and a dockerd on one machine: the end of one takes nothing from the others."""
    world.ok("run", "-d", "--name", "same", "-p", "80", "busybox", "sleep", "1000")
    links = set(os.listdir("/sys/class/net"))
    with engine_world(tmp_path_factory.mktemp("second"), "172.31.98.1/24") as second:
        assert second.ok("ps", "-aq") == ""
        second.ok("run", "-d", "--name", "same", "-p", "80", "busybox", "sleep", "1000")
        assert second.inspect("same", "{{.Id}}") != world.inspect("same", "{{.Id}}")
        addresses = {engine.inspect("same", "{{.NetworkSettings.IPAddress}}") for engine in (world, second)}
        assert len(addresses) == 2
        assert subprocess.run([*dockerd, "ps", "-aq"], capture_output=True, text=True, check=True).stdout == ""
        second.end(signal.SIGKILL)
        assert world.ok("exec", "same", "echo", "in") == "in"
        second.start()
        assert second.ok("exec", "same", "echo", "in") == "in"
        second.ok("rm", "-f", "same")
    assert world.ok("exec", "same", "echo", "still") == "still"
    # Those of a container go with its network namespace, in the background.
    wait_until(lambda: set(os.listdir("/sys/class/net")) <= links)
    world.ok("rm", "-f", "same")
    assert subprocess.run([*dockerd, "info"], capture_output=True, check=False).returncode == 0
