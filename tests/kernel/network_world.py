"""What tests of the network share: an engine's network, containers' namespaces, small servers and clients in them."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from barque.network.model import NetworkSettings, PortBinding, Sandbox, SandboxRequest
from barque.network.stack import Network

SERVER = """
import socket, sys
kind, port, family = sys.argv[1], int(sys.argv[2]), socket.AF_INET
s = socket.socket(family, socket.SOCK_STREAM if kind == "tcp" else socket.SOCK_DGRAM)
s.bind(("0.0.0.0", port))
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
s.connect((host, port))
s.send(b"hello")
if kind == "tcp": s.shutdown(socket.SHUT_WR)
print(s.recv(65536).decode())
"""


def run(*command: str) -> str:
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        print(done.stderr, end="")
    done.check_returncode()
    return done.stdout


def inside(sandbox: Sandbox, *command: str) -> str:
    assert sandbox.netns_path is not None
    return run("nsenter", "--net=" + sandbox.netns_path, *command)


def ask(kind: str, host: str, port: int, *, within: Sandbox | None = None, timeout: float = 5) -> str:
    """Send hello, return the answer: "hello from <the address that the server saw>"."""
    command = [sys.executable, "-I", "-S", "-c", CLIENT, kind, host, str(port), str(timeout)]
    return (run(*command) if within is None else inside(within, *command)).strip()


class Servers:
    def __init__(self) -> None:
        self._running: list[subprocess.Popen[str]] = []

    def start(self, sandbox: Sandbox | None, kind: str, port: int) -> None:
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


def links() -> set[str]:
    return {link["ifname"] for link in json.loads(run("ip", "-j", "link"))}


def tables() -> set[str]:
    return {item["table"]["name"] for item in json.loads(run("nft", "-j", "list", "tables"))["nftables"]
            if "table" in item}


def elements(network: Network, name: str) -> list[object]:
    listed = json.loads(run("nft", "-j", "list", "map", "inet", network.settings.table, name))["nftables"]
    return next(item["map"].get("elem", []) for item in listed if "map" in item)
