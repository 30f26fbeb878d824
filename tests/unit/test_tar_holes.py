"""Files with holes in archives: what is written is small, and GNU tar and Python make the same files of it."""

from __future__ import annotations

import io
import os
import subprocess
import tarfile
from pathlib import Path

import pytest

from barque.store.data import segments
from barque.store.tar.diff import write_tree
from barque.store.tar.writer import Writer

GIB = 1 << 30
LONG = "d" * 90 + "/" + "n" * 120


@pytest.fixture
def archive(tmp_path: Path) -> bytes:
    """Holes at the beginning, in the middle, at the end, everywhere and nowhere."""
    source = tmp_path / "source"
    (source / LONG).parent.mkdir(parents=True)
    for name, size, places in (("all", 10 * GIB, ()), ("end", 9 * GIB, (0, 70_000)), ("begin", GIB + 5, (GIB,)),
                               (LONG, 5 << 20, (1 << 20, 3 << 20)), ("full", 70_000, range(0, 70_000, 4096))):
        with open(source / name, "wb") as file:
            for place in places:
                file.seek(place)
                file.write(b"data!")
            file.truncate(size)
    fd = os.open(source, os.O_RDONLY)
    out: list[bytes] = []
    writer = Writer(out.append, sparse=True)
    write_tree(writer, fd, b".")
    writer.close()
    os.close(fd)
    return b"".join(out)


def test_holes_take_no_room_and_come_back(archive: bytes, tmp_path: Path) -> None:
    assert len(archive) < 1 << 20
    there = tmp_path / "there"
    there.mkdir()
    subprocess.run(["tar", "-xf", "-", "-C", there], input=archive, check=True)
    for path in (tmp_path / "source").rglob("*"):
        if path.is_file():
            copy = there / path.relative_to(tmp_path / "source")
            assert copy.stat().st_size == path.stat().st_size
            assert pieces(copy) == pieces(path)


def pieces(path: Path) -> list[tuple[int, bytes]]:
    """Where something other than zeros is."""
    with open(path, "rb") as file:
        found = list(segments(file.fileno(), path.stat().st_size))
        blocks = [(begin + part, os.pread(file.fileno(), min(4096, length - part), begin + part))
                  for begin, length in found for part in range(0, length, 4096)]
    assert sum(len(block) for _, block in blocks) < 1 << 20
    return [(place, block) for place, block in blocks if block.strip(b"\0")]


def test_python_reads_them(archive: bytes) -> None:
    with tarfile.open(fileobj=io.BytesIO(archive)) as reader:
        sizes = {member.name: member.size for member in reader if member.isfile()}
        content = reader.extractfile(f"./{LONG}")
        assert content is not None
        data = content.read()
    assert sizes["./all"] == 10 * GIB and sizes["./begin"] == GIB + 5 and sizes[f"./{LONG}"] == 5 << 20
    assert (data[1 << 20 : (1 << 20) + 5], data[3 << 20 : (3 << 20) + 5]) == (b"data!", b"data!")
