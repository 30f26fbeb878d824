"""The header parser, with Python's tarfile as the writer of good archives and hand-made headers for bad ones."""

from __future__ import annotations

import io
import tarfile

import pytest

from barque.store.tar.errors import FieldTooLong, InvalidHeader, Refused, TarError, Truncated
from barque.store.tar.messages import Limits
from barque.store.tar.numbers import numeric
from barque.store.tar.pax import nanoseconds
from barque.store.tar.reader import Entry, Stream, entries
from barque.store.tar.writer import Writer

SMALL = Limits(entries=100, size=1 << 30, header=4096, sparse_entries=8)


def parse(data: bytes, limits: Limits = SMALL, block: int = 1000) -> list[tuple[Entry, bytes]]:
    stream = Stream(data[i : i + block] for i in range(0, len(data), block))
    found = []
    for entry in entries(stream, limits):
        content = stream.take(entry.data) if entry.data else b""
        found.append((entry, content))
    return found


def header(
    name: bytes = b"f",
    kind: bytes = b"0",
    size: bytes = b"00000000000\0",
    magic: bytes = b"ustar\x0000",
    rest: bytes = b"",
    mtime: bytes = b"00000000000\0",
) -> bytes:
    block = (
        name.ljust(100, b"\0")
        + b"0000644\0"
        + b"0000000\0" * 2
        + size.ljust(12, b"\0")
        + mtime
        + b" " * 8
        + kind
        + bytes(100)
        + magic
        + rest
    ).ljust(512, b"\0")
    return block[:148] + b"%06o\0 " % sum(block) + block[156:]


def pax(records: bytes, kind: bytes = b"x") -> bytes:
    return header(b"PaxHeader", kind, b"%011o\0" % len(records)) + records + bytes(-len(records) % 512)


def record(key: bytes, value: bytes) -> bytes:
    for length in range(len(key) + len(value) + 3, len(key) + len(value) + 30):
        text = b"%d %b=%b\n" % (length, key, value)
        if len(text) == length:
            return text
    raise AssertionError


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_formats(form: int) -> None:
    deep = "/".join(["directory"] * 20) + "/" + "n" * 90
    long = deep if form != tarfile.USTAR_FORMAT else "d" * 90 + "/" + "n" * 90
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as archive:
        for name, kind in ((long, tarfile.REGTYPE), ("link", tarfile.SYMTYPE), ("dev", tarfile.CHRTYPE)):
            info = tarfile.TarInfo(name)
            info.type, info.mode, info.uid, info.gid, info.mtime = kind, 0o4755, 1000, 2000, 1234567890
            info.size = 5 if kind == tarfile.REGTYPE else 0
            info.linkname = "t" * (150 if form != tarfile.USTAR_FORMAT else 99) if kind == tarfile.SYMTYPE else ""
            info.devmajor, info.devminor = (5, 1) if kind == tarfile.CHRTYPE else (0, 0)
            archive.addfile(info, io.BytesIO(b"hello"))
    (regular, content), (link, _), (device, _) = parse(out.getvalue())
    assert (regular.name, content) == (long.encode(), b"hello")
    assert (regular.mode, regular.uid, regular.gid, regular.mtime) == (0o4755, 1000, 2000, 1234567890 * 10**9)
    assert link.link == b"t" * (150 if form != tarfile.USTAR_FORMAT else 99)
    assert (device.type, device.major, device.minor) == (b"3", 5, 1)


def test_big_numbers() -> None:
    assert numeric(b"\x80\0\0\0\0\0\0\0\0\0\x01\0") == 256
    assert numeric(b"\xff" * 12) == -1
    assert numeric(b"  644 \0") == 0o644
    assert numeric(b"\0" * 8) == 0
    for bad in (b"0000_1\0", b"+000001\0", b"-1\0\0\0\0\0\0", b"9999999\0", b"\x80" + b"\x7f" * 11, b"0x00001\0"):
        with pytest.raises(InvalidHeader):
            numeric(bad)


def test_pax_overrides_size_and_time_and_carries_attributes() -> None:
    records = (
        record(b"size", b"3")
        + record(b"mtime", b"1.000000007")
        + record(b"SCHILY.xattr.user.a", b"x\0y=z\n")
        + record(b"path", b"\xff\xfe")
    )
    data = pax(records) + header(size=b"00000000000\0") + b"abc" + bytes(509) + header(b"next") + bytes(1024)
    (first, content), (second, _) = parse(data)
    assert (first.name, content, first.mtime) == (b"\xff\xfe", b"abc", 1_000_000_007)
    assert first.xattrs == {"user.a": b"x\0y=z\n"}
    assert second.name == b"next"
    assert nanoseconds(b"-1.5") == -1_500_000_000
    for bad in (b"1e9", b"", b"1_0", b" 1", b"1.5x"):
        with pytest.raises(InvalidHeader):
            nanoseconds(bad)


def test_global_header_counts_for_all_that_follow_but_cannot_rename() -> None:
    data = pax(record(b"mtime", b"7") + record(b"comment", b"x"), b"g") + header(b"a") + header(b"b") + bytes(1024)
    assert [entry.mtime for entry, _ in parse(data)] == [7 * 10**9] * 2
    for key in (b"path", b"linkpath", b"size", b"SCHILY.xattr.user.a", b"GNU.sparse.major"):
        with pytest.raises(Refused, match="global header"):
            parse(pax(record(key, b"1"), b"g") + header())


@pytest.mark.parametrize(
    "body",
    [
        b"garbage",
        b"5 a=b\n",
        b"99 a=b\n",
        b"6 a=bc",
        b"0 =\n",
        b"5 ab\n",
        b"-6 a=b\n",
        b"5 =b\n",
        record(b"path", b"a\0b"),
        record(b"size", b"-1"),
        record(b"size", b"1_0"),
        record(b"size", b"9" * 25),
        record(b"uid", b"x"),
    ],
)
def test_malformed_pax(body: bytes) -> None:
    with pytest.raises(TarError):
        parse(pax(body) + header() + bytes(1024))


def test_caps() -> None:
    with pytest.raises(FieldTooLong, match="header field too long"):
        parse(pax(record(b"comment", b"x" * 5000)) + header())
    for kind in (b"L", b"K", b"x", b"g"):
        with pytest.raises(FieldTooLong):
            parse(header(b"x", kind, b"77777777777\0"))
    with pytest.raises(InvalidHeader):
        parse(header(size=b"77777777777\0"))


def test_checksum_end_and_truncation() -> None:
    good = header() + bytes(1024)
    assert len(parse(good + b"trailing junk" * 100)) == 1
    assert len(parse(header())) == 1  # no end mark: accepted at a block's end
    assert parse(b"") == []
    assert [content for _, content in parse(header(size=b"00000000003\0") + b"abc")] == [b"abc"]  # nor padding
    broken = bytearray(good)
    broken[0] ^= 1
    for data, error in (
        (bytes(broken), InvalidHeader),
        (good[:300], Truncated),
        (bytes(512) + header(), InvalidHeader),
        (header(size=b"00000001000\0") + b"x" * 100, Truncated),
    ):
        with pytest.raises(error):
            parse(data)


def test_directories_of_1979_and_sizes_of_links() -> None:
    data = header(b"old/", b"\0", magic=bytes(8)) + header(b"hard", b"1", b"00000000777\0") + header(b"z") + bytes(1024)
    assert [(entry.type, entry.size) for entry, _ in parse(data)] == [(b"5", 0), (b"1", 0), (b"0", 0)]


def sparse_cases() -> dict[str, bytes]:
    content = b"A" * 512 + b"B" * 512
    size = b"%011o\0" % len(content)
    pair = b"%011o\0%011o\0"
    old = (
        bytes(345 - 265 + 41)[: 386 - 265]
        + pair % (1024, 512)
        + pair % (4096, 512)
        + pair % (8192, 0)
        + bytes(24)
        + b"\0"
        + b"%011o\0" % 8192
    )
    common = record(b"GNU.sparse.size", b"8192") + record(b"GNU.sparse.numblocks", b"2")
    zero = common + b"".join(
        record(b"GNU.sparse.offset", o) + record(b"GNU.sparse.numbytes", b"512") for o in (b"1024", b"4096")
    )
    one = common + record(b"GNU.sparse.map", b"1024,512,4096,512") + record(b"GNU.sparse.name", b"s")
    lines = b"2\n1024\n512\n4096\n512\n".ljust(512, b"\0")
    newest = (
        record(b"GNU.sparse.major", b"1")
        + record(b"GNU.sparse.minor", b"0")
        + record(b"GNU.sparse.name", b"s")
        + record(b"GNU.sparse.realsize", b"8192")
    )
    end = bytes(1024)
    return {
        "gnu": header(b"s", b"S", size, b"ustar  \0", old) + content + end,
        "0.0": pax(zero) + header(b"s", size=size) + content + end,
        "0.1": pax(one) + header(b"GNUSparseFile.0/s", size=size) + content + end,
        "1.0": pax(newest) + header(b"GNUSparseFile.0/s", size=b"%011o\0" % (512 + 1024)) + lines + content + end,
    }


@pytest.mark.parametrize("form", ["gnu", "0.0", "0.1", "1.0"])
def test_sparse_formats(form: str) -> None:
    [(entry, content)] = parse(sparse_cases()[form])
    assert (entry.name, entry.type, entry.size, entry.data) == (b"s", b"0", 8192, 1024)
    assert entry.segments == [(1024, 512), (4096, 512)]
    assert content == b"A" * 512 + b"B" * 512


@pytest.mark.parametrize(
    "text",
    [
        b"4096,512,1024,512",
        b"1024,1024,1500,0",
        b"8000,1024",
        b"0,512",
        b"0,512,",
        b"1,2,3",
        b"-1,1024",
        b"0,1_024",
        b",".join([b"0,0"] * 9),
    ],
)
def test_sparse_maps_that_lie(text: bytes) -> None:
    records = record(b"GNU.sparse.size", b"8192") + record(b"GNU.sparse.map", text)
    with pytest.raises(TarError):
        parse(pax(records) + header(size=b"00000002000\0") + bytes(1024) + bytes(1024))


def test_sparse_map_of_endless_length() -> None:
    records = (
        record(b"GNU.sparse.major", b"1") + record(b"GNU.sparse.minor", b"0") + record(b"GNU.sparse.realsize", b"1")
    )
    endless = (b"1000000\n").ljust(512, b"\0") + bytes(512 * 100)
    with pytest.raises(FieldTooLong):
        parse(pax(records) + header(size=b"%011o\0" % len(endless)) + endless)


def test_writer_uses_pax_only_where_needed() -> None:
    out: list[bytes] = []
    writer = Writer(out.append)
    writer.add(Entry(b"short", b"0", size=3), b"abc")
    plain = len(b"".join(out))
    assert plain == 1024
    writer.add(Entry(b"d" * 300 + b"/", b"5", uid=1 << 31, xattrs={"user.k": b"v"}))
    writer.close()
    with tarfile.open(fileobj=io.BytesIO(b"".join(out))) as archive:
        short, long = archive.getmembers()
    assert (short.name, short.size) == ("short", 3)
    assert (long.name, long.uid, long.pax_headers["SCHILY.xattr.user.k"]) == ("d" * 300, 1 << 31, "v")
