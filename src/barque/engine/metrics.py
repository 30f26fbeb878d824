"""What Prometheus reads of the engine: dockerd's series by their names, in the text format, version 0.0.4."""

from __future__ import annotations

import bisect
import os
import platform
import resource
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from barque.engine.host import Host

#: Upper bounds of the histograms (seconds).
BOUNDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
#: Histogram -> what it is about, and the actions that it tells apart; these are there from the beginning.
_SPANS = {
    "container": ("engine_daemon_container_actions_seconds",
                  "The number of seconds it takes to process each container action",
                  ("changes", "commit", "create", "delete", "start")),
    "network": ("engine_daemon_network_actions_seconds",
                "The number of seconds it takes to process each network action", ("allocate", "release")),
}
_COUNTERS = {
    "health_checks": ("engine_daemon_health_checks_total", "The total number of health checks"),
    "health_checks_failed": ("engine_daemon_health_checks_failed_total", "The total number of failed health checks"),
    "log_bytes_lost": ("barque_log_lost_bytes_total", "Bytes of output that containers' logs had no room for"),
}


class Metrics:
    """Counts since the start of the daemon."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._buckets = {(kind, action): [0] * (len(BOUNDS) + 1)
                         for kind, (_, _, actions) in _SPANS.items() for action in actions}
        self._seconds = dict.fromkeys(self._buckets, 0.0)

    def count(self, name: str, amount: int = 1) -> None:
        """``name`` is one of the counters above."""
        self._counts[name] += amount

    @contextmanager
    def timed(self, kind: str, action: str) -> Iterator[None]:
        """Take the time of the block, unless it fails."""
        began = time.perf_counter()
        yield
        seconds = time.perf_counter() - began
        self._buckets[kind, action][bisect.bisect_left(BOUNDS, seconds)] += 1
        self._seconds[kind, action] += seconds

    def lines(self) -> list[str]:
        lines: list[str] = []
        for name, (series, text) in _COUNTERS.items():
            lines += series_lines(series, text, "counter", {"": self._counts[name]})
        for kind, (series, text, actions) in _SPANS.items():
            lines += [f"# HELP {series} {text}", f"# TYPE {series} histogram"]
            for action in actions:
                total = 0
                for bound, count in zip((*map(str, BOUNDS), "+Inf"), self._buckets[kind, action], strict=True):
                    total += count
                    lines.append(f'{series}_bucket{{action="{action}",le="{bound}"}} {total}')
                lines += [f'{series}_sum{{action="{action}"}} {self._seconds[kind, action]:.9g}',
                          f'{series}_count{{action="{action}"}} {total}']
        return lines


def series_lines(name: str, text: str, kind: str, values: Mapping[str, float]) -> list[str]:
    """``values`` by their labels (``state="running"``), empty for none."""
    return [f"# HELP {name} {text}", f"# TYPE {name} {kind}",
            *(f"{name}{{{labels}}} {value}" if labels else f"{name} {value}" for labels, value in values.items())]


def host_lines(host: Host, engine_id: str, version: str) -> list[str]:
    labels = {"architecture": platform.machine(), "daemon_id": engine_id, "graphdriver": "overlay2",
              "kernel": host.kernel, "os": host.operating_system, "os_type": "linux", "version": version}
    text = ",".join(f'{key}="{_escaped(value)}"' for key, value in labels.items())
    return [
        *series_lines("engine_daemon_engine_info", "The information related to the engine and the OS it is running on",
                      "gauge", {text: 1}),
        *series_lines("engine_daemon_engine_cpus_cpus",
                      "The number of cpus that the host system of the engine has", "gauge", {"": host.cpus}),
        *series_lines("engine_daemon_engine_memory_bytes",
                      "The number of bytes of memory that the host system of the engine has", "gauge",
                      {"": host.memory})]


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


def process_lines() -> list[str]:
    """The daemon's own process, under the names that all exporters use."""
    with open("/proc/self/stat", encoding="ascii") as file:
        fields = file.read().rpartition(")")[2].split()    # from the third on
    ticks, page = os.sysconf("SC_CLK_TCK"), os.sysconf("SC_PAGE_SIZE")
    with open("/proc/stat", encoding="ascii") as file:
        boot = next(int(line.split()[1]) for line in file if line.startswith("btime "))
    return [line for name, text, kind, value in (
        ("cpu_seconds_total", "Total user and system CPU time spent in seconds.", "counter",
         (int(fields[11]) + int(fields[12])) / ticks),
        ("max_fds", "Maximum number of open file descriptors.", "gauge",
         resource.getrlimit(resource.RLIMIT_NOFILE)[0]),
        ("open_fds", "Number of open file descriptors.", "gauge", len(os.listdir("/proc/self/fd"))),
        ("resident_memory_bytes", "Resident memory size in bytes.", "gauge", int(fields[21]) * page),
        ("start_time_seconds", "Start time of the process since unix epoch in seconds.", "gauge",
         boot + int(fields[19]) / ticks),
        ("virtual_memory_bytes", "Virtual memory size in bytes.", "gauge", int(fields[20])),
    ) for line in series_lines(f"process_{name}", text, kind, {"": value})]
