"""The json-file log: its bytes, its rotation, and what a full disk does."""

from __future__ import annotations

import gzip
import json
import os
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from barque.supervise.logfile import LONGEST_LINE, Clock, JsonFile, escape
from barque.supervise.messages import STDERR, STDOUT, LogConfig

LINE = re.compile(rb'\{"log":"(?P<log>(?:[^"\\]|\\.)*)","stream":"std(?:out|err)"(?:,"attrs":\{.*\})?,'
                  rb'"time":"(?P<time>\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d{0,8}[1-9])?Z)"\}\n')


def entries(path: Path) -> list[tuple[str, str]]:
    data = path.read_bytes()
    assert b"".join(match.group() for match in LINE.finditer(data)) == data
    return [(entry["stream"], entry["log"]) for entry in map(json.loads, data.splitlines())]


def opened(path: Path, **options: object) -> JsonFile:
    return JsonFile(LogConfig(str(path), **options))  # type: ignore[arg-type]


@pytest.mark.parametrize(("data", "escaped"), [
    (b"plain text", b"plain text"),
    (b'a "b" \\ c', b'a \\"b\\" \\\\ c'),
    (b"\\n", b"\\\\n"),
    (b"\ta\r\x1b[0m\x00\x7f", b"\\u0009a\\r\\u001b[0m\\u0000\x7f"),
    (b"<a href='x'>&amp;", b"\\u003ca href='x'\\u003e\\u0026amp;"),
    ("grüße 😀 \ufffd".encode(), "grüße 😀 \ufffd".encode()),
    ("\u2028\u2029".encode(), b"\\u2028\\u2029"),
    (b"\xff\xfe", b"\\ufffd\\ufffd"),
    (b"a\xe2\x80b", b"a\\ufffd\\ufffdb"),
    (b"\xed\xa0\x80", b"\\ufffd\\ufffd\\ufffd"),
    (b"\\\xff\\", b"\\\\\\ufffd\\\\"),
], ids=str)
def test_escapes_are_dockerds(data: bytes, escaped: bytes) -> None:
    assert escape(data) == escaped


@given(st.binary(max_size=300))
def test_escaped_text_is_json(data: bytes) -> None:
    decoded = json.loads(b'"' + escape(data).replace(b"\n", b"\\n") + b'"')
    one_per_byte = re.compile("[\udc80-\udcff]")
    assert decoded == one_per_byte.sub("\ufffd", data.decode("utf-8", "surrogateescape"))


def test_time_has_no_trailing_zeros(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    for nanos, text in ((0, "1970-01-01T00:00:01Z"), (120_000_000, "1970-01-01T00:00:01.12Z"),
                        (1, "1970-01-01T00:00:01.000000001Z")):
        monkeypatch.setattr("time.time_ns", lambda nanos=nanos: 1_000_000_000 + nanos)
        assert clock.now() == text


def test_lines_of_both_streams(tmp_path: Path) -> None:
    log = opened(tmp_path / "log")
    log.write(STDOUT, b"one\ntw")
    log.write(STDERR, b"err\n")
    log.write(STDOUT, b"o\n\nthree")
    assert entries(tmp_path / "log") == [("stdout", "one\n"), ("stderr", "err\n"), ("stdout", "two\n"),
                                         ("stdout", "\n")]
    log.close()
    assert entries(tmp_path / "log")[-1] == ("stdout", "three")
    assert (tmp_path / "log").stat().st_mode & 0o777 == 0o640


def test_attributes(tmp_path: Path) -> None:
    log = opened(tmp_path / "log", attrs={"tag": "a/b", "x": "1"})
    log.write(STDOUT, b"x\n")
    log.close()
    assert (tmp_path / "log").read_bytes().startswith(
        b'{"log":"x\\n","stream":"stdout","attrs":{"tag":"a/b","x":"1"},"time":"')


@pytest.mark.parametrize("length", [LONGEST_LINE - 1, LONGEST_LINE, LONGEST_LINE + 1, 3 * LONGEST_LINE + 5])
@pytest.mark.parametrize("piece", [1000, 65536], ids=["small reads", "large reads"])
def test_long_lines_are_cut_at_16_kib(tmp_path: Path, length: int, piece: int) -> None:
    data = b"first\n" + b"a" * length + b"\nlast\n"
    log = opened(tmp_path / "log")
    for start in range(0, len(data), piece):
        log.write(STDOUT, data[start:start + piece])
    log.close()
    texts = [text for _, text in entries(tmp_path / "log")]
    assert texts[0] == "first\n"
    assert texts[-1] == "last\n"
    whole, rest = divmod(length, LONGEST_LINE)
    assert [len(text) for text in texts[1:-1]] == [LONGEST_LINE] * whole + [rest + 1]
    times = {json.loads(line)["time"] for line in (tmp_path / "log").read_bytes().splitlines()[1:-1]}
    assert len(times) == 1


def numbers(path: Path) -> list[int]:
    data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    return [int(json.loads(line)["log"]) for line in data.splitlines()]


@pytest.mark.parametrize("piece", [10, 100_000], ids=["line by line", "at once"])
def test_rotation(tmp_path: Path, piece: int) -> None:
    log = opened(tmp_path / "log", max_size=1000, max_files=3)
    data = b"".join(b"%09d\n" % number for number in range(100))
    for start in range(0, len(data), piece):
        log.write(STDOUT, data[start:start + piece])
    log.close()
    files = [tmp_path / name for name in ("log.2", "log.1", "log")]
    kept = [number for file in files for number in numbers(file)]
    assert kept == list(range(kept[0], 100))
    assert sorted(os.listdir(tmp_path)) == ["log", "log.1", "log.2"]
    for file in files[:2]:
        lines = file.read_bytes().splitlines(keepends=True)
        assert 1000 <= file.stat().st_size < 1000 + len(lines[-1])


def test_single_file_starts_over(tmp_path: Path) -> None:
    log = opened(tmp_path / "log", max_size=200, max_files=1)
    for number in range(50):
        log.write(STDOUT, b"%d\n" % number)
    log.close()
    assert os.listdir(tmp_path) == ["log"]
    assert numbers(tmp_path / "log")[-1] == 49


def test_rotated_files_are_compressed(tmp_path: Path) -> None:
    wanted = []
    log = JsonFile(LogConfig(str(tmp_path / "log"), max_size=1000, max_files=3, compress=True),
                   lambda: wanted.append(True))
    for number in range(100):
        log.write(STDOUT, b"%09d\n" % number)
    assert wanted
    while log.work():
        pass
    log.close()
    files = [tmp_path / name for name in ("log.2.gz", "log.1.gz", "log")]
    assert sorted(os.listdir(tmp_path)) == ["log", "log.1.gz", "log.2.gz"]
    kept = [number for file in files for number in numbers(file)]
    assert kept == list(range(kept[0], 100))


def test_compression_that_was_left_is_taken_up(tmp_path: Path) -> None:
    config = LogConfig(str(tmp_path / "log"), max_size=50, max_files=2, compress=True)
    log = JsonFile(config)
    log.write(STDOUT, b"1\n2\n")
    log.abandon_work()
    log.close()
    assert sorted(os.listdir(tmp_path)) == ["log", "log.1"]
    log = JsonFile(config)
    while log.work():
        pass
    log.close()
    assert sorted(os.listdir(tmp_path)) == ["log", "log.1.gz"]


def test_torn_line_of_a_dead_writer_stays_alone(tmp_path: Path) -> None:
    (tmp_path / "log").write_bytes(b'{"log":"to')
    log = opened(tmp_path / "log")
    log.write(STDOUT, b"next\n")
    log.close()
    torn, line = (tmp_path / "log").read_bytes().splitlines()
    assert torn == b'{"log":"to'
    assert json.loads(line)["log"] == "next\n"


def test_full_disk_drops_and_counts(tmp_path: Path) -> None:
    log = JsonFile(LogConfig("/dev/full"))
    log.write(STDOUT, b"lost\n")
    assert log.dropped > len("lost\n")
    log.close()
