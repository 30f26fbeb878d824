"""Full disks, durable file replacement, and the overlay view of older kernels."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import stat
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from barque.oci.descriptor import Descriptor
from barque.store.content import ContentStore
from barque.store.db import Database
from barque.store.ingest import WriteFailed
from barque.store.layout import Layout
from barque.store.leases import Leases
from barque.store.workers import SubprocessWorkers, copy_volume
from barque.sys.fsync import atomic_write

FS_IOC_FIEMAP = 0xC020660B
FIEMAP_FLAG_SYNC, FIEMAP_EXTENT_SHARED = 1, 0x2000

_OLD_VIEW = """
import os, sys
from barque.store.copyup import view_by_string
from barque.sys import mounts, namespaces
namespaces.unshare(namespaces.CLONE_NEWNS)
mounts.set_propagation_of_all(mounts.PROPAGATION_PRIVATE)
print(sorted(os.listdir(os.open(".", os.O_RDONLY, dir_fd=view_by_string(sys.argv[1:])))))
"""


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "small"
    path.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", path], check=True)
    yield path
    subprocess.run(["umount", path], check=True)


async def test_space_comes_back_after_a_full_disk(small_disk: Path) -> None:
    layout = Layout.open(str(small_disk / "root"))
    db = await Database.open(layout.database)
    content = ContentStore(layout, db)
    data = b"x" * (8 << 20)
    wanted = Descriptor(media_type="", digest="sha256:" + hashlib.sha256(data).hexdigest(), size=len(data))
    async with Leases(db).hold("test") as lease:
        with pytest.raises(WriteFailed, match=r"^write .*: no space left on device$"):
            async with await content.ingest(lease, wanted) as ingest:
                await ingest.write(data)
        assert os.listdir(layout.ingest) == []
        small = await content.put(lease, "", b"y" * (1 << 19))
        assert await content.read(small.digest, 1 << 20) == b"y" * (1 << 19)
    await db.close()
    layout.close()


def test_failed_replacement_leaves_the_old_file(small_disk: Path) -> None:
    path = small_disk / "file"
    atomic_write(str(path), b"old", 0o640)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    with pytest.raises(OSError, match="No space left"):
        atomic_write(str(path), b"x" * (8 << 20))
    assert path.read_bytes() == b"old"
    atomic_write(str(path), b"new", durable=False)
    assert path.read_bytes() == b"new"
    assert os.listdir(small_disk) == ["file"]


def test_view_for_old_kernels(tmp_path: Path) -> None:
    for name in ("1", "2"):
        (tmp_path / name / "fs").mkdir(parents=True)
        (tmp_path / name / "fs" / f"from-{name}").write_text("")
    command = [sys.executable, "-c", _OLD_VIEW, str(tmp_path / "2/fs"), str(tmp_path / "1/fs")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "['from-1', 'from-2']", done.stderr


def extents(path: Path) -> list[tuple[int, bool]]:
    """Where the file lies on its disk, and whether it shares that place with another (the ioctl FIEMAP)."""
    most = 32
    head, extent = struct.Struct("QQIIII"), struct.Struct("QQQ2QI3I")
    buffer = bytearray(head.pack(0, 1 << 40, FIEMAP_FLAG_SYNC, 0, most, 0) + bytes(most * extent.size))
    with open(path, "rb") as file:
        fcntl.ioctl(file, FS_IOC_FIEMAP, buffer)
    count = head.unpack_from(buffer)[3]
    found = [extent.unpack_from(buffer, head.size + number * extent.size) for number in range(count)]
    return [(item[1], bool(item[5] & FIEMAP_EXTENT_SHARED)) for item in found]


@pytest.fixture(params=["btrfs", "xfs"])
def sharing_disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A file system of that kind, in a file."""
    make = shutil.which(f"mkfs.{request.param}", path="/usr/sbin:/sbin:/usr/bin")
    if make is None:
        pytest.skip(f"no mkfs.{request.param}")
    image, disk = tmp_path / "image", tmp_path / "disk"
    disk.mkdir()
    with open(image, "wb") as file:
        file.truncate(320 << 20)
    subprocess.run([make, "-q", image], check=True)
    if subprocess.run(["mount", "-o", "loop", "-t", request.param, image, disk], check=False).returncode:
        pytest.skip(f"this host mounts no {request.param}")
    yield disk
    subprocess.run(["umount", disk], check=True)


async def test_copies_of_a_volume_share_their_blocks(sharing_disk: Path) -> None:
    source, target = sharing_disk / "source", sharing_disk / "target"
    source.mkdir()
    target.mkdir()
    data = os.urandom(1 << 20)
    (source / "file").write_bytes(data)
    assert await copy_volume(SubprocessWorkers(), str(source), str(target)) > 0
    there = extents(source / "file")
    assert there == extents(target / "file")
    assert all(shared for _, shared in there)
    (target / "file").write_bytes(b"changed")
    assert (source / "file").read_bytes() == data
