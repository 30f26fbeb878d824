"""Small values of the API: filters, times, signals, names, ports, durations, detach keys."""

from __future__ import annotations

import signal

import pytest

from barque.api.relay import DEFAULT_DETACH_KEYS, Escape, parse_detach_keys
from barque.engine import clock, filters, names
from barque.engine.containers import publish
from barque.engine.containers.listing import shlex_join
from barque.engine.containers.options import ContainerConfig, HostConfig, PortBinding
from barque.engine.signals import InvalidSignal, UnsupportedSignal, parse_signal
from barque.errors import InvalidArgument
from barque.oci.durations import human_duration


def test_filters_in_both_forms() -> None:
    assert filters.parse('{"label":["a=b","c"]}') == {"label": ["a=b", "c"]}
    assert filters.parse('{"label":{"a=b":true,"c":false}}') == {"label": ["a=b"]}
    assert filters.parse("") == {}


@pytest.mark.parametrize("text", ["{", "[]", '{"a": 1}', '{"a": [1]}'])
def test_malformed_filters(text: str) -> None:
    with pytest.raises(InvalidArgument, match="invalid filter"):
        filters.parse(text)


def test_unknown_filters() -> None:
    with pytest.raises(filters.InvalidFilter, match="invalid filter 'x'"):
        filters.parse('{"x":["1"]}', {"label"})


def test_times_round_trip() -> None:
    text = "2026-01-02T03:04:05.000000678Z"
    assert clock.render(clock.parse(text)) == text
    assert clock.parse(clock.ZERO) == 0
    assert clock.parse("2026-01-02T05:04:05.000000678+02:00") == clock.parse(text)
    assert clock.parse("2026-01-02T03:04:05.5Z") % 10**9 == 500_000_000


@pytest.mark.parametrize(("text", "moment"), [
    ("10", 10 * 10**9), ("10.5", 10_500_000_000), ("1h30m", 10**18 - 5400 * 10**9), ("5s", 10**18 - 5 * 10**9),
    ("1970-01-01", 0), ("1970-01-01T00:00:01", 10**9), ("soon", None), ("", None)])
def test_moments(text: str, moment: int | None) -> None:
    assert clock.parse_moment(text, 10**18) == moment


@pytest.mark.parametrize(("text", "number"), [("KILL", 9), ("sigterm", 15), ("9", 9), ("RTMIN+3", signal.SIGRTMIN + 3),
                                              ("SIGRTMAX", signal.SIGRTMAX)])
def test_signals(text: str, number: int) -> None:
    assert parse_signal(text) == number


@pytest.mark.parametrize("text", ["", "0", "SIGFOO", "-9", "٩", "_IGN", "RTMAX+1"])
def test_bad_signals(text: str) -> None:
    with pytest.raises(InvalidSignal):
        parse_signal(text)


def test_signals_that_linux_has_not() -> None:
    with pytest.raises(UnsupportedSignal, match="the linux daemon does not support signal 99"):
        parse_signal("99")


def test_names() -> None:
    assert len(names.new_id()) == 64
    assert names.valid("a.b-c_d")
    assert not any(names.valid(name) for name in ("a", "-ab", "a/b", "ab\n", ""))
    assert all(names.valid(names.candidate(retry)) for retry in (0, 6))


def test_publications() -> None:
    config = ContainerConfig(exposed_ports={"80/tcp": {}, "53/udp": {}})
    host = HostConfig(port_bindings={"80": [PortBinding(host_port="8000-8010", host_ip="127.0.0.1")]},
                      publish_all_ports=True)
    first, second = publish.publications(config, host)
    assert (first.container_port, first.host_port_start, first.host_port_end, first.host_ip) == (80, 8000, 8010,
                                                                                                 "127.0.0.1")
    assert (second.container_port, second.protocol, second.host_port_start) == (53, "udp", 0)


@pytest.mark.parametrize("binding", [PortBinding(host_port="x"), PortBinding(host_port="70000"),
                                     PortBinding(host_port="9-8"), PortBinding(host_ip="nowhere")])
def test_bad_ports(binding: PortBinding) -> None:
    with pytest.raises(InvalidArgument):
        publish.publications(ContainerConfig(), HostConfig(port_bindings={"80/tcp": [binding]}))


@pytest.mark.parametrize(("seconds", "text"), [
    (0.2, "Less than a second"), (1, "1 second"), (59, "59 seconds"), (60, "About a minute"), (150, "2 minutes"),
    (3600, "About an hour"), (5400, "2 hours"), (86400 * 3, "3 days"), (86400 * 15, "2 weeks"), (86400 * 100,
                                                                                                 "3 months"),
    (86400 * 800, "2 years")])
def test_durations(seconds: float, text: str) -> None:
    assert human_duration(seconds) == text


def test_commands_are_shown_as_typed() -> None:
    assert shlex_join(["sh", "-c", "echo a b"]) == "sh -c 'echo a b'"


def test_detach_keys() -> None:
    keys = parse_detach_keys(DEFAULT_DETACH_KEYS)
    assert keys == b"\x10\x11"
    assert parse_detach_keys("a,ctrl-@,ctrl-z") == b"a\x00\x1a"
    with pytest.raises(InvalidArgument, match="Invalid detach keys"):
        parse_detach_keys("ctrl-1")
    escape = Escape(keys)
    assert escape.feed(b"ab") == (b"ab", False)
    assert escape.feed(b"c\x10") == (b"c", False)
    assert escape.feed(b"\x10x") == (b"\x10\x10x", False)
    assert escape.feed(b"\x10") == (b"", False)
    assert escape.feed(b"\x11rest") == (b"", True)
