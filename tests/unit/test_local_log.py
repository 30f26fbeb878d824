"""The local driver's files: dockerd's records, their rotation, and what a crash or a full disk leaves."""

from __future__ import annotations

import gzip
import io
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from barque.engine.logging.formats import LOCAL, Entry
from barque.protobuf import varint
from barque.supervise.entries import LONGEST_LINE, Cutter
from barque.supervise.local_log import LocalFile, record
from barque.supervise.messages import STDERR, STDOUT, LogConfig

#: Written by dockerd 20.10.
FROM_DOCKERD = bytes.fromhex("000000190a067374646f757410fdc096e3d7a0bdf5181a0568656c6c6f00000019")


def opened(path: Path, **options: object) -> LocalFile:
    return LocalFile(LogConfig(str(path), format="local", **options))  # type: ignore[arg-type]


def entries(data: bytes) -> list[Entry]:
    records, rest = LOCAL.split(data)
    assert rest == b""
    return [LOCAL.decode(item) for item in records]


def test_records_are_dockerds() -> None:
    assert record(STDOUT, Cutter().feed(b"hello\n", 1795516805371240573)[0]) == FROM_DOCKERD
    (entry,) = entries(FROM_DOCKERD)
    assert (entry.stream, entry.data, entry.stamp) == ("stdout", b"hello\n", "2026-11-24T10:40:05.371240573Z")


def test_what_was_written_is_read(tmp_path: Path) -> None:
    log = opened(tmp_path / "log", attrs={"tag": "t", "a": ""})
    log.write(STDOUT, b"one\n\ntw")
    log.write(STDERR, b"\xff\n")
    log.write(STDOUT, b"o\nrest")
    log.close()
    read = entries((tmp_path / "log").read_bytes())
    assert [(entry.stream, entry.data) for entry in read] == [
        ("stdout", b"one\n"), ("stdout", b"\n"), ("stderr", b"\xff\n"), ("stdout", b"two\n"), ("stdout", b"rest")]
    assert [entry.attrs for entry in read] == [{"a": "", "tag": "t"}] * 5
    assert len(read[0].stamp) == len("2006-01-02T15:04:05.000000000Z")
    assert (tmp_path / "log").stat().st_mode & 0o777 == 0o640


@given(st.lists(st.tuples(st.sampled_from([STDOUT, STDERR]), st.sampled_from([1, 100, LONGEST_LINE]),
                          st.binary(min_size=1, max_size=8)), max_size=8))
def test_a_batch_is_the_records_of_its_lines(tmp_path_factory: pytest.TempPathFactory,
                                             parts: list[tuple[int, int, bytes]]) -> None:
    path = tmp_path_factory.mktemp("log") / "log"
    log = opened(path, attrs={"k": "v"})
    written = {STDOUT: b"", STDERR: b""}
    for stream, times, data in parts:
        log.write(stream, data * times)
        written[stream] += data * times
    log.close()
    read = entries(path.read_bytes())
    for name, stream in (("stdout", STDOUT), ("stderr", STDERR)):
        assert b"".join(entry.data for entry in read if entry.stream == name) == written[stream]
    assert all(len(entry.data) <= LONGEST_LINE and entry.attrs == {"k": "v"} for entry in read)


def test_long_lines_are_cut_as_dockerd_cuts_them() -> None:
    pieces = Cutter().feed(b"x" * (2 * LONGEST_LINE) + b"\nnext\n", 5)
    assert [len(piece.line) for piece in pieces] == [LONGEST_LINE, LONGEST_LINE, 0, 4]
    partials = [piece.partial for piece in pieces[:3]]
    assert [(partial.ordinal, partial.last) for partial in partials if partial] == [(1, False), (2, False), (3, True)]
    assert len({partial.id for partial in partials if partial}) == 1
    assert pieces[3].partial is None


def test_pieces_of_a_line_have_the_time_of_its_beginning() -> None:
    cutter = Cutter()
    first = cutter.feed(b"x" * LONGEST_LINE, 1)
    last = cutter.feed(b"y\nz\n", 2)
    assert [entry.time for entry in first + last] == [1, 1, 2]


def test_rotation_keeps_whole_records(tmp_path: Path) -> None:
    log = opened(tmp_path / "log", max_size=200, max_files=3, compress=True)
    for number in range(40):
        log.write(STDOUT, b"line %d\nand another\n" % number)
    log.close()
    while log.work():
        pass
    assert sorted(item.name for item in tmp_path.iterdir()) == ["log", "log.1.gz", "log.2.gz"]
    whole = gzip.decompress((tmp_path / "log.2.gz").read_bytes()) \
        + gzip.decompress((tmp_path / "log.1.gz").read_bytes()) + (tmp_path / "log").read_bytes()
    assert entries(whole)[-2].data == b"line 39\n"


@pytest.mark.parametrize("torn", [1, 3, 5, 20])
def test_a_record_that_was_cut_off_is_removed(tmp_path: Path, torn: int) -> None:
    path = tmp_path / "log"
    log = opened(path)
    log.write(STDOUT, b"one\ntwo\nthree\n")
    log.close()
    path.write_bytes(path.read_bytes()[:-torn])
    log = opened(path)
    log.write(STDOUT, b"four\n")
    log.close()
    assert [entry.data for entry in entries(path.read_bytes())] == [b"one\n", b"two\n", b"four\n"]


def test_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = opened(tmp_path / "log")
    log.write(STDOUT, b"one\n")
    write = os.write
    monkeypatch.setattr("os.write", lambda fd, data: write(fd, data[:40]))
    log.write(STDOUT, b"two\nthree\n")
    monkeypatch.undo()
    log.write(STDOUT, b"four\n")
    log.close()
    assert [entry.data for entry in entries((tmp_path / "log").read_bytes())] == [b"one\n", b"two\n", b"four\n"]
    assert log.dropped > 0


def test_tail(tmp_path: Path) -> None:
    data = b"".join(record(STDOUT, entry) for entry in Cutter().feed(b"one\ntwo\nthree\n", 10**18))
    for wanted, lines in ((0, []), (2, [b"two\n", b"three\n"]), (9, [b"one\n", b"two\n", b"three\n"])):
        offset, count = LOCAL.tail_offset(io.BytesIO(data), wanted)
        assert [entry.data for entry in entries(data[offset:])] == lines
        assert count == len(lines)


@given(st.binary(max_size=200))
def test_garbage_is_no_record(data: bytes) -> None:
    try:
        LOCAL.decode(data)
    except ValueError:
        pass


@pytest.mark.parametrize(("number", "encoded"), [(0, "00"), (127, "7f"), (128, "8001"), (300, "ac02")])
def test_varint(number: int, encoded: str) -> None:
    assert varint(number).hex() == encoded
