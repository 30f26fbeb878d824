"""What a layer makes on disk, unpacked by the confined worker."""

from __future__ import annotations

import gzip
import hashlib
import os
import stat
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from backports import zstd

from barque.store.tar.messages import ForeignLink, Limits, UnpackRequest
from barque.store.tar.reader import Entry
from barque.store.workers import InvalidArchive, UnpackFailed
from tests.kernel.unpacking import SECOND, directory, file, hardlink, names, symlink, tar, unpack

#: cap_net_raw+ep as an attribute (linux/capability.h, vfs_cap_data revision 2).
CAPABILITY = struct.pack("<IIIII", 0x02000001, 1 << 13, 0, 0, 0)


async def test_everything_an_entry_can_say(tmp_path: Path) -> None:
    data = tar(
        directory(b"./", 0o711),
        directory(b"etc/", 0o2750, uid=10, gid=20, mtime=5 * SECOND),
        file(b"etc/plain", b"text", 0o644, mtime=7 * SECOND),
        file(
            b"etc/suid",
            b"x",
            0o6755,
            uid=1000,
            gid=1000,
            xattrs={"security.capability": CAPABILITY, "user.note": b"a\0b"},
        ),
        symlink(b"etc/link", b"/absolute/elsewhere"),
        hardlink(b"etc/hard", b"./etc/plain"),
        Entry(b"etc/null", b"3", mode=0o666, major=1, minor=3),
        Entry(b"etc/fifo", b"6", mode=0o600),
        Entry(b"etc/disk", b"4", mode=0o660, major=8, minor=300),
        directory(b"etc/sticky/", 0o1777, mtime=9 * SECOND),
    )
    result = await unpack(data, tmp_path / "fs")
    etc = tmp_path / "fs" / "etc"
    assert result.diff_id == "sha256:" + hashlib.sha256(data).hexdigest()
    assert (result.size, result.entries, result.implicit_dirs, result.foreign_links) == (5, 10, [], [])
    assert stat.S_IMODE((tmp_path / "fs").stat().st_mode) == 0o711
    info = etc.stat()
    assert (stat.S_IMODE(info.st_mode), info.st_uid, info.st_gid, info.st_mtime) == (0o2750, 10, 20, 5)
    assert ((etc / "plain").stat().st_mtime, (etc / "plain").stat().st_gid) == (7, 0)  # not the setgid directory's
    suid = etc / "suid"
    assert (stat.S_IMODE(suid.stat().st_mode), suid.stat().st_uid) == (0o6755, 1000)
    assert os.getxattr(suid, "security.capability") == CAPABILITY
    assert os.getxattr(suid, "user.note") == b"a\0b"
    assert os.readlink(etc / "link") == "/absolute/elsewhere"
    assert (etc / "hard").stat().st_ino == (etc / "plain").stat().st_ino
    assert stat.S_ISCHR((etc / "null").stat().st_mode) and (etc / "null").stat().st_rdev == os.makedev(1, 3)
    assert stat.S_ISBLK((etc / "disk").stat().st_mode) and (etc / "disk").stat().st_rdev == os.makedev(8, 300)
    assert stat.S_ISFIFO((etc / "fifo").stat().st_mode)
    assert stat.S_IMODE((etc / "sticky").stat().st_mode) == 0o1777


async def test_compressions_and_lying_media_types(tmp_path: Path) -> None:
    plain = tar(file(b"a", b"x" * 100_000))
    digest = "sha256:" + hashlib.sha256(plain).hexdigest()
    for number, data in enumerate((plain, gzip.compress(plain), zstd.compress(plain))):
        for claim in ("none", "gzip", "zstd"):
            result = await unpack(data, tmp_path / f"{number}{claim}", UnpackRequest(claim, digest))
            assert result.diff_id == digest
    with pytest.raises(InvalidArchive, match="don't match image configuration"):
        await unpack(plain, tmp_path / "other", UnpackRequest("none", "sha256:" + "0" * 64))


async def test_whiteouts(tmp_path: Path) -> None:
    result = await unpack(
        tar(
            directory(b"a/"),
            file(b"a/.wh.gone"),
            directory(b"b/"),
            file(b"b/.wh..wh..opq"),
            file(b"b/kept", b"k"),
            file(b"c/.wh.x"),
            file(b"c/x", b"wins"),
            file(b"c/y", b"wins"),
            file(b"c/.wh.y"),
            directory(b"c/d/"),
            file(b"c/.wh.d"),
            file(b".wh..wh.plnk/1"),
            file(b".wh..wh.aufs"),
            file(b"c/.wh.e"),
            directory(b"c/e/"),
            file(b"c/.wh.f"),
            file(b"c/f/inner", b"i"),
        ),
        tmp_path / "fs",
    )
    fs = tmp_path / "fs"
    gone = (fs / "a/gone").lstat()
    assert stat.S_ISCHR(gone.st_mode) and gone.st_rdev == 0
    for opaque in ("b", "c/d", "c/e", "c/f"):
        assert os.getxattr(fs / opaque, "trusted.overlay.opaque") == b"y", opaque
    assert ((fs / "c/x").read_text(), (fs / "c/y").read_text()) == ("wins", "wins")
    assert not result.cut
    assert result.implicit_dirs == [b"", b"c", b"c/f"]
    assert (await unpack(tar(file(b".wh..wh..opq")), tmp_path / "root")).cut


async def test_whiteouts_mean_nothing_in_plain_archives(tmp_path: Path) -> None:
    await unpack(tar(file(b".wh.a", b"1")), tmp_path / "fs", UnpackRequest(whiteouts=False))
    assert names(tmp_path / "fs") == [".wh.a"]


async def test_later_entries_replace_earlier_ones(tmp_path: Path) -> None:
    await unpack(
        tar(
            directory(b"d/"),
            file(b"d/deep/er/x", b"1"),
            file(b"d", b"now a file"),
            file(b"f", b"1"),
            directory(b"f/"),
            file(b"f/in", b"2"),
            symlink(b"l", b"f"),
            directory(b"l/"),
            file(b"l/in", b"3"),
            file(b"twice", b"long content"),
            file(b"twice", b"short"),
            hardlink(b"self", b"self2"),
            file(b"self2", b"s"),
        ),
        tmp_path / "fs",
    )
    fs = tmp_path / "fs"
    assert (fs / "d").read_text() == "now a file"
    assert ((fs / "f/in").read_text(), (fs / "l/in").read_text()) == ("2", "3")
    assert not (fs / "l").is_symlink()
    assert (fs / "twice").read_text() == "short"


async def test_foreign_links_and_parents_are_reported(tmp_path: Path) -> None:
    result = await unpack(
        tar(
            symlink(b"lib", b"usr/lib"),
            file(b"lib/x/lower", b"1"),
            hardlink(b"lib/new", b"/usr/bin/old"),
            hardlink(b"again", b"usr/lib/new"),
        ),
        tmp_path / "fs",
    )
    assert result.implicit_dirs == [b"", b"usr", b"usr/lib", b"usr/lib/x"]
    assert result.foreign_links == [ForeignLink(b"usr/lib/new", b"usr/bin/old"), ForeignLink(b"again", b"usr/bin/old")]


def make_holes(path: Path) -> None:
    with open(path, "wb") as out:
        for offset in range(0, 40 << 20, 4 << 20):
            out.seek(offset)
            out.write(b"data" * 1024)
        out.truncate(50 << 20)


def gnu_tar(source: Path, *options: str) -> bytes:
    command = ["tar", "-C", source, "-S", *options, "-cf", "-", "."]
    return subprocess.run(command, capture_output=True, check=True).stdout


async def test_gnu_tar_is_understood(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    make_holes(source / "holes")
    (source / ("n" * 200)).write_text("long name")
    os.setxattr(source / "holes", "user.x", b"y")
    os.utime(source / "holes", ns=(1, 1_600_000_000_123_456_789))
    expected = hashlib.sha256((source / "holes").read_bytes()).hexdigest()
    for number, options in enumerate(
        (
            ["--format=gnu"],
            ["--format=posix", "--sparse-version=0.0"],
            ["--format=posix", "--sparse-version=0.1"],
            ["--format=posix", "--sparse-version=1.0", "--xattrs"],
        )
    ):
        data = gnu_tar(source, *options)
        assert len(data) < 1 << 20
        target = tmp_path / str(number)
        await unpack(data, target)
        holes = target / "holes"
        assert hashlib.sha256(holes.read_bytes()).hexdigest() == expected, options
        assert holes.stat().st_blocks * 512 < 1 << 20
        assert (target / ("n" * 200)).read_text() == "long name"
        if "posix" in options[0]:
            assert holes.stat().st_mtime_ns == 1_600_000_000_123_456_789
    assert os.getxattr(tmp_path / "3" / "holes", "user.x") == b"y"


@pytest.mark.parametrize(
    "members",
    [
        [file(b"../escaped", b"x")],
        [file(b"a/../../escaped", b"x")],
        [directory(b"../escaped/")],
        [symlink(b"../escaped", b"x")],
        [hardlink(b"a", b"../../etc/passwd")],
        [file(b".wh...", b"")],
        [file(b".wh..", b"")],
        [file(b".wh.", b"")],
        [hardlink(b"a", b"/")],
        [file(b"d", b"x"), file(b"d/under", b"x")],
        [file(b".", b"x")],
        [symlink(b"loop", b"loop"), file(b"loop/x", b"x")],
        [symlink(b"/", b"/etc")],
        [Entry(b"weird", b"V")],
        [file(b"owner", b"", uid=(1 << 32) - 1)],
        [file(b"n" * 256, b"x")],
        [file(b"d/" * 3000 + b"f", b"x")],
        [directory(b"d/"), hardlink(b"h", b"d")],
    ],
)
async def test_hostile_members_are_refused(tmp_path: Path, members: list[Entry]) -> None:
    box = tmp_path / "box"
    box.mkdir()
    with pytest.raises((InvalidArchive, UnpackFailed), match="failed to register layer: "):
        await unpack(tar(*members), box / "fs")
    assert os.listdir(tmp_path) == ["box"] and os.listdir(box) == ["fs"]


async def test_hostile_members_are_confined(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_text("secret")
    box = str(outside).encode()
    members = [
        file(b"/absolute", b"in"),
        symlink(b"out", box),
        file(b"out/planted", b"in"),
        symlink(b"up", b"../../../.."),
        file(b"up/planted2", b"in"),
        symlink(b"chain1", b"chain2/x"),
        symlink(b"chain2", b"/out"),
        file(b"chain1/planted3", b"in"),
        symlink(b"px", b"/proc/self/root"),
        file(b"px/planted4", b"in"),
        directory(b"out/sub/"),
        Entry(b"out/node", b"3", major=1, minor=3),
        symlink(b"file", box + b"/secret"),
        file(b"file", b"replaced"),
        file(b"out/.wh.secret"),
    ]
    await unpack(tar(*members), tmp_path / "fs")
    assert os.listdir(outside) == ["secret"]
    assert (outside / "secret").read_text() == "secret"
    fs = tmp_path / "fs"
    assert (fs / "absolute").read_text() == "in"
    assert (fs / str(outside).lstrip("/") / "planted").read_text() == "in"
    assert (fs / "planted2").read_text() == "in"
    assert (fs / "file").read_text() == "replaced"
    with pytest.raises((InvalidArchive, UnpackFailed)):  # a link to a host file is a link to a layer's, if any
        await unpack(tar(symlink(b"l", b"/"), hardlink(b"h", b"l/" + b"x" * 256)), tmp_path / "fs2")


async def test_long_paths_do_not_blind_the_check(tmp_path: Path) -> None:
    """CVE-2025-4517: a chain of links whose real path passes PATH_MAX made a checker give up and the writer go on."""
    step = b"d" * 247
    members: list[Entry | tuple[Entry, bytes]] = []
    path = b""
    for letter in b"abcdefghijklmnop":
        members += [directory(path + step), symlink(path + bytes([letter]), step)]
        path += step + b"/"
        if len(path) > 3700:
            break
    short = b"/".join(bytes([letter]) for letter in b"abcdefghijklmno")
    members += [
        symlink(short + b"/" + b"l" * 200, b"../" * 15),
        symlink(b"escape", short + b"/" + b"l" * 200 + b"/../.."),
        file(b"escape/planted", b"x"),
    ]
    box = tmp_path / "box"
    box.mkdir()
    try:
        await unpack(tar(*members), box / "fs")
    except (InvalidArchive, UnpackFailed):
        pass
    assert os.listdir(tmp_path) == ["box"] and os.listdir(box) == ["fs"]


async def test_orders_to_overlayfs_are_dropped(tmp_path: Path) -> None:
    await unpack(
        tar(
            file(b"f", b"x", xattrs={"trusted.overlay.redirect": b"/etc", "trusted.overlay.metacopy": b""}),
            Entry(b"d/", b"5", mode=0o755, xattrs={"trusted.overlay.opaque": b"y"}),
        ),
        tmp_path / "fs",
    )
    assert os.listxattr(tmp_path / "fs/f") == []
    assert os.listxattr(tmp_path / "fs/d") == []


@pytest.mark.parametrize(
    "data",
    [
        gzip.compress(tar(file(b"a", b"x" * 9999)))[:-9],
        zstd.compress(tar(file(b"a", b"x" * 9999)))[:-3],
        tar(file(b"a", b"x" * 9999))[:5000],
        b"this is no archive" * 100,
        gzip.compress(b"nor is this" * 100),
    ],
)
async def test_truncated_and_corrupt_streams(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(InvalidArchive, match=r"unexpected EOF|invalid tar header"):
        await unpack(data, tmp_path / "fs", UnpackRequest("gzip"))


async def test_limits(tmp_path: Path) -> None:
    many = tar(*[file(b"%d" % number) for number in range(20)])
    with pytest.raises(InvalidArchive, match="more than 10 entries"):
        await unpack(many, tmp_path / "a", UnpackRequest(limits=Limits(entries=10)))
    with pytest.raises(InvalidArchive, match="more than 100 bytes"):
        await unpack(
            tar(file(b"a", b"x" * 99), file(b"b", b"x" * 99)), tmp_path / "b", UnpackRequest(limits=Limits(size=100))
        )


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "small"
    path.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", path], check=True)
    yield path
    subprocess.run(["umount", path], check=True)


async def test_full_disk_is_a_clean_error(small_disk: Path) -> None:
    with pytest.raises(UnpackFailed, match="no space left on device") as caught:
        await unpack(tar(file(b"a", b"x" * (2 << 20))), small_disk / "fs")
    assert caught.value.fields["errno"] == 28


async def test_a_fifo_in_the_way_does_not_hang(tmp_path: Path) -> None:
    await unpack(
        tar(Entry(b"p", b"6", mode=0o600), file(b"p", b"file"), Entry(b"q", b"6", mode=0o600), hardlink(b"r", b"q")),
        tmp_path / "fs",
    )
    assert (tmp_path / "fs/p").read_text() == "file"
