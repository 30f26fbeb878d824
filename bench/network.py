"""What is measured of networks: throughput and requests through published ports, and what a network costs `run`.

iperf3 runs beside the container, inside its network namespace: images for benchmarks have no room for it. Requests are
one connection each, as address translation has its price per connection.
"""

from __future__ import annotations

import http.client
import json
import statistics
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from bench.engines import Engine
from bench.scenarios import Images, Scenario

_SECONDS = 1
_CLIENTS = 4
_REQUESTS = 1500
_NETWORK, _GROWING = "bench-network", "bench-growing"


@dataclass(frozen=True)
class _Published:
    """A container that stays until the end, so that neither its start nor another's removal is in the figures.

    ``port`` is published on all addresses of the host; ``gateway`` is one of these."""

    pid: str
    gateway: str
    port: int


def _published(engine: Engine, image: str, port: int, *command: str) -> _Published:
    name = f"bench-published-{port}"
    if not engine.docker("ps", "-q", "-f", f"name={name}"):
        engine.docker("run", "-d", "--name", name, "-p", str(port), image, *command)
    pid, gateway, host_port = engine.docker(
        "inspect", "-f", "{{.State.Pid}} {{.NetworkSettings.Networks.bridge.Gateway}} "
        f'{{{{(index .NetworkSettings.Ports "{port}/tcp" 0).HostPort}}}}', name).split()
    return _Published(pid, gateway, int(host_port))


def _throughput(engine: Engine, images: Images, address: str, *options: str) -> float:
    """GB/s of one TCP connection from the host to a container; with ``-R`` the container sends."""
    target = _published(engine, images.small, 5201, "sleep", "100000")
    server = subprocess.Popen(["nsenter", "-n", "-t", target.pid, "iperf3", "-s", "-1", "--forceflush"], text=True,
                              stdout=subprocess.PIPE)
    try:
        assert server.stdout is not None
        for line in server.stdout:
            if "listening" in line:
                break
        done = subprocess.run(["iperf3", "-c", address or target.gateway, "-p", str(target.port), "-t", str(_SECONDS),
                               "-J", *options], check=True, capture_output=True, text=True)
        return float(json.loads(done.stdout)["end"]["sum_received"]["bits_per_second"]) / 8e9
    finally:
        server.kill()
        server.communicate()


def loopback_throughput(engine: Engine, images: Images) -> float:
    return _throughput(engine, images, "127.0.0.1")


def address_throughput(engine: Engine, images: Images) -> float:
    return _throughput(engine, images, "")


def answer_throughput(engine: Engine, images: Images) -> float:
    return _throughput(engine, images, "", "-R")


def _ask(address: str, port: int, count: int) -> None:
    for _ in range(count):
        connection = http.client.HTTPConnection(address, port, timeout=10)
        connection.request("GET", "/")
        assert connection.getresponse().read() == b"hello\n"
        connection.close()


def requests(engine: Engine, images: Images) -> float:
    """Requests per second through a published port, each on a connection of its own."""
    target = _published(engine, images.web, 80, "httpd", "-f", "-p", "80", "-h", "/www")
    while True:
        try:
            _ask(target.gateway, target.port, 1)
            break
        except OSError:
            time.sleep(0.005)
    began = time.perf_counter()
    with ThreadPoolExecutor(_CLIENTS) as pool:
        list(pool.map(lambda _: _ask(target.gateway, target.port, _REQUESTS // _CLIENTS), range(_CLIENTS)))
    return _REQUESTS / (time.perf_counter() - began)


def attach_cost(engine: Engine, images: Images) -> float:
    """Milliseconds that the default bridge adds to `run`: the least of each, in turn."""
    took: dict[str, list[float]] = {"bridge": [], "none": []}
    for _ in range(8):
        for network, figures in took.items():
            figures.append(engine.timed("run", "--rm", "--network", network, images.small, "true"))
    return max(0.1, (min(took["bridge"]) - min(took["none"])) * 1e3)


def growth(engine: Engine, images: Images) -> float:
    """How much longer the last 20 of 200 containers on one network take to start than the first 20."""
    engine.docker("network", "create", _GROWING)
    took = [engine.timed("run", "-d", "--network", _GROWING, images.small, "sleep", "100000") for _ in range(200)]
    engine.docker("rm", "-f", *engine.docker("ps", "-q", "-f", f"network={_GROWING}").split())
    _remove(engine, _GROWING)
    return statistics.median(took[-20:]) / statistics.median(took[:20])


def _remove(engine: Engine, network: str) -> None:
    """dockerd lets go of endpoints a little after their containers are gone."""
    deadline = time.monotonic() + 30
    while True:
        try:
            engine.docker("network", "rm", network)
            return
        except RuntimeError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)


def user_network(engine: Engine, images: Images) -> float:
    if not engine.docker("network", "ls", "-q", "-f", f"name={_NETWORK}"):
        engine.docker("network", "create", _NETWORK)
    return engine.timed("run", "--rm", "--network", _NETWORK, images.small, "true")


SCENARIOS = [
    Scenario("TCP by 127.0.0.1", "GB", 1.00, loopback_throughput, more_is_better=True, runs=6),
    Scenario("TCP by the host's address", "GB", 1.00, address_throughput, more_is_better=True, runs=20),
    Scenario("TCP by it from the container", "GB", 1.00, answer_throughput, more_is_better=True, runs=20),
    Scenario("HTTP by a published port", "/s", 1.00, requests, more_is_better=True, runs=8),
    Scenario("run: bridge minus none", "ms", 1.00, attach_cost, runs=2),
    Scenario("200 on a network: last/first 20", "x", 1.00, growth, runs=1),
    Scenario("run --rm, user-defined network", "s", 0.30, user_network, runs=6),
]
