"""``docker cp``, ``export`` and ``diff`` by docker's own client; and containers that try to lead them astray."""

from __future__ import annotations

import io
import os
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.engine_world import PATIENCE, EngineWorld, engine_world


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EngineWorld]:
    with engine_world(tmp_path_factory.mktemp("copy")) as made:
        yield made


@pytest.fixture(params=["running", "created"])
def box(world: EngineWorld, request: pytest.FixtureRequest) -> Iterator[str]:
    """A container with a volume and a read-only bind mount, in both states."""
    options = ["--name", "box", "-v", "boxed:/vol", "-v", "/etc:/host:ro", "-u", "bob", "busybox", "sleep", "1000"]
    world.ok(*(["run", "-d"] if request.param == "running" else ["create"]), *options)
    yield "box"
    world.ok("rm", "-f", "-v", "box")
    world.ok("volume", "rm", "boxed")


def archive(world: EngineWorld, *arguments: str) -> tarfile.TarFile:
    done = subprocess.run(["docker", *arguments], env=world.environment(), capture_output=True, check=True,
                          timeout=PATIENCE)
    return tarfile.open(fileobj=io.BytesIO(done.stdout))


def test_files_go_in_and_out(world: EngineWorld, box: str, tmp_path: Path) -> None:
    (tmp_path / "dir" / "sub").mkdir(parents=True)
    (tmp_path / "dir" / "sub" / "file").write_text("content")
    (tmp_path / "dir" / "link").symlink_to("sub/file")
    os.chmod(tmp_path / "dir" / "sub" / "file", 0o750)
    world.ok("cp", f"{tmp_path}/dir", f"{box}:/tmp/new")
    world.ok("cp", f"{tmp_path}/dir/sub/file", f"{box}:/vol")
    world.ok("cp", f"{tmp_path}/dir/.", f"{box}:/home")
    world.ok("cp", f"{box}:/tmp/new", f"{tmp_path}/back")
    assert (tmp_path / "back" / "sub" / "file").read_text() == "content"
    assert (tmp_path / "back" / "sub" / "file").stat().st_mode & 0o777 == 0o750
    assert os.readlink(tmp_path / "back" / "link") == "sub/file"
    world.ok("cp", "-L", f"{box}:/tmp/new/link", f"{tmp_path}/followed")
    assert (tmp_path / "followed").read_text() == "content"
    world.ok("cp", f"{box}:/vol/file", f"{tmp_path}/volume")
    world.ok("cp", f"{box}:/home/sub", f"{tmp_path}")
    assert (tmp_path / "sub" / "file").exists()
    with archive(world, "cp", f"{box}:/data/.", "-") as found:
        assert [entry.name for entry in found] == [".", "./from-image"]
    with archive(world, "cp", f"{box}:/etc/passwd", "-") as found:
        assert [(entry.name, entry.uid) for entry in found] == [("passwd", 0)]


def test_owners(world: EngineWorld, box: str, tmp_path: Path) -> None:
    """``-a`` makes the container's user the owner."""
    (tmp_path / "file").write_text("x")
    world.ok("cp", "-a", f"{tmp_path}/file", f"{box}:/tmp/archived")
    world.ok("cp", f"{tmp_path}/file", f"{box}:/tmp/plain")
    for name, owner in (("archived", 1000), ("plain", os.getuid())):
        with archive(world, "cp", f"{box}:/tmp/{name}", "-") as found:
            assert next(iter(found)).uid == owner


def test_what_is_there_is_overwritten(world: EngineWorld, box: str, tmp_path: Path) -> None:
    (tmp_path / "in" / "sub").mkdir(parents=True)
    (tmp_path / "in" / "link").symlink_to("file")
    for text, target in (("first", "file"), ("second", "file"), ("third", "link")):
        (tmp_path / "in" / "sub" / "deep").write_text(text)
        world.ok("cp", f"{tmp_path}/in", f"{box}:/tmp")
        (tmp_path / "file").write_text(text)
        world.ok("cp", f"{tmp_path}/file", f"{box}:/tmp/in/{target}")
        world.ok("cp", f"{box}:/tmp/in", f"{tmp_path}/{text}")
        assert (tmp_path / text / "sub" / "deep").read_text() == (tmp_path / text / "file").read_text() == text
        assert os.readlink(tmp_path / text / "link") == "file"
    (tmp_path / "in" / "file").mkdir()
    done = world.docker("cp", f"{tmp_path}/in", f"{box}:/tmp")
    assert (done.code, "cannot overwrite non-directory" in done.err) == (1, True), done
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "sub").write_text("no directory")
    done = world.docker("cp", f"{tmp_path}/other/.", f"{box}:/tmp/in")
    assert (done.code, "cannot overwrite directory" in done.err) == (1, True), done


def test_what_cannot_be_copied(world: EngineWorld, box: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "from-image").mkdir()
    for arguments, text in (
            ((f"{box}:/nosuch", str(tmp_path)), f"Could not find the file /nosuch in container {box}"),
            ((f"{box}:/etc/passwd/x", str(tmp_path)), "Could not find the file"),
            ((f"{tmp_path}/file", f"{box}:/nosuch/dir/"), "no such directory"),
            ((f"{tmp_path}/file", f"{box}:/host/x"), "mounted volume is marked read-only"),
            ((f"{tmp_path}/from-image", f"{box}:/data"), "cannot overwrite non-directory"),
            (("nosuch:/x", str(tmp_path)), "No such container: nosuch")):
        done = world.docker("cp", *arguments)
        assert done.code == 1
        assert text in done.err
    done = world.docker("cp", "-", f"{box}:/tmp", stdin="no archive at all" * 100)
    assert done.code == 1


def test_read_only_container(world: EngineWorld, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    world.ok("run", "-d", "--name", "ro", "--read-only", "-v", "/v", "busybox", "sleep", "1000")
    assert "container rootfs is marked read-only" in world.docker("cp", f"{tmp_path}/file", "ro:/tmp").err
    world.ok("cp", f"{tmp_path}/file", "ro:/v")
    assert world.ok("exec", "ro", "cat", "/v/file") == "x"
    world.ok("rm", "-f", "-v", "ro")


LEAD_ASTRAY = """
mkdir /tmp/real; echo inside > /tmp/real/passwd; ln -s /tmp/real /tmp/swap; touch /tmp/ready
while :; do rm /tmp/swap; ln -s / /tmp/swap; rm /tmp/swap; ln -s /tmp/real /tmp/swap; done
"""


def test_a_container_that_swaps_links_reaches_nothing_outside(world: EngineWorld, tmp_path: Path) -> None:
    """CVE-2018-15664: resolved in the container's own root, whatever it swaps meanwhile."""
    world.ok("run", "-d", "--name", "swap", "busybox", "sh", "-c", LEAD_ASTRAY)
    world.ok("exec", "swap", "sh", "-c", "until test -e /tmp/ready; do sleep 0.1; done")
    marker = tmp_path / "barque-was-here"
    marker.write_text("x")
    for _ in range(10):
        world.docker("cp", f"{marker}", "swap:/tmp/swap/")
        done = subprocess.run(["docker", "cp", "swap:/tmp/swap/passwd", "-"], env=world.environment(),
                              capture_output=True, check=False, timeout=PATIENCE)
        if done.returncode == 0:
            with tarfile.open(fileobj=io.BytesIO(done.stdout)) as found:
                member = found.extractfile(next(iter(found)))
                assert member is not None
                assert member.read() == b"inside\n"
    assert not Path("/barque-was-here").exists()
    world.ok("rm", "-f", "swap")


def test_links_to_outside_and_special_files(world: EngineWorld, tmp_path: Path) -> None:
    world.ok("run", "-d", "--name", "odd", "busybox", "sh", "-c",
             "ln -s /etc/shadow /tmp/abs; ln -s ../../../../etc/shadow /tmp/rel; mkfifo /tmp/fifo; "
             "mkdir /tmp/d; echo f > /tmp/d/f; ln /tmp/d/f /tmp/d/g; touch /tmp/ready; exec sleep 1000")
    world.ok("exec", "odd", "sh", "-c", "until test -e /tmp/ready; do sleep 0.1; done")
    for name in ("abs", "rel"):
        done = world.docker("cp", "-L", f"odd:/tmp/{name}", f"{tmp_path}/{name}")
        assert done.code == 1
        assert not (tmp_path / name).exists()
    with archive(world, "cp", "odd:/tmp/.", "-") as found:
        kinds = {entry.name: entry.type for entry in found}
    assert kinds["./fifo"] == tarfile.FIFOTYPE
    assert kinds["./d/g"] == tarfile.LNKTYPE
    with archive(world, "cp", "odd:/", "-") as found:
        names = {entry.name.lstrip("/") for entry in found}
    assert "bin/busybox" in names
    assert not any(name.startswith("proc/") for name in names)
    world.ok("rm", "-f", "odd")


def test_export_and_diff(world: EngineWorld) -> None:
    world.ok("run", "-d", "--name", "changed", "-v", "/vol", "busybox", "sh", "-c",
             "echo new > /new; rm /data/from-image; echo more >> /etc/passwd; mkdir /dir; touch /dir/f /vol/x; "
             "touch /tmp/ready; exec sleep 1000")
    world.ok("exec", "changed", "sh", "-c", "until test -e /tmp/ready; do sleep 0.1; done")
    lines = set(world.ok("diff", "changed").split("\n"))
    assert {"A /new", "D /data/from-image", "C /data", "C /etc", "C /etc/passwd", "A /dir", "A /dir/f"} <= lines
    for state in ("running", "stopped"):
        if state == "stopped":
            world.ok("stop", "-t", "0", "changed")
        with archive(world, "export", "changed") as found:
            names = {entry.name for entry in found}
        assert {"new", "dir/f", "bin/busybox", "etc/passwd"} <= names
        assert "data/from-image" not in names
        assert "vol/x" not in names
        assert not any(name.startswith(("proc/", "sys/")) for name in names)
    world.ok("rm", "-v", "changed")


def test_commit(world: EngineWorld) -> None:
    world.ok("run", "-d", "--name", "source", "-e", "A=1", "-w", "/tmp", "busybox", "sh", "-c",
             "echo kept > /kept; rm /data/from-image; touch /tmp/ready; exec sleep 1000")
    world.ok("exec", "source", "sh", "-c", "until test -e /tmp/ready; do sleep 0.1; done")
    made = world.ok("commit", "-a", "me", "-m", "why", "-c", "CMD cat /kept", "-c", "ENV B=2", "-c", "EXPOSE 80",
                    "-c", "WORKDIR sub", "source", "committed:1")
    assert world.inspect("source", "{{.State.Status}}") == "running"
    assert world.inspect("committed:1", "{{.Id}} {{.Author}} {{.Comment}}") == f"{made} me why"
    assert world.inspect("committed:1", "{{.Config.Env}} {{.Config.ExposedPorts}} {{.Config.WorkingDir}}"
                         ) == "[A=1 PATH=/bin B=2] map[80/tcp:{}] /tmp/sub"
    assert world.inspect("committed:1", "{{.Parent}}") == world.inspect("source", "{{.Image}}")
    assert world.ok("run", "--rm", "committed:1") == "kept"
    assert world.docker("run", "--rm", "committed:1", "test", "-e", "/data/from-image").code == 1
    assert "why" in world.ok("history", "committed:1")
    assert "is not a valid change command" in world.docker("commit", "-c", "RUN x", "source").err
    assert "No such container: nosuch" in world.docker("commit", "nosuch").err
    world.ok("rm", "-f", "source")
    unnamed = world.ok("commit", world.ok("create", "busybox"))
    assert world.ok("images", "-q", "--no-trunc", "--filter", "dangling=true") == unnamed
    world.ok("rm", *world.ok("ps", "-aq").split())
    world.ok("rmi", "committed:1", unnamed)
