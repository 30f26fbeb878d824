"""Archives by our writer are read the same by us, by Python's tarfile and by GNU tar, and theirs by us."""

from __future__ import annotations

import io
import subprocess
import tarfile

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from barque.store.tar.errors import TarError
from barque.store.tar.messages import Limits
from barque.store.tar.reader import Entry, Stream, entries
from barque.store.tar.writer import Writer

_part = st.binary(min_size=1, max_size=120).filter(
    lambda name: not set(name) & set(b"\0/") and name not in (b".", b"..")
)
_name = st.lists(_part, min_size=1, max_size=4).map(b"/".join)
_text = st.text(
    st.characters(min_codepoint=33, max_codepoint=0x2FFF, exclude_characters="/\\"), min_size=1, max_size=150
)
_seconds = st.integers(0, 2**33)
_id = st.integers(0, 2**32 - 2)
_attributes = st.dictionaries(st.sampled_from(["user.a", "user.b", "security.capability"]), st.binary(max_size=50))


@st.composite
def members(draw: st.DrawFn) -> tuple[Entry, bytes]:
    kind = draw(st.sampled_from([b"0", b"0", b"1", b"2", b"3", b"5", b"6"]))
    content = draw(st.binary(max_size=1500)) if kind == b"0" else b""
    name = draw(_name) + (b"/" if kind == b"5" else b"")
    if kind == b"0":
        name = name.rstrip(b"/")
    entry = Entry(
        name,
        kind,
        mode=draw(st.integers(0, 0o7777)),
        uid=draw(_id),
        gid=draw(_id),
        size=len(content),
        data=len(content),
        mtime=draw(_seconds) * 10**9,
        link=draw(_name) if kind in (b"1", b"2") else b"",
        xattrs=draw(_attributes),
    )
    if kind == b"3":
        entry.major, entry.minor = draw(st.integers(0, 4095)), draw(st.integers(0, 2**20 - 1))
    return entry, content


def written(found: list[tuple[Entry, bytes]]) -> bytes:
    out: list[bytes] = []
    writer = Writer(out.append)
    for entry, content in found:
        writer.add(entry, content)
    writer.close()
    return b"".join(out)


def read(data: bytes, block: int) -> list[tuple[Entry, bytes]]:
    stream = Stream(data[i : i + block] for i in range(0, len(data), block))
    return [(entry, stream.take(entry.data) if entry.data else b"") for entry in entries(stream, Limits())]


@settings(max_examples=60, deadline=None)
@given(st.lists(members(), max_size=5), st.integers(1, 3000))
def test_we_read_what_we_write(found: list[tuple[Entry, bytes]], block: int) -> None:
    assert read(written(found), block) == found


@settings(max_examples=60, deadline=None)
@given(st.lists(members(), max_size=5))
def test_tarfile_reads_what_we_write(found: list[tuple[Entry, bytes]]) -> None:
    with tarfile.open(fileobj=io.BytesIO(written(found)), encoding="utf-8", errors="surrogateescape") as archive:
        seen = [(member.name, member.mode, member.uid, member.gid, member.size, member.mtime) for member in archive]
    assert seen == [
        (
            entry.name.rstrip(b"/").decode("utf-8", "surrogateescape"),
            entry.mode,
            entry.uid,
            entry.gid,
            entry.size,
            entry.mtime // 10**9,
        )
        for entry, _ in found
    ]


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(members(), max_size=3))
def test_gnu_tar_lists_what_we_write(found: list[tuple[Entry, bytes]]) -> None:
    done = subprocess.run(
        ["tar", "-tf", "-", "--quoting-style=literal", "--show-transformed-names"],
        env={"LC_ALL": "C"},
        input=written(found),
        capture_output=True,
        check=True,
    )
    assert done.stdout == b"".join(entry.name + b"\n" for entry, _ in found)


@settings(max_examples=60, deadline=None)
@given(
    _text,
    _seconds,
    st.binary(max_size=1000),
    st.sampled_from([tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]),
    st.integers(0, 2**31),
)
def test_we_read_what_tarfile_writes(name: str, mtime: int, content: bytes, form: int, uid: int) -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as archive:
        info = tarfile.TarInfo(name)
        info.size, info.mtime, info.uid = len(content), mtime, uid
        archive.addfile(info, io.BytesIO(content))
    [(entry, seen)] = read(out.getvalue(), 700)
    assert (entry.name, entry.mtime, entry.uid, seen) == (name.encode(), mtime * 10**9, uid, content)


@settings(max_examples=150, deadline=None)
@given(st.lists(members(), min_size=1, max_size=2), st.data())
def test_damage_is_an_error_or_another_archive_but_no_crash(
    found: list[tuple[Entry, bytes]], data: st.DataObject
) -> None:
    archive = bytearray(written(found))
    for _ in range(data.draw(st.integers(1, 8))):
        archive[data.draw(st.integers(0, len(archive) - 1))] = data.draw(st.integers(0, 255))
    try:
        read(bytes(archive), 512)
    except TarError:
        pass
