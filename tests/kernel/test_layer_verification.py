"""Each way in which a file of an unpacked layer can be damaged is found, named and mended from the layer's blob."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from barque.oci import media_types
from barque.oci.image import chain_ids
from barque.store.content import ContentStore
from barque.store.db import Database
from barque.store.fsck import Damage, check
from barque.store.layout import Layout
from barque.store.leases import Leases
from barque.store.settling import boot_id
from barque.store.snapshots import Snapshots
from barque.store.tar.messages import UnpackRequest
from barque.store.verify import restore_torn
from barque.store.workers import SubprocessWorkers, unpack_layer
from tests.kernel.unpacking import directory, file, hardlink, symlink, tar

LAYERS = [
    tar(directory(b"bin/", 0o711), file(b"bin/tool", b"tool", 0o4755), symlink(b"link", b"bin"), file(b"gone", b"1")),
    tar(file(b"bin/extra", b"extra", xattrs={"user.k": b"v"}), hardlink(b"bin/hard", b"bin/tool"), file(b".wh.gone")),
]
DIFF_IDS = ["sha256:" + hashlib.sha256(layer).hexdigest() for layer in LAYERS]
CHAIN = list(chain_ids(DIFF_IDS))


class Image:
    """A stored and unpacked image of two layers."""

    def __init__(self, layout: Layout, db: Database) -> None:
        self.layout, self.db = layout, db
        self.content, self.snapshots = ContentStore(layout, db), Snapshots(layout, db)

    async def pull(self) -> None:
        async with Leases(self.db).hold("pull") as lease:
            layers = [await self.content.put(lease, media_types.OCI_LAYER, layer) for layer in LAYERS]
            config = await self.content.put(lease, media_types.OCI_CONFIG,
                                            json.dumps({"rootfs": {"diff_ids": DIFF_IDS}}).encode())
            document = {"config": {"digest": config.digest}, "layers": [{"digest": layer.digest} for layer in layers]}
            await self.content.put(lease, media_types.OCI_MANIFEST, json.dumps(document).encode())
            for index, chain_id in enumerate(CHAIN):
                slot = await self.snapshots.prepare_layer(lease, chain_id, CHAIN[index - 1] if index else None,
                                                          DIFF_IDS[index])
                assert slot is not None
                with self.content.open(layers[index].digest) as blob:
                    await slot.commit(await unpack_layer(SubprocessWorkers(), blob.fileno(), slot.fs, UnpackRequest()))

    async def check(self, repair: bool) -> list[Damage]:
        found = await check(self.layout, self.db, self.content, self.snapshots, repair=repair,
                            workers=SubprocessWorkers())
        await self.snapshots.wait_removed()
        return found


@pytest.fixture
async def image(tmp_path: Path) -> AsyncIterator[Image]:
    layout = Layout.open(str(tmp_path))
    db = await Database.open(layout.database)
    image = Image(layout, db)
    await image.pull()
    yield image
    await db.close()
    layout.close()


def rewrite(path: Path) -> None:
    info = path.stat()
    path.write_bytes(b"fool")
    os.utime(path, ns=(info.st_atime_ns, info.st_mtime_ns))


DAMAGE: dict[str, tuple[int, str, Callable[[Path], None]]] = {
    "content": (0, "bin/tool", rewrite),
    "mode": (0, "bin/tool", lambda path: path.chmod(0o755)),
    "owner": (1, "bin/hard", lambda path: os.chown(path, 1, 1)),
    "attribute": (1, "bin/extra", lambda path: os.removexattr(path, "user.k")),
    "lost file": (1, "bin/extra", Path.unlink),
    "added file": (0, "bin/added", lambda path: path.write_bytes(b"")),
    "link": (0, "link", lambda path: (path.unlink(), path.symlink_to("/etc"))[0]),
    "lost whiteout": (1, "gone", Path.unlink),
    "inherited directory": (1, "bin", lambda path: path.chmod(0o777)),
}


@pytest.mark.parametrize("damage", DAMAGE)
async def test_damage_is_found_and_mended(image: Image, damage: str) -> None:
    index, name, spoil = DAMAGE[damage]
    spoil(Path((await image.snapshots.image_lower(CHAIN[index]))[0], name))
    detail = f"{name} is not as in the layer's blob"
    assert await image.check(repair=False) == [Damage("layer-corrupt", CHAIN[index], detail)]
    assert await image.check(repair=True) == [Damage("layer-corrupt", CHAIN[index], detail, True)]
    assert await image.check(repair=False) == []


async def unsynced(image: Image) -> list[str | None]:
    return await image.db.read(lambda connection: [row[0] for row in connection.execute(
        "SELECT unsynced FROM snapshots WHERE kind = 'layer' ORDER BY id")])


async def test_layers_are_settled_after_the_commit(image: Image) -> None:
    """A commit of stored layers returns before their sync; the mark of this boot goes with it."""
    await image.db.write(lambda connection: connection.execute("UPDATE snapshots SET unsynced = ?", (boot_id(),)))
    await restore_torn(image.db, image.content, image.snapshots, SubprocessWorkers())
    await image.snapshots.settler.wait()
    assert await unsynced(image) == [None, None]


async def test_a_power_cut_tears_only_what_is_unpacked_again(image: Image) -> None:
    """Layers with the mark of an earlier boot come back from their blobs, whatever became of their files."""
    await image.db.write(lambda connection: connection.execute("UPDATE snapshots SET unsynced = 'an earlier boot'"))
    directories = await image.snapshots.image_lower(CHAIN[1])
    for directory_ in directories:
        for path in Path(directory_).rglob("*"):
            if path.is_file() and not path.is_symlink():
                os.truncate(path, 0)
    await restore_torn(image.db, image.content, image.snapshots, SubprocessWorkers())
    assert await unsynced(image) == [None, None]
    assert await image.check(False) == []
    top, _ = await image.snapshots.image_lower(CHAIN[1])
    assert Path(top, "bin/extra").read_bytes() == b"extra"
    assert Path(top, "bin/hard").read_bytes() == b"tool"


async def test_a_torn_layer_without_its_blob_stays_marked(image: Image, caplog: pytest.LogCaptureFixture) -> None:
    await image.db.write(lambda connection: connection.execute("UPDATE snapshots SET unsynced = 'an earlier boot'"))
    for info in await image.content.walk():
        if info.media_type == media_types.OCI_LAYER:
            await image.content.delete(info.digest)
    await restore_torn(image.db, image.content, image.snapshots, SubprocessWorkers())
    assert await unsynced(image) == ["an earlier boot", "an earlier boot"]
    assert "pull its image again" in caplog.text
