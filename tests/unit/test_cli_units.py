"""Sizes, durations and times read and print as docker's do."""

from __future__ import annotations

import pytest

from barque.cli.format import units
from barque.oci import sizes

MINUTE, HOUR, DAY = 60, 3600, 86400


@pytest.mark.parametrize(("size", "text"), [
    (0, "0B"), (999, "999B"), (1000, "1kB"), (13256, "13.26kB"), (1_986_095, "1.986MB"), (5_000_000_000, "5GB")])
def test_human_size(size: int, text: str) -> None:
    assert units.human_size(size) == text


def test_size_precision_and_binary_units() -> None:
    assert units.human_size(1_984_172, 3) == "1.98MB"
    assert units.bytes_size(25276514304) == "23.54GiB"
    assert units.bytes_size(1536) == "1.5KiB"


@pytest.mark.parametrize(("text", "size"), [
    ("32", 32), ("32b", 32), ("32kb", 32 << 10), ("1.5g", 3 << 29), ("64MiB", 64 << 20), ("1 k", 1024), ("2T",
                                                                                                         2 << 40)])
def test_ram_in_bytes(text: str, size: int) -> None:
    assert sizes.ram_in_bytes(text) == size


@pytest.mark.parametrize(("text", "error"), [
    ("", "invalid size: ''"), ("-1", "invalid size: '-1'"), ("1x", "invalid suffix: 'x'"), ("k", "invalid size: 'k'")])
def test_bad_sizes(text: str, error: str) -> None:
    with pytest.raises(ValueError) as caught:
        sizes.ram_in_bytes(text)
    assert str(caught.value) == error


@pytest.mark.parametrize(("seconds", "text"), [
    (0.5, "Less than a second"), (1, "1 second"), (59, "59 seconds"), (MINUTE, "About a minute"), (119,
                                                                                                   "About a minute"),
    (2 * MINUTE, "2 minutes"), (HOUR, "About an hour"), (1.4 * HOUR, "About an hour"), (1.6 * HOUR, "2 hours"),
    (47 * HOUR, "47 hours"), (2 * DAY, "2 days"), (13 * DAY, "13 days"), (21 * DAY, "3 weeks"), (70 * DAY, "2 months"),
    (3 * 365 * DAY, "3 years")])
def test_human_duration(seconds: float, text: str) -> None:
    assert units.human_duration(seconds) == text


@pytest.mark.parametrize(("text", "nanoseconds"), [
    ("1h30m", 5400 * units.SECOND), ("-1.5s", -1_500_000_000), ("100ms", 100_000_000), ("0", 0), ("2us", 2000)])
def test_durations(text: str, nanoseconds: int) -> None:
    assert units.parse_duration(text) == nanoseconds


@pytest.mark.parametrize(("nanoseconds", "text"), [
    (0, "0s"), (90 * units.SECOND, "1m30s"), (1_500_000_000, "1.5s"), (3600 * units.SECOND, "1h0m0s"), (2_000_000,
                                                                                                        "2ms")])
def test_durations_print_as_go_prints_them(nanoseconds: int, text: str) -> None:
    assert units.format_duration(nanoseconds) == text


def test_times() -> None:
    assert units.parse_rfc3339("1970-01-02T00:00:01.5Z") == 86401.5
    assert units.parse_rfc3339("1970-01-01T01:00:00+01:00") == 0
    assert units.timestamp("1136073600") == "1136073600"
    assert units.timestamp("2006-01-02T15:04:05.000000002Z") == "1136214245.000000002"
    with pytest.raises(ValueError, match="failed to parse value as time or duration"):
        units.timestamp("yesterday")


def test_texts() -> None:
    assert units.ellipsis("sleep 1000 and more words", 10) == "sleep 100…"
    assert units.short_id("sha256:0123456789abcdef") == "0123456789ab"
