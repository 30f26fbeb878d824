"""docker's command line makes images of containers and archives, and takes them to and fro."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.engine_world import EngineWorld, engine_world


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EngineWorld]:
    with engine_world(tmp_path_factory.mktemp("images")) as made:
        yield made


def test_commit_of_a_running_container(world: EngineWorld) -> None:
    world.ok("run", "-d", "--name", "made", "-e", "A=1", "-w", "/data", "busybox", "sleep", "1000")
    world.ok("exec", "made", "sh", "-c", "echo new > /data/new; rm /data/from-image")
    image_id = world.ok("commit", "-a", "me", "-m", "why", "made", "committed:1")
    assert world.ok("inspect", "-f", "{{.State.Status}}", "made") == "running"
    image = json.loads(world.ok("image", "inspect", "committed:1"))[0]
    assert image["Id"] == image_id and image["Author"] == "me" and image["Comment"] == "why"
    assert len(image["RootFS"]["Layers"]) == 2 and image["Config"]["Cmd"] == ["sleep", "1000"]
    assert world.ok("run", "--rm", "committed:1", "sh", "-c", "cat new; ls; echo $A") == "new\nnew\n1"
    world.ok("rm", "-f", "made")


def test_save_and_load(world: EngineWorld, tmp_path: Path) -> None:
    world.ok("run", "--name", "short", "busybox", "touch", "/mark")
    world.ok("commit", "short", "kept:1")
    world.ok("rm", "short")
    before = world.ok("images", "-q", "--no-trunc", "kept")
    world.ok("save", "-o", str(tmp_path / "kept.tar"), "kept:1", "busybox")
    with tarfile.open(tmp_path / "kept.tar") as archive:
        assert {"index.json", "manifest.json", "oci-layout"} <= set(archive.getnames())
    world.ok("rmi", "kept:1")
    assert "Loaded image: kept:1" in world.ok("load", "-i", str(tmp_path / "kept.tar"))
    assert world.ok("images", "-q", "--no-trunc", "kept") == before
    assert world.ok("run", "--rm", "kept:1", "ls", "/mark") == "/mark"


def test_import(world: EngineWorld, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "root.tar.bz2", "w:bz2") as archive:
        busybox = archive.gettarinfo("/bin/busybox", "bin/sh")
        with Path("/bin/busybox").open("rb") as file:
            archive.addfile(busybox, file)
    image_id = world.ok("import", "-m", "by hand", str(tmp_path / "root.tar.bz2"), "imported:1")
    assert world.ok("image", "inspect", "-f", "{{.Id}} {{.Comment}}", "imported:1") == f"{image_id} by hand"
    assert world.ok("run", "--rm", "imported:1", "/bin/sh", "-c", "echo runs") == "runs"


def test_errors(world: EngineWorld, tmp_path: Path) -> None:
    (tmp_path / "bad.tar").write_bytes(b"x" * 4096)
    for arguments, text in ((("save", "-o", str(tmp_path / "x"), "nope"), "No such image: nope:latest"),
                            (("load", "-i", str(tmp_path / "bad.tar")), "invalid archive"),
                            (("commit", "nope"), "No such container: nope"),
                            (("import", "-c", "RUN x", str(tmp_path / "bad.tar")), "is not a valid change command")):
        done = world.docker(*arguments)
        assert done.code == 1 and text in done.err
