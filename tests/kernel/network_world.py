"""What tests of the network share: an engine's network, containers' namespaces, small servers and clients in them."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from barque.network.model import Attachment, NetworkSettings, NetworkSpec, PortBinding, Sandbox, SandboxRequest
from barque.network.stack import Network

#: How long an answer may take (seconds), and after how long without one there is none to come.
PATIENCE = 30.0
SILENCE = 0.5

SERVER = """
import socket, sys
kind, port = sys.argv[1], int(sys.argv[2])
six, kind = kind.endswith("6"), kind.rstrip("6")
s = socket.socket(socket.AF_INET6 if six else socket.AF_INET,
                  socket.SOCK_STREAM if kind == "tcp" else socket.SOCK_DGRAM)
s.bind(("::" if six else "0.0.0.0", port))
if kind == "tcp": s.listen(16)
print("ready", flush=True)
while True:
    if kind == "udp":
        data, peer = s.recvfrom(2048)
        s.sendto(data + b" from " + peer[0].encode(), peer)
        continue
    c, peer = s.accept()
    data = b""
    while chunk := c.recv(65536): data += chunk
    c.sendall(data + b" from " + peer[0].encode())
    c.close()
"""

CLIENT = """
import socket, sys
kind, host, port = sys.argv[1], sys.argv[2], int(sys.argv[3])
s = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET,
                  socket.SOCK_STREAM if kind == "tcp" else socket.SOCK_DGRAM)
s.settimeout(float(sys.argv[4]))
s.connect(socket.getaddrinfo(host, port)[0][4])
s.send(b"hello")
if kind == "tcp": s.shutdown(socket.SHUT_WR)
print(s.recv(65536).decode())
"""


def run(*command: str, check: bool = True) -> str:
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    if check and done.returncode:
        print(done.stderr, end="")
        done.check_returncode()
    return done.stdout


def inside(sandbox: Sandbox, *command: str, check: bool = True) -> str:
    assert sandbox.netns_path is not None
    return run("nsenter", "--net=" + sandbox.netns_path, *command, check=check)


def ask(kind: str, host: str, port: int, *, within: Sandbox | None = None, timeout: float = PATIENCE) -> str:
    """Send hello, return the answer: "hello from <the address that the server saw>"."""
    command = [sys.executable, "-I", "-S", "-c", CLIENT, kind, host, str(port), str(timeout)]
    return (run(*command) if within is None else inside(within, *command)).strip()


class Servers:
    def __init__(self) -> None:
        self._running: list[subprocess.Popen[str]] = []

    def start(self, sandbox: Sandbox | None, kind: str, port: int) -> None:
        """``kind`` is tcp or udp, with a 6 behind it for IPv6."""
        prefix = [] if sandbox is None else ["nsenter", f"--net={sandbox.netns_path}"]
        process = subprocess.Popen([*prefix, sys.executable, "-I", "-S", "-c", SERVER, kind, str(port)],
                                   stdout=subprocess.PIPE, text=True)
        self._running.append(process)
        assert process.stdout is not None and process.stdout.readline() == "ready\n"

    def stop(self) -> None:
        for process in self._running:
            process.kill()
            process.wait()
            assert process.stdout is not None
            process.stdout.close()
        self._running.clear()


@asynccontextmanager
async def engine(root: Path, **settings: object) -> AsyncIterator[Network]:
    network = await Network.open(NetworkSettings(exec_root=str(root), **settings))
    try:
        await network.reconcile([])
        yield network
    finally:
        await network.close(remove=True)


def request(number: int = 1, mode: str = "bridge", **more: object) -> SandboxRequest:
    return SandboxRequest(container_id=f"{number:064x}"[::-1], mode=mode, name=f"c{number}", **more)


def publish(container_port: int, host_port: int = 0, protocol: str = "tcp", host_ip: str | None = None,
            end: int = 0) -> PortBinding:
    return PortBinding(container_port=container_port, protocol=protocol, host_ip=host_ip, host_port_start=host_port,
                       host_port_end=end)


def set_up(*names: str) -> None:
    """Set links up and wait until they are: the kernel tells of it up to a second later."""
    for name in names:
        run("ip", "link", "set", name, "up")
    deadline = time.monotonic() + PATIENCE
    while any("state UP" not in run("ip", "link", "show", name) for name in names):
        assert time.monotonic() < deadline, f"{names} do not come up"


def links() -> set[str]:
    return {link["ifname"] for link in json.loads(run("ip", "-j", "link"))}


def tables() -> set[str]:
    return {item["table"]["name"] for item in json.loads(run("nft", "-j", "list", "tables"))["nftables"]
            if "table" in item}


def elements(network: Network, name: str) -> list[object]:
    listed = json.loads(run("nft", "-j", "list", "map", "inet", network.settings.table, name))["nftables"]
    return next(item["map"].get("elem", []) for item in listed if "map" in item)


def spec(name: str, number: int = 1, **more: object) -> NetworkSpec:
    return NetworkSpec(**{"id": f"{number:02x}" * 32, "name": name, "driver": "bridge",
                          "created": "2026-01-01T00:00:00Z"} | more)


async def on(network: Network, number: int, *attachments: Attachment, **more: object) -> Sandbox:
    return await network.setup(request(number, "networks", attachments=attachments, **more))


def to(made: NetworkSpec, *names: str, **more: object) -> Attachment:
    return Attachment(network_id=made.id, names=names, **more)


def _pings(source: Sandbox, address: str, *waits: float) -> bool:
    """The second try is for a packet that was lost on the way."""
    assert source.netns_path is not None
    ping = ["nsenter", "--net=" + source.netns_path, "ping", "-c1"]
    return any(subprocess.run([*ping, f"-W{wait}", address], check=False, capture_output=True, timeout=60).returncode
               == 0 for wait in waits)


def reaches(source: Sandbox, address: str) -> bool:
    """Whether ping gets an answer, which may take its time on a busy machine."""
    return _pings(source, address, 1, PATIENCE)


def cut_off(source: Sandbox, address: str) -> bool:
    """Whether ping gets no answer in a time in which it should have one."""
    return not _pings(source, address, SILENCE, SILENCE)


class Outside:
    """Another machine, on the far end of a veth; with ``card`` on a macvlan there, which is no container's kind."""

    def __init__(self, number: int, *, card: bool = False) -> None:
        self._process = subprocess.Popen(["unshare", "-n", "sh", "-c", "echo ready; exec sleep 1000"],
                                         stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None and self._process.stdout.readline() == "ready\n"
        self.netns = f"/proc/{self._process.pid}/ns/net"
        self.host, self.address = f"198.51.{number}.1", f"198.51.{number}.2"
        self._link = f"up{number}"
        run("ip", "link", "add", self._link, "type", "veth", "peer", "name", "eth0", "netns", str(self._process.pid))
        for prefix, link, address in ([], self._link, self.host), \
                (["nsenter", "--net=" + self.netns], "eth0", self.address):
            run(*prefix, "ip", "link", "set", link, "up")
            if card:
                run(*prefix, "ip", "link", "add", "link", link, "name", link + ".5", "type", "macvlan")
                run(*prefix, "ip", "link", "set", link + ".5", "up")
                run(*prefix, "ip", "link", "set", link, "arp", "off")  # else it would answer for the macvlan's address
            run(*prefix, "ip", "addr", "add", address + "/24", "dev", link + (".5" if card else ""))

    def as_sandbox(self) -> Sandbox:
        return Sandbox(container_id="0" * 64, mode="none", netns_path=self.netns)

    def close(self) -> None:
        run("ip", "link", "del", self._link)
        self._process.kill()
        self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()
