"""The daemon dies at each named point of storing a blob, a layer and a container: nothing torn, and a retry heals."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from barque.failpoints import arm
from barque.oci.digest import Digest
from barque.store.boot import clean_up
from barque.store.content import ContentStore
from barque.store.db import Database
from barque.store.fsck import check
from barque.store.gc import collect
from barque.store.layout import Layout
from barque.store.leases import Leases
from barque.store.snapshots import Snapshots
from barque.store.tar.messages import UnpackResult

BLOB_POINTS = [
    "content.write",
    "content.before-fsync",
    "content.before-rename",
    "content.before-fsync-dir",
    "content.before-row",
]
LAYER_POINTS = ["snapshots.mend", "snapshots.before-sync", "snapshots.before-row", "snapshots.after-row"]
SETTLE_POINTS = ["snapshots.before-settle"]
OTHER_POINTS = ["snapshots.container", "snapshots.row-deleted", "snapshots.promote.synced", "gc.swept"]
DATA = b"layer" * 1000
DIGEST = Digest.of(DATA)


async def job(root: str) -> None:
    """A blob, a layer with a file, a container made and removed, one that becomes a layer, and a collection that takes
    what is left.
    """
    layout = Layout.open(root)
    db = await Database.open(layout.database)
    content, snapshots, leases = ContentStore(layout, db), Snapshots(layout, db), Leases(db)
    await clean_up(layout, db, leases, snapshots)
    async with leases.hold("job") as lease:
        descriptor = await content.put(lease, "text/plain", DATA)
        assert await content.read(descriptor.digest, 1 << 20) == DATA
        slot = await snapshots.prepare_layer(lease, "sha256:chain", None, "sha256:diff")
        if slot is not None:
            async with slot:
                Path(slot.fs, "file").write_bytes(DATA)
                result = UnpackResult(diff_id="sha256:diff", size=len(DATA))
                await snapshots.commit([(slot, result)], stored=True)
                await snapshots.settler.wait()  # before the collection below takes what is to be settled
        [directory] = await snapshots.image_lower("sha256:chain")
        assert Path(directory, "file").read_bytes() == DATA
        await snapshots.create_container(lease, "c1", "sha256:chain")
        await snapshots.remove_container("c1")
        changed = await snapshots.create_container(lease, "c2", "sha256:chain")
        Path(changed.upper, "more").write_bytes(DATA)
        await snapshots.promote(lease, "c2", "sha256:more", "sha256:diff2", len(DATA))
        assert [Path(directory, "more").exists() for directory in await snapshots.image_lower("sha256:more")] == [
            True, False]
    await collect(db, content, snapshots)
    await snapshots.wait_removed()
    await snapshots.settler.wait()
    await db.close()
    layout.close()


async def look(root: str) -> list[str]:
    """What is damaged after the clean-up of boot."""
    layout = Layout.open(root)
    db = await Database.open(layout.database)
    content, snapshots = ContentStore(layout, db), Snapshots(layout, db)
    await clean_up(layout, db, Leases(db), snapshots)
    await snapshots.wait_removed()
    found = await check(layout, db, content, snapshots, repair=False)
    await db.close()
    layout.close()
    return [f"{item.kind} {item.subject}" for item in found]


@pytest.mark.parametrize("point", BLOB_POINTS + LAYER_POINTS + SETTLE_POINTS + OTHER_POINTS)
def test_death_at_a_point(tmp_path: Path, point: str) -> None:
    root = str(tmp_path / "root")
    died = subprocess.run(
        [sys.executable, __file__, root, f"{point}=kill"], capture_output=True, text=True, check=False
    )
    assert died.returncode == -signal.SIGKILL, died.stderr
    assert asyncio.run(look(root)) == []
    asyncio.run(job(root))
    assert asyncio.run(look(root)) == []
    assert sorted(os.listdir(tmp_path / "root/snapshots")) == ["empty"]
    assert os.listdir(tmp_path / "root/content/blobs/sha256") == []


@pytest.mark.parametrize("point", BLOB_POINTS + LAYER_POINTS + ["snapshots.container"])
def test_failure_at_a_point(tmp_path: Path, point: str) -> None:
    root = str(tmp_path / "root")
    failed = subprocess.run(
        [sys.executable, __file__, root, f"{point}=error"], capture_output=True, text=True, check=False
    )
    assert failed.returncode == 1 and f"failpoint {point}" in failed.stderr, failed.stderr
    asyncio.run(job(root))
    assert asyncio.run(look(root)) == []


if __name__ == "__main__":
    arm(sys.argv[2])
    asyncio.run(job(sys.argv[1]))
