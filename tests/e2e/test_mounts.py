"""``--mount`` beyond plain directories: images, parts of volumes, mapped owners, read-only trees."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from barque.engine.volume_mounts import mounted
from tests.e2e.engine_api import api
from tests.e2e.engine_world import PATIENCE, EngineWorld, barque, engine_world


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EngineWorld]:
    with engine_world(tmp_path_factory.mktemp("mounts")) as made:
        yield made


def test_image_as_a_mount(world: EngineWorld) -> None:
    mount = "type=image,source=busybox,target=/img"
    world.ok("run", "-d", "--name", "one", "--mount", mount, "busybox", "sleep", "1000")
    assert world.ok("exec", "one", "cat", "/img/data/from-image") == "image"
    assert "Read-only file system" in world.docker("exec", "one", "touch", "/img/x").err
    part = mount + ",image-subpath=data/from-image"
    assert world.ok("run", "--rm", "--mount", part, "busybox", "cat", "/img") == "image"
    point, = json.loads(world.inspect("one", "{{json .Mounts}}"))
    assert (point["Type"], point["Name"], point["RW"], mounted(point["Source"])) == ("image", "busybox", False, True)
    world.end(signal.SIGKILL)
    world.start()
    assert mounted(point["Source"])
    assert world.ok("run", "--rm", "--volumes-from", "one", "busybox", "cat", "/img/data/from-image") == "image"
    world.ok("rm", "-f", "one")
    assert not os.path.exists(point["Source"])


def test_image_that_lost_its_name_stays_mounted(world: EngineWorld) -> None:
    """It is held like the container's own layers, also over a restart and a prune."""
    world.ok("run", "--name", "maker", "busybox", "sh", "-c", "echo made > /made")
    world.ok("commit", "maker", "other:1")
    world.ok("rm", "maker")
    world.ok("create", "--name", "shows", "--mount", "type=image,source=other:1,target=/img", "busybox", "cat",
             "/img/made")
    assert "is using its referenced image" in world.docker("rmi", "other:1").err
    world.ok("rmi", "-f", "other:1")
    world.ok("image", "prune", "-f")
    world.end(signal.SIGKILL)
    world.start()
    assert world.ok("start", "-a", "shows") == "made"
    copied = subprocess.run(["docker", "cp", "shows:/img/made", "-"], env=world.environment(), capture_output=True,
                            check=True, timeout=PATIENCE, stdin=subprocess.DEVNULL).stdout
    assert b"made\n" in copied
    world.ok("rm", "shows")


@pytest.mark.parametrize(("mount", "text"), [
    ("type=image,source=nosuch:9,target=/x", "No such image: nosuch:9"),
    ("type=image,target=/x", "field Source must not be empty"),
    ("type=image,source=busybox,target=/x,image-subpath=../y", "must be a relative path"),
    ("type=image,source=busybox,target=/x,image-subpath=nosuch", "cannot access path nosuch in image busybox"),
    ("type=volume,source=vol,target=/x,volume-subpath=/etc", "must be a relative path"),
    ("type=volume,source=vol,target=/x,volume-subpath=nosuch", "cannot access path nosuch in volume vol"),
])
def test_refused_mounts(world: EngineWorld, mount: str, text: str) -> None:
    done = world.docker("run", "--rm", "--mount", mount, "busybox", "true")
    assert done.code != 0
    assert text in done.err
    assert world.ok("ps", "-aq") == ""


def test_propagation_needs_a_mount_that_propagates(world: EngineWorld, tmp_path: Path) -> None:
    def run(propagation: str) -> str:
        return world.docker("run", "--rm", "-v", f"{tmp_path}:/x:{propagation}", "busybox", "true").err

    subprocess.run(["mount", "--bind", tmp_path, tmp_path], check=True)
    try:
        subprocess.run(["mount", "--make-private", tmp_path], check=True)
        for asked, wanted in (("rslave", "shared or slave"), ("shared", "shared")):
            assert f"path {tmp_path} is mounted on {tmp_path} but it is not a {wanted} mount" in run(asked)
        assert run("rprivate") == ""
        subprocess.run(["mount", "--make-shared", tmp_path], check=True)
        assert run("slave") == run("rshared") == ""
    finally:
        subprocess.run(["umount", tmp_path], check=True)


def test_working_directory_that_is_a_file(world: EngineWorld) -> None:
    done = world.docker("run", "--rm", "-w", "/etc/passwd", "busybox", "true")
    assert done.code == 125
    assert "Cannot mkdir: /etc/passwd is not a directory" in done.err


async def test_kernel_memory_is_discarded_with_a_warning(world: EngineWorld) -> None:
    asked = {"KernelMemory": 1 << 26}
    async with api(world) as client:
        made = await client.ok("POST", "/containers/create?name=kernelmem",
                               {"Image": "busybox", "HostConfig": asked})
        changed = await client.ok("POST", "/containers/kernelmem/update", asked)
    for answer in (made, changed):
        assert "kernel memory limit capabilities" in answer["Warnings"][0]
    world.ok("rm", "kernelmem")


def test_filters_that_fit_nothing(world: EngineWorld) -> None:
    assert world.ok("ps", "-aq", "--filter", "name=[", "--filter", "expose=0-100") == ""


def test_part_of_a_volume(world: EngineWorld) -> None:
    """Directories and files; links in the volume lead nowhere outside."""
    world.ok("run", "--rm", "-v", "parts:/v", "busybox", "sh", "-c",
             "mkdir /v/sub; echo in > /v/sub/f; ln -s /etc /v/out; ln -s sub /v/in")
    for subpath, path in (("sub", "/p/f"), ("sub/f", "/p"), ("in", "/p/f")):
        assert world.ok("run", "--rm", "--mount", f"source=parts,target=/p,volume-subpath={subpath}", "busybox", "cat",
                        path) == "in"
    done = world.docker("run", "--rm", "--mount", "source=parts,target=/p,volume-subpath=out", "busybox", "ls", "/p")
    assert "cannot access path out in volume parts" in done.err
    world.ok("volume", "rm", "parts")


def test_read_only_reaches_what_is_mounted_below(world: EngineWorld, tmp_path: Path) -> None:
    inner = tmp_path / "inner"
    inner.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "inner", str(inner)], check=True)
    try:
        mount = f"type=bind,source={tmp_path},target=/b,readonly"
        for flags in (["--mount", mount], ["-v", f"{tmp_path}:/b:ro"],
                      ["--mount", mount + ",bind-propagation=rprivate,bind-recursive=readonly"]):
            done = world.docker("run", "--rm", *flags, "busybox", "touch", "/b/inner/x")
            assert "Read-only file system" in done.err
        world.ok("run", "--rm", "--mount", mount + ",bind-recursive=writable", "busybox", "touch", "/b/inner/x")
        assert (inner / "x").exists()
        assert not os.path.exists(inner / "y")
        done = world.docker("run", "--rm", "--mount", mount + ",bind-recursive=disabled", "busybox", "ls", "/b/inner/x")
        assert "No such file" in done.err
    finally:
        subprocess.run(["umount", str(inner)], check=True)


def test_files_of_a_mapped_bind_belong_to_its_owner(world: EngineWorld, tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine")
    (tmp_path / "roots").write_text("roots")
    for path in (tmp_path, tmp_path / "mine"):
        os.chown(path, 4321, 4322)
    mount = f"type=bind,source={tmp_path},target=/b,bind-idmap=match-user"
    for number, user in enumerate(("0:0", "bob", "33:34")):
        done = barque(world, "run", "--rm", "--user", user, "--mount", mount, "busybox", "sh", "-c",
                      f"stat -c %u:%g /b/mine; stat -c %u /b/roots; echo made > /b/made{number}; id -u; id -g")
        assert done.code == 0, done
        shown, roots, uid, gid = done.out.split()
        assert shown == f"{uid}:{gid}"
        assert roots == ("65534" if uid == "0" else "0")
        info = os.stat(tmp_path / f"made{number}")
        assert (info.st_uid, info.st_gid) == (4321, 4322)


def test_mapping_that_cannot_be_had_is_refused(world: EngineWorld, tmp_path: Path) -> None:
    for source, user, text in ((tmp_path, "77", "belongs to root"), (tmp_path, "nobody-such", "unable to find user")):
        mount = f"type=bind,source={source},target=/b,bind-idmap=match-user"
        done = barque(world, "run", "--rm", "--user", user, "--mount", mount, "busybox", "true")
        assert done.code != 0
        assert text in done.err
    subprocess.run(["mount", "-t", "ramfs", "plain", str(tmp_path)], check=True)
    try:
        os.chown(tmp_path, 4321, 4322)
        mount = f"type=bind,source={tmp_path},target=/b,bind-idmap=match-user"
        done = barque(world, "run", "--rm", "--mount", mount, "busybox", "true")
        assert done.code != 0
        assert f"ids cannot be mapped: the file system of {tmp_path}" in done.err
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)
    done = barque(world, "run", "--rm", "--mount", f"type=bind,source={tmp_path},target=/b,bind-idmap=1000",
                  "busybox", "true")
    assert done.code == 125
    assert "invalid value for bind-idmap: 1000" in done.err


async def test_unknown_mapping_by_the_api(world: EngineWorld, tmp_path: Path) -> None:
    async with api(world) as client:
        answer = await client.call("POST", "/containers/create", {"Image": "busybox", "HostConfig": {"Mounts": [
            {"Type": "bind", "Source": str(tmp_path), "Target": "/b", "BindOptions": {"IDMap": "other"}}]}})
        assert answer.status == 400
        assert "invalid id mapping: other" in answer.body["message"]


def test_volumes_tell_who_mounts_them(world: EngineWorld) -> None:
    world.ok("run", "--rm", "-v", "told:/v:ro", "busybox", "true")
    told = [json.loads(line) for line in world.ok("events", "--since", "0", "--until", str(time.time()), "--filter",
                                                  "volume=told", "--format", "{{json .}}").splitlines()]
    assert [event["Action"] for event in told] == ["create", "mount", "unmount"]
    attributes = told[1]["Actor"]["Attributes"]
    assert (attributes["destination"], attributes["read/write"], attributes["driver"]) == ("/v", "false", "local")
    world.ok("volume", "rm", "told")
