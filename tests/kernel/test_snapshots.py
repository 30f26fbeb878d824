"""Layers put together by the real overlayfs: whiteouts, inherited directories, links into lower layers, diffs."""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from barque.oci.digest import Digest
from barque.oci.image import chain_ids
from barque.oci.mount import Mount
from barque.store.boot import clean_up
from barque.store.content import ContentStore
from barque.store.db import Database
from barque.store.fsck import check
from barque.store.gc import collect
from barque.store.layout import Layout
from barque.store.leases import Leases
from barque.store.mend import Layers, NoLinkTarget
from barque.store.snapshots import BrokenChain, DiffIdMismatch, NoSuchSnapshot, SnapshotExists, Snapshots
from barque.store.tar.diff import ADDED, DELETED, MODIFIED, changes, write_diff
from barque.store.tar.messages import UnpackRequest, UnpackResult
from barque.store.tar.reader import Entry
from barque.store.workers import SubprocessWorkers, WorkerDied, Workers, copy_up, unpack_layer
from tests.kernel.unpacking import SECOND, directory, file, hardlink, symlink, tar

#: Runs in a mount namespace of its own: mounts the overlay at the directory and then the command there.
_IN_OVERLAY = """
import os, subprocess, sys
from barque.sys import mounts, namespaces
kind, *words = sys.argv[1].split("|")
namespaces.unshare(namespaces.CLONE_NEWNS)
mounts.set_propagation_of_all(mounts.PROPAGATION_PRIVATE)
options = [tuple(word.split("=", 1)) if "=" in word else (word, None) for word in words]
root = mounts.make("overlay", options)
os.fchdir(root)
sys.exit(subprocess.run(["sh", "-ec", sys.argv[2]]).returncode)
"""


def in_overlay(mount: Mount, script: str) -> str:
    """What ``script`` prints in a shell whose directory is the mounted root file system."""
    words = [
        mount.type,
        *(word for word in mount.options if word != "ro"),
        *(f"lowerdir+={path}" for path in mount.lower),
    ]
    if mount.upper:
        words += [f"upperdir={mount.upper}", f"workdir={mount.work}"]
    done = subprocess.run(
        [sys.executable, "-c", _IN_OVERLAY, "|".join(words), script], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


class Store:
    def __init__(self, layout: Layout, db: Database) -> None:
        self.layout, self.db = layout, db
        self.content, self.snapshots, self.leases = ContentStore(layout, db), Snapshots(layout, db), Leases(db)

    async def layers(self, *archives: bytes) -> list[Digest]:
        """Unpack all layers side by side and commit them together; returns the chain ids."""
        diff_ids = ["sha256:" + hashlib.sha256(data).hexdigest() for data in archives]
        chain = list(chain_ids(diff_ids))
        async with self.leases.hold("test") as lease:
            slots = []
            for index, chain_id in enumerate(chain):
                slot = await self.snapshots.prepare_layer(
                    lease, chain_id, chain[index - 1] if index else None, diff_ids[index]
                )
                assert slot is not None
                slots.append(slot)
            results = await asyncio.gather(
                *[self._unpack(data, slot.fs) for data, slot in zip(archives, slots, strict=True)]
            )
            try:
                await self.snapshots.commit(list(zip(slots, results, strict=True)))
            finally:
                for slot in slots:
                    await slot.abort()
        return chain

    async def _unpack(self, data: bytes, target: str) -> UnpackResult:
        fd = os.memfd_create("layer")
        try:
            os.write(fd, data)
            os.lseek(fd, 0, os.SEEK_SET)
            return await unpack_layer(SubprocessWorkers(), fd, target, UnpackRequest())
        finally:
            os.close(fd)


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    layout = Layout.open(str(tmp_path / "root"))
    db = await Database.open(layout.database)
    store = Store(layout, db)
    yield store
    await store.snapshots.wait_removed()
    await db.close()
    layout.close()


BASE = tar(
    directory(b"./", 0o750, uid=7),
    directory(b"usr/", 0o711, uid=5, gid=6, mtime=4 * SECOND),
    file(b"usr/tool", b"tool", 0o4755, uid=9, mtime=3 * SECOND, xattrs={"user.k": b"v"}),
    directory(b"old/"),
    file(b"old/a", b"a"),
    file(b"old/b", b"b"),
    directory(b"swept/"),
    file(b"swept/x", b"x"),
    symlink(b"sym", b"usr"),
)
UPPER = tar(
    file(b"usr/new", b"new"),
    hardlink(b"usr/linked", b"usr/tool"),
    file(b"old/.wh.a"),
    directory(b"swept/"),
    file(b"swept/.wh..wh..opq"),
    file(b"swept/y", b"y"),
    hardlink(b"symlinked", b"sym"),
)


async def test_two_layers_as_one_tree(store: Store) -> None:
    chain = await store.layers(BASE, UPPER)
    seen = in_overlay(
        await store.snapshots.image_mount(chain[1]),
        "find . | sort; stat -c '%a %u %g %Y' . usr usr/linked; "
        "cat usr/linked; readlink symlinked; getfattr --only-values -n user.k usr/linked 2>/dev/null || true",
    )
    lines = seen.splitlines()
    assert lines[:11] == [
        ".",
        "./old",
        "./old/b",
        "./swept",
        "./swept/y",
        "./sym",
        "./symlinked",
        "./usr",
        "./usr/linked",
        "./usr/new",
        "./usr/tool",
    ]
    assert lines[11:14] == ["750 7 0 0", "711 5 6 4", "4755 9 0 3"]
    assert lines[14].startswith("toolusr")
    info = await store.snapshots.layer(chain[1])
    assert info is not None and (info.parent, info.size) == (chain[0], len("new") + len("y") + len("tool"))
    top = (await store.snapshots.image_mount(chain[1])).lower[0]
    assert os.getxattr(Path(top, "usr/linked"), "user.k") == b"v"


async def test_single_layer_and_opaque_root(store: Store) -> None:
    chain = await store.layers(BASE, tar(file(b".wh..wh..opq"), file(b"only", b"1")))
    assert "./usr/tool" in in_overlay(await store.snapshots.image_mount(chain[0]), "find .").splitlines()
    assert sorted(in_overlay(await store.snapshots.image_mount(chain[1]), "find .").split()) == [".", "./only"]


async def test_container_layer_and_its_diff(store: Store) -> None:
    chain = await store.layers(BASE, UPPER)
    async with store.leases.hold("test") as lease:
        mount = await store.snapshots.create_container(lease, "c1", chain[1])
        with pytest.raises(SnapshotExists):
            await store.snapshots.create_container(lease, "c1", chain[1])
    assert mount == await store.snapshots.container_mount("c1")
    in_overlay(
        mount,
        "echo more > usr/added; rm old/b; rm -r swept; mkdir swept; echo z > swept/z; chmod 700 usr; "
        "ln usr/added usr/hard; mkfifo pipe; chown 3:4 pipe; test $(stat -c %a .) = 755",
    )
    assert await store.snapshots.container_size("c1") == len("more\n") + len("z\n")
    upper = os.open(await store.snapshots.container_upper("c1"), os.O_RDONLY)
    try:
        first: list[bytes] = []
        assert write_diff(upper, first.append) == 7
        second: list[bytes] = []
        write_diff(upper, second.append)
        assert b"".join(first) == b"".join(second)
        with Layers(await store.snapshots.image_lower(chain[1])) as layers:
            found = set(changes(upper, layers))
    finally:
        os.close(upper)
    assert {
        (ADDED, b"/usr/added"),
        (ADDED, b"/usr/hard"),
        (DELETED, b"/old/b"),
        (MODIFIED, b"/usr"),
        (MODIFIED, b"/old"),
        (ADDED, b"/pipe"),
    } <= found
    # What every container has mounted lies below the writable layer: it shows, and is no part of the diff.
    assert not any(b"dev" in path or b"etc" in path for _, path in found)
    look = "find . | grep -Ev '^./([.]dockerenv|dev|etc|proc|sys)' | sort; stat -c '%a %u' usr pipe"
    seen = in_overlay(await store.snapshots.container_mount("c1", readonly=True), look)
    committed = b"".join(first)
    diff_id = "sha256:" + hashlib.sha256(committed).hexdigest()
    whole = list(chain_ids([*["sha256:" + hashlib.sha256(data).hexdigest() for data in (BASE, UPPER)], diff_id]))
    async with store.leases.hold("test") as lease:
        slot = await store.snapshots.prepare_layer(lease, whole[2], whole[1], diff_id)
        assert slot is not None
        async with slot:
            await slot.commit(await store._unpack(committed, slot.fs))
    assert in_overlay(await store.snapshots.image_mount(whole[2]), look) == seen
    await store.snapshots.remove_container("c1")
    await store.snapshots.remove_container("c1")
    with pytest.raises(NoSuchSnapshot):
        await store.snapshots.container_mount("c1")


async def test_places_for_what_every_container_has_mounted(store: Store) -> None:
    """The image's own directories keep owner, mode and times; what it has already, or as a link, is left alone."""
    [chain] = await store.layers(tar(
        directory(b"etc", mode=0o700, uid=5, mtime=SECOND), file(b"etc/hosts", b"own"), file(b"sys", b"a file"),
        symlink(b"dev", b"etc")))
    mount = await store.snapshots.create_container(None, "c1", chain)
    shown = in_overlay(mount, "find . | sort; stat -c '%a %u %Y' etc; cat etc/hosts; readlink etc/mtab; "
                              "stat -c %a .dockerenv")
    assert shown.splitlines() == [
        ".", "./.dockerenv", "./dev", "./etc", "./etc/hostname", "./etc/hosts", "./etc/mtab", "./etc/resolv.conf",
        "./proc", "./sys", "700 5 1", "own/proc/mounts", "755"]
    assert os.listdir(await store.snapshots.container_upper("c1")) == []


async def test_the_root_is_open_to_everybody(store: Store) -> None:
    """As with dockerd, whatever the archive says, which may come from a temporary directory: its owner counts."""
    [chain] = await store.layers(tar(directory(b".", mode=0o700, uid=5), file(b"f", b"x")))
    mount = await store.snapshots.create_container(None, "c1", chain)
    assert in_overlay(mount, "stat -c '%a %u' .") == "755 5\n"


async def test_container_without_image(store: Store) -> None:
    mount = await store.snapshots.create_container(None, "empty", None)
    assert in_overlay(mount, "echo hi > f; cat f") == "hi\n"


async def test_slots_are_exclusive_and_abortable(store: Store) -> None:
    async with store.leases.hold("test") as lease:
        slot = await store.snapshots.prepare_layer(lease, "sha256:c", None, "sha256:d")
        assert slot is not None
        second = asyncio.ensure_future(store.snapshots.prepare_layer(lease, "sha256:c", None, "sha256:d"))
        await asyncio.sleep(0)
        assert not second.done()
        with pytest.raises(DiffIdMismatch):
            await slot.commit(UnpackResult(diff_id="sha256:other"))
        await slot.abort()
        again = await second
        assert again is not None and not os.path.exists(slot.fs)
        await again.commit(UnpackResult(diff_id="sha256:d"))
        await again.abort()
        assert os.path.isdir(again.fs)
        assert await store.snapshots.prepare_layer(lease, "sha256:c", None, "sha256:d") is None
        orphan = await store.snapshots.prepare_layer(lease, "sha256:o", "sha256:none", "sha256:d")
        assert orphan is not None
        async with orphan:
            with pytest.raises(NoSuchSnapshot):
                await orphan.commit(UnpackResult(diff_id="sha256:d"))


async def test_link_to_nothing_is_refused(store: Store) -> None:
    with pytest.raises(NoLinkTarget, match="link usr/none usr/l: no such file or directory"):
        await store.layers(BASE, tar(hardlink(b"usr/l", b"usr/none")))
    with pytest.raises(NoLinkTarget):  # hidden by a layer in between
        await store.layers(tar(file(b"f", b"1")), tar(file(b".wh.f")), tar(hardlink(b"l", b"f")))
    assert await store.db.read(lambda c: c.execute("SELECT count(*) FROM snapshots").fetchone()[0]) == 0


async def test_collection_and_damage(store: Store) -> None:
    chain = await store.layers(BASE, UPPER)
    await store.snapshots.create_container(None, "c1", chain[1])
    report = await collect(store.db, store.content, store.snapshots)
    assert report.snapshots == []  # the container holds both
    lower = await store.snapshots.image_lower(chain[1])
    shutil.rmtree(os.path.dirname(lower[1]))
    found = {
        (item.kind, item.subject)
        for item in await check(store.layout, store.db, store.content, store.snapshots, repair=True)
    }
    assert found == {
        ("layer-missing", chain[0]),
        ("layer-orphaned", chain[1]),
        ("container-orphaned", "c1"),
    }
    await store.snapshots.wait_removed()
    assert not os.path.exists(lower[0])
    with pytest.raises((BrokenChain, NoSuchSnapshot)):
        await store.snapshots.container_mount("c1")
    assert await store.layers(BASE, UPPER) == chain  # unpacked again
    assert in_overlay(await store.snapshots.container_mount("c1"), "cat usr/new") == "new"
    await clean_up(store.layout, store.db, store.leases, store.snapshots)  # c1 is no recorded container
    report = await collect(store.db, store.content, store.snapshots)
    await store.snapshots.wait_removed()
    assert set(report.snapshots) == set(chain)
    assert os.listdir(store.layout.snapshots) == ["empty"]


async def test_lost_layer_directory_heals_by_preparing_again(store: Store) -> None:
    [chain_id] = await store.layers(BASE)
    [path] = await store.snapshots.image_lower(chain_id)
    shutil.rmtree(os.path.dirname(path))
    assert await store.layers(BASE) == [chain_id]


async def test_trees_that_resist_removal(store: Store) -> None:
    await store.snapshots.create_container(None, "deep", None)
    upper = await store.snapshots.container_upper("deep")
    fd = os.open(upper, os.O_RDONLY)
    for _ in range(3000):  # far past PATH_MAX and past the limit of descriptors of many hosts
        os.mkdir("d" * 50, 0o000, dir_fd=fd)
        deeper = os.open("d" * 50, os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = deeper
    os.close(os.open("leaf", os.O_CREAT | os.O_WRONLY, dir_fd=fd))
    os.symlink("/etc", "link", dir_fd=fd)
    os.close(fd)
    assert await store.snapshots.container_size("deep") == len("/etc")
    await store.snapshots.remove_container("deep")
    await store.snapshots.wait_removed()
    assert os.listdir(store.layout.snapshots) == ["empty"]


async def test_copy_up_takes_the_images_directory(store: Store, tmp_path: Path) -> None:
    [chain_id] = await store.layers(
        tar(
            directory(b"srv/", 0o2770, uid=33, gid=34, mtime=8 * SECOND),
            file(b"srv/a", b"a", 0o600, uid=1, mtime=2 * SECOND),
            hardlink(b"srv/b", b"srv/a"),
            directory(b"srv/sub/", 0o700),
            symlink(b"srv/sub/l", b"/etc/passwd"),
            Entry(b"srv/p", b"6", mode=0o622),
            symlink(b"host", b"../../../../etc"),
            symlink(b"way", b"/srv"),
            file(b"f", b""),
        )
    )
    mount = await store.snapshots.image_mount(chain_id)

    async def fill(name: str, path: str) -> tuple[int, Path]:
        volume = tmp_path / name
        volume.mkdir(exist_ok=True)
        return await copy_up(SubprocessWorkers(), mount.lower, path, str(volume)), volume

    copied, volume = await fill("one", "/way")
    assert (copied, sorted(os.listdir(volume))) == (5, ["a", "b", "p", "sub"])
    info = volume.stat()
    assert (stat.S_IMODE(info.st_mode), info.st_uid, info.st_gid, info.st_mtime) == (0o2770, 33, 34, 8)
    assert (volume / "a").stat().st_ino == (volume / "b").stat().st_ino
    assert ((volume / "a").stat().st_uid, (volume / "a").stat().st_mtime) == (1, 2)
    assert os.readlink(volume / "sub/l") == "/etc/passwd"
    assert stat.S_ISFIFO((volume / "p").stat().st_mode)
    assert (await fill("one", "/way"))[0] == 0  # it has content already
    for path in ("/host", "/none", "/f", "/f/x"):  # the first is a directory of the host, not of the image
        assert (await fill("two", path))[0] == 0, path
    assert os.listdir(tmp_path / "two") == []


@pytest.mark.parametrize("turns", range(12))
async def test_cancelled_callers_leave_no_row_without_files(store: Store, turns: int) -> None:
    """Cancel after so many turns of the loop: whatever was reached by then, the rules of the data root hold."""

    async def work() -> None:
        async with store.leases.hold("test") as lease:
            slot = await store.snapshots.prepare_layer(lease, "sha256:c", None, "sha256:d")
            assert slot is not None
            async with slot:
                await slot.commit(UnpackResult(diff_id="sha256:d"))
            await store.snapshots.create_container(lease, "c1", "sha256:c")

    task = asyncio.ensure_future(work())
    for _ in range(turns):
        await asyncio.sleep(0)
        await store.db.read(lambda c: None)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await store.snapshots.wait_removed()
    assert await check(store.layout, store.db, store.content, store.snapshots, repair=False) == []
    assert await store.db.read(lambda c: c.execute("SELECT count(*) FROM leases").fetchone()[0]) == 0


class DeadWorkers:
    async def run(self, kind: str, request: bytes, fds: object) -> bytes:
        raise WorkerDied(kind=kind, status=-9, detail="killed")


@pytest.mark.parametrize("workers", [SubprocessWorkers(), DeadWorkers()])
async def test_layers_are_deleted_by_a_worker_or_without_it(store: Store, workers: Workers) -> None:
    await store.layers(BASE, UPPER)
    store.snapshots.removals.workers = workers
    report = await collect(store.db, store.content, store.snapshots)
    await store.snapshots.wait_removed()
    assert len(report.snapshots) == 2
    assert os.listdir(store.snapshots.root) == ["empty"]
