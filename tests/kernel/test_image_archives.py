"""Archives of images: ours and those of other tools, in both directions, and those of an attacker."""

from __future__ import annotations

import asyncio
import bz2
import gzip
import io
import json
import tarfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from barque.errors import BarqueError
from barque.image.imports import Importer, ImportRequest
from barque.image.load import Loader
from barque.image.progress import Progress
from barque.image.save import MissingLayer, Saver
from barque.oci import media_types as mt
from barque.oci.image import RunConfig
from barque.oci.platform import Platform
from barque.oci.reference import parse
from barque.store.workers import SubprocessWorkers
from tests.image_world import SmallImage, World, digest, make_image, make_index, tar_of, world

IMAGE = make_image({"a": b"x" * 1000}, {"b": b"y" * 500}, Labels={"k": "v"})
ARM = make_image({"a": b"arm"}, architecture="arm64")


async def keep(here: World, image: SmallImage, *names: str, index: bytes = b"") -> None:
    """Load ``image`` from a hand-made OCI layout."""
    await load(here, layout_of(image, names, index))


def archive_of(files: dict[str, bytes], links: dict[str, str] | None = None) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
        for name, target in (links or {}).items():
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname = tarfile.SYMTYPE, target
            archive.addfile(entry)
    return buffer.getvalue()


def blobs_of(*blobs: bytes) -> dict[str, bytes]:
    return {f"blobs/sha256/{digest(blob)[7:]}": blob for blob in blobs}


def layout_of(image: SmallImage, names: tuple[str, ...] | list[str] = (), index: bytes = b"") -> bytes:
    top, kind = (index, mt.OCI_INDEX) if index else (image.manifest, mt.OCI_MANIFEST)
    entry: dict[str, Any] = {"mediaType": kind, "digest": digest(top), "size": len(top)}
    entries = [{**entry, "annotations": {"io.containerd.image.name": name}} for name in names] or [entry]
    files = blobs_of(image.manifest, image.config, *image.layers, *([index] if index else []))
    return archive_of({"index.json": json.dumps({"schemaVersion": 2, "manifests": entries}).encode(),
                       "oci-layout": b'{"imageLayoutVersion":"1.0.0"}', **files})


def docker_archive_of(image: SmallImage, names: list[str] | None) -> tuple[dict[str, bytes], dict[str, str]]:
    """As docker before 25 wrote it: plain layers in directories, and a link for one that is there twice."""
    plain = [gzip.decompress(layer) for layer in image.layers]
    files = {"config.json": image.config}
    files |= {f"layer{number}/layer.tar": data for number, data in enumerate(plain)}
    links = {"again/layer.tar": f"../layer{len(plain) - 1}/layer.tar"}
    layers = [f"layer{number}/layer.tar" for number in range(len(plain) - 1)] + ["again/layer.tar"]
    files["manifest.json"] = json.dumps([{"Config": "config.json", "RepoTags": names, "Layers": layers}]).encode()
    return files, links


async def pieces_of(data: bytes, size: int = 70_000) -> AsyncIterator[bytes]:
    for start in range(0, len(data), size):
        yield data[start:start + size]


async def load(here: World, archive: bytes, platform: Platform | None = None) -> list[Progress]:
    lines: list[Progress] = []
    loader = Loader(here.content, here.snapshots, here.leases, here.names, SubprocessWorkers(), here.slots)
    await loader.load(pieces_of(archive), [platform] if platform else [], lines.append)
    return lines


async def save(here: World, *texts: str) -> bytes:
    saver = Saver(here.content, here.images, here.names)
    archive = await saver.plan(texts)
    data = b"".join([piece async for piece in saver.stream(archive)])
    assert len(data) == archive.length
    return data


@pytest.fixture
async def here(tmp_path: Path) -> AsyncIterator[World]:
    async with world(tmp_path / "one") as found:
        yield found


async def test_the_very_same_image_comes_back(here: World, tmp_path: Path) -> None:
    await keep(here, IMAGE, "docker.io/library/app:1", "docker.io/library/app:2", "localhost:5000/other:x")
    archive = await save(here, "app", "localhost:5000/other:x")
    assert archive == await save(here, "app", "localhost:5000/other:x"), "the same images make the same archive"
    async with world(tmp_path / "two") as there:
        lines = await load(there, archive)
        assert [line.stream for line in lines if line.stream] == [
            "Loaded image: app:1\n", "Loaded image: app:2\n", "Loaded image: localhost:5000/other:x\n"]
        image = await there.images.resolve("app:2")
        assert image.id == IMAGE.id and image.target.digest == digest(IMAGE.manifest)
        top, _ = await there.snapshots.image_lower(image.chain_id)
        assert Path(top, "b").read_bytes() == b"y" * 500
        await load(there, archive)  # once more changes nothing
        assert len(await there.content.walk()) == len(IMAGE.blobs) + 1


async def test_an_image_without_names_is_saved_and_loaded_by_id(here: World, tmp_path: Path) -> None:
    lines = await load(here, layout_of(IMAGE))
    assert lines[-1].stream == f"Loaded image ID: {IMAGE.id}\n"
    async with world(tmp_path / "two") as there:
        await load(there, await save(here, IMAGE.id[7:19]))
        assert (await there.images.resolve(IMAGE.id)).repo_tags == []


async def test_an_index_stays_whole(here: World, tmp_path: Path) -> None:
    """The index is kept beside the image chosen from it, survives collections, and goes with the last name."""
    index = make_index({"amd64": IMAGE, "arm64": ARM})
    await keep(here, IMAGE, "docker.io/library/app:1", index=index)
    await here.collect()
    assert await here.content.info(digest(index)) is not None
    async with world(tmp_path / "two") as there:
        await load(there, await save(here, "app:1"))
        assert await there.content.read(digest(index), 1 << 20) == index
        with pytest.raises(BarqueError, match="no image for linux/arm64"):
            await load(there, await save(here, "app:1"), Platform(os="linux", architecture="arm64"))
    await here.names.remove_image(IMAGE.id)
    await here.assert_empty()


@pytest.mark.parametrize("squeeze", [bytes, gzip.compress, bz2.compress])
async def test_archives_of_old_dockers(here: World, squeeze: Any) -> None:
    files, links = docker_archive_of(IMAGE, ["app:1", "registry.example.com/app:2"])
    lines = await load(here, squeeze(archive_of(files, links)))
    assert [line.stream for line in lines if line.stream] == ["Loaded image: app:1\n",
                                                              "Loaded image: registry.example.com/app:2\n"]
    image = await here.images.resolve("app:1")
    assert image.id == IMAGE.id
    assert [layer.media_type for layer in image.manifest.layers] == [mt.OCI_LAYER, mt.OCI_LAYER]


async def test_a_name_that_moves_is_told(here: World) -> None:
    await keep(here, ARM, "docker.io/library/app:1")
    lines = await load(here, layout_of(IMAGE, ["docker.io/library/app:1"]))
    assert lines[-2].stream == (f"The image app:1 already exists, renaming the old one with ID {ARM.id} "
                                "to empty string\n")
    assert (await here.images.resolve(ARM.id)).repo_tags == []


@pytest.mark.parametrize("kind", ["docker-archive", "oci-archive"])
async def test_exchange_with_skopeo(here: World, tmp_path: Path, kind: str) -> None:
    """Both directions, through another tool's eyes."""
    await keep(here, IMAGE, "docker.io/library/app:1")
    mine, theirs = tmp_path / "mine.tar", tmp_path / "theirs.tar"
    mine.write_bytes(await save(here, "app:1"))
    source = f"{kind}:{mine}:" + ("docker.io/library/app:1" if kind == "docker-archive" else "1")
    copied = await asyncio.create_subprocess_exec("skopeo", "copy", "-q", source,
                                                  f"{kind}:{theirs}:docker.io/library/copied:2")
    assert await copied.wait() == 0
    async with world(tmp_path / "two") as there:
        await load(there, theirs.read_bytes())
        image = await there.images.resolve("copied:2")
        assert image.config.rootfs.diff_ids == (await here.images.resolve("app:1")).config.rootfs.diff_ids
        assert image.config.config is not None and image.config.config.labels == {"k": "v"}


async def test_saving_needs_the_blobs(here: World) -> None:
    await keep(here, IMAGE, "docker.io/library/app:1")
    await here.content.delete(digest(IMAGE.layers[0]))
    with pytest.raises(MissingLayer, match="pull or load the image again"):
        await save(here, "app:1")


def spoilt() -> dict[str, tuple[bytes, str]]:
    files, links = docker_archive_of(IMAGE, ["app:1"])
    whole = layout_of(IMAGE, ["docker.io/library/app:1"])
    blob = f"blobs/sha256/{digest(IMAGE.layers[0])[7:]}"
    broken = json.loads(IMAGE.config)
    broken["rootfs"]["diff_ids"][0] = "sha256:" + "0" * 64
    wrong = json.dumps(broken).encode()
    return {
        "nothing": (archive_of({"readme": b"hi"}), "does not contain a manifest.json"),
        "empty": (b"", "does not contain a manifest.json"),
        "truncated": (whole[:len(whole) // 2], "unexpected EOF"),
        "no layer": (archive_of(files), "again/layer.tar is missing"),
        "link loop": (archive_of(files, {"again/layer.tar": "x", "again/x": "layer.tar"}), "layer.tar is missing"),
        "link out": (archive_of(files, {"again/layer.tar": "../../../etc/passwd"}), "again/layer.tar is missing"),
        "outside": (archive_of({"../../x": b"evil", **files}, links), "outside"),
        "wrong bytes": (archive_of({**dict.fromkeys([blob], b"other")}), "has the digest"),
        "bad name": (archive_of(docker_archive_of(IMAGE, ["UPPER"])[0], links), "is no image name"),
        "wrong diff id": (archive_of({**files, "config.json": wrong}, links),
                          "layers from manifest don't match image configuration"),
        "no list": (archive_of({**files, "manifest.json": b'{"a": 1}'}, links), "Expected `array`"),
        "xz layer": (archive_of({**files, "layer0/layer.tar": b"\xfd7zXZ\0" + bytes(600)}, links), "with xz"),
    }


@pytest.mark.parametrize("name", spoilt())
async def test_bad_archives_leave_nothing(here: World, name: str) -> None:
    archive, text = spoilt()[name]
    with pytest.raises(BarqueError, match=text):
        await load(here, archive)
    await here.assert_empty()
    assert list((here.root / "content/ingest").iterdir()) == []


async def test_a_client_that_goes_away_leaves_nothing(here: World) -> None:
    reached = asyncio.Event()

    async def stalling() -> AsyncIterator[bytes]:
        yield layout_of(IMAGE)[:3000]
        reached.set()
        await asyncio.Event().wait()

    loader = Loader(here.content, here.snapshots, here.leases, here.names, SubprocessWorkers(), here.slots)
    loading = asyncio.ensure_future(loader.load(stalling(), [], lambda _: None))
    await reached.wait()
    loading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await loading
    await here.assert_empty()
    assert list((here.root / "content/ingest").iterdir()) == []


@pytest.mark.parametrize("squeeze", [bytes, gzip.compress, bz2.compress])
async def test_imports_are_the_same_however_compressed(here: World, squeeze: Any) -> None:
    importer = Importer(here.made, here.snapshots, lambda run, changes: RunConfig(user=",".join(changes)))
    archive = tar_of({"etc/motd": b"hello"})
    request = ImportRequest(parse("made:1"), changes=("USER x",), platform=Platform(os="linux", architecture="arm64"))
    image_id = await importer.bring_in(request, pieces_of(squeeze(archive)))
    image = await here.images.resolve("made:1")
    assert image.id == image_id and image.config.architecture == "arm64"
    assert image.config.rootfs.diff_ids == (digest(archive),)
    assert image.config.config is not None and image.config.config.user == "USER x"
    assert image.config.history is not None and image.config.history[0].comment == "Imported from -"
    [directory] = await here.snapshots.image_lower(image.chain_id)
    assert Path(directory, "etc/motd").read_bytes() == b"hello"


async def test_an_import_of_nonsense_leaves_nothing(here: World) -> None:
    importer = Importer(here.made, here.snapshots, lambda run, changes: run)
    for data in (b"", b"not a tar" * 200, gzip.compress(tar_of({"a": b"x" * 9000}))[:-20]):
        with pytest.raises(BarqueError):
            await importer.bring_in(ImportRequest(parse("made:1")), pieces_of(data))
    await here.assert_empty()
