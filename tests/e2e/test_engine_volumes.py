"""Volumes whose options name something to mount, copies of volumes, and containers that are frozen while others ask
things of them.
"""

from __future__ import annotations

import gzip
import json
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from barque.engine.volume_mounts import mounted
from tests.e2e.engine_world import EngineWorld, barque, engine_world


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EngineWorld]:
    with engine_world(tmp_path_factory.mktemp("vols")) as made:
        yield made


def mountpoint(world: EngineWorld, name: str) -> str:
    return str(json.loads(world.ok("volume", "inspect", name))[0]["Mountpoint"])


def test_tmpfs_volume_is_shared_and_mounted_while_in_use(world: EngineWorld) -> None:
    world.ok("volume", "create", "-o", "type=tmpfs", "-o", "device=tmpfs", "-o", "o=size=1m,uid=7", "fast")
    path = mountpoint(world, "fast")
    assert not mounted(path)
    world.ok("run", "-d", "--name", "one", "-v", "fast:/v", "busybox", "sleep", "1000")
    world.ok("run", "-d", "--name", "two", "-v", "fast:/w:ro", "busybox", "sleep", "1000")
    assert mounted(path)
    world.ok("exec", "one", "sh", "-c", "stat -c %u /v > /v/owner")
    assert world.ok("exec", "two", "cat", "/w/owner") == "7"
    assert world.docker("exec", "two", "touch", "/w/x").code == 1
    world.ok("rm", "-f", "one")
    assert mounted(path)
    world.end(signal.SIGKILL)
    world.start()
    assert world.ok("exec", "two", "cat", "/w/owner") == "7"
    world.ok("rm", "-f", "two")
    assert not mounted(path)
    world.ok("volume", "rm", "fast")


def test_bind_volume_and_its_failure(world: EngineWorld, tmp_path: Path) -> None:
    source = tmp_path / "there"
    (source / "sub").mkdir(parents=True)
    (source / "sub" / "file").write_text("content")
    options = ["-o", "type=none", "-o", "o=bind", "-o"]
    world.ok("volume", "create", *options, f"device={source}", "bound")
    assert world.ok("run", "--rm", "-v", "bound:/v", "busybox", "cat", "/v/sub/file") == "content"
    assert world.ok("run", "--rm", "--mount", "source=bound,target=/v,volume-subpath=sub", "busybox", "cat",
                    "/v/file") == "content"
    world.ok("volume", "rm", "bound")
    assert (source / "sub" / "file").read_text() == "content"
    world.ok("volume", "create", *options, f"device={tmp_path}/missing", "broken")
    done = world.docker("run", "--rm", "-v", "broken:/v", "busybox", "true")
    path = mountpoint(world, "broken")
    assert f"error while mounting volume '{path}': failed to mount local volume: mount {tmp_path}/missing:" in done.err
    assert "no such file or directory" in done.err
    assert world.ok("ps", "-aq") == ""
    world.ok("volume", "rm", "broken")


FILL = """
echo text > /v/file; chown 5:6 /v/file; chmod 4750 /v/file; ln /v/file /v/again; ln -s /etc /v/link; mkfifo /v/pipe
mkdir /v/dir; touch -d '2001-02-03 04:05:06' /v/dir/old; truncate -s 40G /v/hole; chown 7:8 /v; chmod 1700 /v
"""
LOOK = "cd /v; stat -c '%n %u:%g %a %F %s %h' . *; cat file; readlink link; stat -c %Y dir/old; du -k hole | cut -f1"


def test_copies_of_a_volume_are_like_it(world: EngineWorld, tmp_path: Path) -> None:
    """Owners, modes, times, links and holes; from one that is in use, too."""
    world.ok("volume", "create", "--label", "a=b", "first")
    world.ok("run", "--rm", "-v", "first:/v", "busybox", "sh", "-c", FILL)
    world.ok("run", "-d", "--name", "user", "-v", "first:/v", "busybox", "sleep", "1000")
    there = world.ok("exec", "user", "sh", "-c", LOOK)
    assert barque(world, "volume", "clone", "first", "second").out == "second\n"
    assert barque(world, "volume", "export", "-o", str(tmp_path / "tar"), "first").code == 0
    (tmp_path / "tar.gz").write_bytes(gzip.compress((tmp_path / "tar").read_bytes(), 1))
    assert barque(world, "volume", "import", "third", str(tmp_path / "tar.gz")).out == "third\n"
    for name in ("second", "third"):
        seen = world.ok("run", "--rm", "-v", f"{name}:/v", "busybox", "sh", "-c", LOOK)
        assert seen.splitlines()[:-1] == there.splitlines()[:-1]
        assert int(seen.splitlines()[-1]) < 1024
    assert (tmp_path / "tar").stat().st_size < 1 << 20
    assert json.loads(world.ok("volume", "inspect", "-f", "{{json .Labels}}", "second")) == {"a": "b"}
    done = barque(world, "volume", "clone", "first", "third")
    assert "conflict: volume name must be unique" in done.err
    assert "no such volume" in barque(world, "volume", "export", "nosuch").err
    world.ok("rm", "-f", "user")
    world.ok("volume", "rm", "first", "second", "third")


def test_import_goes_into_what_is_there_or_makes_it_whole(world: EngineWorld, tmp_path: Path) -> None:
    (tmp_path / "new").write_text("new")
    (tmp_path / "file").write_text("newer")
    archive = subprocess.run(["tar", "-C", str(tmp_path), "-c", "new", "file"], capture_output=True, check=True).stdout
    world.ok("run", "--rm", "-v", "there:/v", "busybox", "sh", "-c", "echo old > /v/file; echo kept > /v/kept")
    (tmp_path / "tar").write_bytes(archive)
    assert barque(world, "volume", "import", "there", str(tmp_path / "tar")).code == 0
    assert world.ok("run", "--rm", "-v", "there:/v", "busybox", "sh", "-c", "cat /v/*") == "newerkept\nnew"
    (tmp_path / "broken").write_bytes(archive[:700])
    done = barque(world, "volume", "import", "half", str(tmp_path / "broken"))
    assert done.code == 1
    assert "unpack half:" in done.err
    assert world.docker("volume", "inspect", "half").code == 1
    assert not list((world.root / "data" / "volumes").glob(".*"))
    world.ok("volume", "rm", "there")


def test_volume_with_options_is_mounted_to_be_copied(world: EngineWorld, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("far")
    world.ok("volume", "create", "-o", "type=none", "-o", "o=bind", "-o", f"device={tmp_path}", "away")
    assert barque(world, "volume", "clone", "away", "here").code == 0
    assert not mounted(mountpoint(world, "away"))
    assert world.ok("run", "--rm", "-v", "here:/v", "busybox", "cat", "/v/file") == "far"
    world.ok("volume", "rm", "away", "here")


def test_rename(world: EngineWorld) -> None:
    world.ok("create", "--name", "holds", "-v", "/v", "busybox")
    name = world.inspect("holds", "{{(index .Mounts 0).Name}}")
    done = barque(world, "volume", "rename", name, "chosen")
    assert f"rename {name}: volume is in use" in done.err
    Path(mountpoint(world, name), "file").write_text("content")
    world.ok("rm", "holds")
    assert barque(world, "volume", "rename", name, "chosen").code == 0
    world.ok("volume", "prune", "-f")  # it is no longer one whose name nobody chose
    assert world.ok("run", "--rm", "-v", "chosen:/v", "busybox", "cat", "/v/file") == "content"
    world.ok("volume", "create", "taken")
    assert "must be unique" in barque(world, "volume", "rename", "chosen", "taken").err
    assert "includes invalid characters" in barque(world, "volume", "rename", "chosen", "a/b").err
    assert "no such volume" in barque(world, "volume", "rename", name, "other").err
    world.ok("volume", "rm", "chosen", "taken")


def test_a_frozen_container_takes_no_exec(world: EngineWorld) -> None:
    container = world.ok("run", "-d", "--name", "cold", "busybox", "sleep", "1000")
    world.ok("pause", "cold")
    done = world.docker("exec", "cold", "true")
    assert done.code == 1
    assert f"ontainer {container} is paused, unpause the container before exec" in done.err
    assert "cannot attach to a paused container" in world.docker("attach", "cold").err
    assert "is already paused" in world.docker("pause", "cold").err
    world.ok("unpause", "cold")
    assert "is not paused" in world.docker("unpause", "cold").err
    execs = [world.popen("exec", "cold", "echo", "ran") for _ in range(4)]
    world.ok("pause", "cold")
    world.ok("unpause", "cold")
    for process in execs:
        out, error = process.communicate(timeout=60)
        # Frozen just then: the refusal comes instead of the upgrade, or through the stream after it.
        assert out == b"ran\n" or b"is paused" in out + error or b"received 409" in error
    world.ok("pause", "cold")
    world.ok("stop", "-t", "1", "cold")
    assert world.inspect("cold", "{{.State.Status}} {{.State.ExitCode}}") == "exited 137"
    world.ok("rm", "cold")
