"""Reading a json-file log back: tails over rotated files, spans of time, what the lines look like."""

from __future__ import annotations

import asyncio
import gzip
import io
from pathlib import Path

import pytest

from barque.engine import clock
from barque.engine.containers import logs
from barque.engine.containers.model import Container
from barque.engine.containers.options import ContainerConfig, HostConfig, LogConfig
from barque.engine.containers.registry import Live
from barque.engine.logging.formats import JSON_FILE
from barque.supervise.logfile import JsonFile
from barque.supervise.messages import STDOUT
from barque.supervise.messages import LogConfig as WriterConfig


def line(text: str, stream: str = "stdout", time: str = "2026-01-02T03:04:05.5Z", attrs: str = "") -> bytes:
    return f'{{"log":"{text}\\n","stream":"{stream}"{attrs},"time":"{time}"}}'.encode()


def render(lines: list[bytes], *, framed: bool = False, stdout: bool = True, stderr: bool = True,
           since: int | None = None,
           until: int | None = None, timestamps: bool = False, details: bool = False) -> bytes:
    query = logs.Query(stdout=stdout, stderr=stderr, since=since, until=until, timestamps=timestamps, details=details)
    return logs.Renderer(query, JSON_FILE.decode, framed=framed).render(lines)


def test_frames() -> None:
    assert render([line("a"), line("bc", "stderr")], framed=True) == (
        b"\x01\0\0\0\0\0\0\x02a\n" b"\x02\0\0\0\0\0\0\x03bc\n")
    assert render([line("a"), line("b", "stderr")], stderr=False) == b"a\n"


def test_stamps_and_details() -> None:
    assert render([line("a")], timestamps=True) == b"2026-01-02T03:04:05.500000000Z a\n"
    assert render([line("a", attrs=',"attrs":{"z":"1 2","b":"="}')], details=True) == b"b=%3D,z=1+2 a\n"


def test_a_line_that_a_crash_cut_off_is_skipped() -> None:
    assert render([line("a"), b'{"log":"b', line("c")]) == b"a\nc\n"


def test_a_span_of_time() -> None:
    lines = [line(str(second), time=f"2026-01-01T00:00:0{second}Z") for second in range(5)]
    start = clock.parse("2026-01-01T00:00:00Z")
    query = logs.Query(stdout=True, stderr=True, since=start + 10**9, until=start + 3 * 10**9)
    renderer = logs.Renderer(query, JSON_FILE.decode, framed=False)
    assert renderer.render(lines) == b"1\n2\n3\n"
    assert renderer.done


@pytest.mark.parametrize(("text", "wanted", "rest", "count"), [
    (b"a\nb\nc\n", 2, b"b\nc\n", 2), (b"a\nb\nc\n", 3, b"a\nb\nc\n", 3), (b"a\nb\n", 9, b"a\nb\n", 2), (b"", 3, b"", 0),
    (b"a\nb\n", 0, b"", 0), (b"x" * 100_000 + b"\ny\n", 1, b"y\n", 1), (b"\n\n\n", 2, b"\n\n", 2)])
def test_tails(text: bytes, wanted: int, rest: bytes, count: int) -> None:
    file = io.BytesIO(text)
    offset, found = JSON_FILE.tail_offset(file, wanted)
    assert (text[offset:], found) == (rest, count)


def test_rotated_files_are_read_oldest_first(tmp_path: Path) -> None:
    path = tmp_path / "x.log"
    path.write_bytes(b"5\n")
    (tmp_path / "x.log.1").write_bytes(b"3\n4\n")
    (tmp_path / "x.log.2.gz").write_bytes(gzip.compress(b"1\n2\n"))
    (tmp_path / "x.log.tmp").write_bytes(b"no")
    assert logs.files(str(path)) == [f"{path}.2.gz", f"{path}.1", str(path)]
    assert logs.files(str(tmp_path / "none" / "x")) == []


def container(path: Path, end: asyncio.Event) -> Live:
    """One that runs until ``end``, with its log at ``path``."""
    live = Live(Container(id="x", name="x", created="", image="", image_id="", chain_id=None, path="", args=[],
                          endpoints={}, mounts=[], log_path=str(path), config=ContainerConfig(tty=True),
                          host_config=HostConfig(log_config=LogConfig(type="json-file"))))
    live.tasks["exit"] = asyncio.ensure_future(end.wait())  # type: ignore[assignment]
    return live


async def test_followed_over_the_moment_of_a_rotation_without_a_file(tmp_path: Path) -> None:
    path = tmp_path / "x-json.log"
    end = asyncio.Event()
    live = container(path, end)
    pieces = logs.stream(live, logs.Query(stdout=True, stderr=True, follow=True))
    first = asyncio.ensure_future(anext(pieces))
    await asyncio.sleep(0)    # it has looked, and waits
    (tmp_path / "new").write_bytes(line("a") + b"\n")
    (tmp_path / "new").rename(path)
    assert await asyncio.wait_for(first, 30) == b"a\n"
    end.set()
    assert [piece async for piece in pieces] == []


@pytest.mark.parametrize("compress", [False, True], ids=["plain", "compressed"])
@pytest.mark.parametrize("kept", [9, 3], ids=["all are there", "the one in hand is not"])
async def test_followed_over_several_rotations_at_once(tmp_path: Path, compress: bool, kept: int) -> None:
    """Between two looks of the reader the writer may begin one file after the other."""
    path = tmp_path / "x-json.log"
    writer = JsonFile(WriterConfig(str(path), max_size=200, max_files=kept, compress=compress))
    end = asyncio.Event()
    writer.write(STDOUT, b"0\n")
    pieces = logs.stream(container(path, end), logs.Query(stdout=True, stderr=True, follow=True))
    assert await anext(pieces) == b"0\n"
    for number in range(1, 20):
        writer.write(STDOUT, b"%d\n" % number)
    while writer.work():
        pass
    end.set()
    told = [int(text) for piece in [piece async for piece in pieces] for text in piece.split()]
    writer.close()
    assert told == [1, 2, *range(told[2], 20)]  # 2 ends the file in hand
    assert told[2] == 3 if kept == 9 else 3 < told[2] < 19
