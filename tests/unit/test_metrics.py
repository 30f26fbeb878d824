"""Metrics in Prometheus' text format: what a scraper reads adds up."""

from __future__ import annotations

import re

import pytest

from barque.engine.metrics import BOUNDS, Metrics, process_lines, series_lines

LINE = re.compile(r'[a-z_]+(?:\{[a-z_]+="[^"]*"(?:,[a-z_]+="[^"]*")*\})? [0-9.e+-]+')


def values(lines: list[str]) -> dict[str, float]:
    samples = [line for line in lines if not line.startswith("#")]
    assert all(LINE.fullmatch(line) for line in samples), samples
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in samples)}


def test_spans() -> None:
    metrics = Metrics()
    with metrics.timed("container", "start"):
        pass
    with pytest.raises(ZeroDivisionError), metrics.timed("container", "start"):
        _ = 1 / 0
    metrics.count("health_checks", 3)
    found = values(metrics.lines())
    name = "engine_daemon_container_actions_seconds"
    assert found[f'{name}_count{{action="start"}}'] == 1
    assert [found[f'{name}_bucket{{action="start",le="{bound}"}}'] for bound in (*BOUNDS, "+Inf")] == [1] * 12
    assert found[f'{name}_count{{action="commit"}}'] == 0
    assert found["engine_daemon_health_checks_total"] == 3


def test_each_series_says_what_it_is() -> None:
    lines = [*Metrics().lines(), *process_lines(), *series_lines("x_total", "Text", "counter", {'a="b"': 1})]
    told = {line.split()[2] for line in lines if line.startswith("# TYPE")}
    for name in values(lines):
        bare = name.partition("{")[0]
        assert bare in told or re.sub("_(bucket|sum|count)$", "", bare) in told


def test_the_own_process() -> None:
    found = values(process_lines())
    assert found["process_open_fds"] > 2
    assert 10 << 20 < found["process_resident_memory_bytes"] < found["process_virtual_memory_bytes"]
    assert found["process_start_time_seconds"] > 1e9
