"""What is measured. A scenario runs on one engine and returns one figure; the harness alternates between engines."""

from __future__ import annotations

import subprocess
import time
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from bench import images
from bench.engines import Engine

#: Bytes that a container writes where its log is measured.
OUTPUT = 200_000_000


class Images:
    """References of what is measured with; each image is made and pushed when it is first asked for."""

    def __init__(self, registry: str, work: Path) -> None:
        self._registry = registry
        self._work = work

    @cached_property
    def small(self) -> str:
        return images.push(self._registry, "small", [images.busybox_layer()], self._work)

    @property
    def web(self) -> str:
        return self.small

    @cached_property
    def big(self) -> str:
        layers = [images.host_layer(["/usr/lib/x86_64-linux-gnu", "/usr/lib"], 60 << 20),
                  images.host_layer(["/usr/bin", "/usr/sbin"], 40 << 20), images.host_layer(["/usr/share"], 20 << 20)]
        return images.push(self._registry, "big", layers, self._work)

    @cached_property
    def many(self) -> str:
        return images.push(self._registry, "many", [images.small_files_layer(20_000)], self._work)


@dataclass(frozen=True)
class Scenario:
    """``goal`` is the ratio barque/dockerd to reach; for rates (``more_is_better``) the ratio is turned round."""

    name: str
    unit: str
    goal: float
    measure: Callable[[Engine, Images], float]
    more_is_better: bool = False
    runs: int = 10


def run_bridge(engine: Engine, images: Images) -> float:
    return engine.timed("run", "--rm", images.small, "true")


def run_none(engine: Engine, images: Images) -> float:
    return engine.timed("run", "--rm", "--network", "none", images.small, "true")


def exec_true(engine: Engine, images: Images) -> float:
    name = "bench-exec"
    if not engine.docker("ps", "-q", "-f", f"name={name}"):
        engine.docker("run", "-d", "--name", name, images.small, "sleep", "100000")
    return engine.timed("exec", name, "true")


def first_response(engine: Engine, images: Images) -> float:
    """From `run -d -p` until the first HTTP 200 through the published port."""
    began = time.perf_counter()
    ident = engine.docker("run", "-d", "-p", "127.0.0.1:18080:80", images.web, "httpd", "-f", "-p", "80", "-h", "/www")
    while True:
        try:
            with urllib.request.urlopen("http://127.0.0.1:18080/", timeout=5) as answer:
                assert answer.status == 200
                break
        except OSError:
            if time.perf_counter() - began > 30:
                raise
            time.sleep(0.001)
    took = time.perf_counter() - began
    engine.docker("rm", "-f", ident)
    return took


def _cold_pull(engine: Engine, reference: str) -> float:
    engine.docker("rmi", "-f", reference, check=False)
    return engine.timed("pull", "-q", reference)


def cold_pull(engine: Engine, images: Images) -> float:
    return _cold_pull(engine, images.big)


def cold_pull_many_files(engine: Engine, images: Images) -> float:
    return _cold_pull(engine, images.many)


def fifty_by_eight(engine: Engine, images: Images) -> float:
    """Containers started per second, 50 of them by 8 clients at once."""
    began = time.perf_counter()
    with ThreadPoolExecutor(8) as pool:
        ids = list(pool.map(lambda _: engine.docker("run", "-d", images.small, "sleep", "100000"), range(50)))
    rate = len(ids) / (time.perf_counter() - began)
    engine.docker("rm", "-f", *ids)
    return rate


def write_output(engine: Engine, images: Images) -> float:
    """A container that writes 200 MB of lines; its log is kept whole, as dockerd does it."""
    engine.docker("rm", "-f", "bench-out", check=False)
    script = f"yes {'x' * 79} | head -c {OUTPUT}"
    began = time.perf_counter()
    engine.docker("run", "-d", "--name", "bench-out", "--log-opt", "max-size=1g", images.small, "sh", "-c", script)
    engine.docker("wait", "bench-out")
    return time.perf_counter() - began


def read_log(engine: Engine, images: Images) -> float:
    """`docker logs` of what the scenario above has left, or leaves now."""
    if not engine.docker("ps", "-aq", "-f", "name=bench-out"):
        write_output(engine, images)
    began = time.perf_counter()
    with subprocess.Popen(["docker", "logs", "bench-out"], env=engine.env, stdout=subprocess.PIPE) as logs:
        assert logs.stdout is not None
        size = 0
        while data := logs.stdout.read(1 << 20):
            size += len(data)
    assert size == OUTPUT, f"{engine.name} lost output: {size}"
    return time.perf_counter() - began


def idle_memory(engine: Engine, images: Images) -> float:
    """All processes of a freshly started engine, in MB."""
    engine.remove_all()
    engine.stop()
    engine.start()
    return engine.pss() / 1e6


def memory_per_container(engine: Engine, images: Images) -> float:
    """What the engine's processes grow by per container that just runs, in MB."""
    before, count = _settled_pss(engine), 20
    ids = [engine.docker("run", "-d", "--network", "none", images.small, "sleep", "100000") for _ in range(count)]
    grown = _settled_pss(engine) - before
    engine.docker("rm", "-f", *ids)
    return grown / count / 1e6


def _settled_pss(engine: Engine) -> int:
    """As soon as three seconds have changed nothing worth mentioning; but after half a minute whatever it is."""
    last = [engine.pss()]
    while len(last) < 30 and (len(last) < 4 or abs(last[-1] - last[-4]) > 200_000):
        time.sleep(1)
        last.append(engine.pss())
    return last[-1]


SCENARIOS = [
    Scenario("run --rm true, bridge", "s", 0.30, run_bridge),
    Scenario("run --rm true, network none", "s", 0.30, run_none),
    Scenario("exec true", "s", 0.50, exec_true),
    Scenario("run -d -p until HTTP 200", "s", 0.30, first_response),
    Scenario("cold pull, 3 layers, 120 MB", "s", 0.60, cold_pull, runs=4),
    Scenario("cold pull, 20k small files", "s", 0.60, cold_pull_many_files, runs=3),
    Scenario("50 containers by 8 clients", "/s", 1.00, fifty_by_eight, more_is_better=True, runs=2),
    Scenario("200 MB to stdout", "s", 1.00, write_output, runs=2),
    Scenario("logs, 200 MB", "s", 1.00, read_log, runs=2),
    Scenario("memory per container (PSS)", "MB", 0.50, memory_per_container, runs=1),
    Scenario("idle memory, fresh (PSS)", "MB", 1.00, idle_memory, runs=1),
]
