"""Volumes as docker has them: names, options, uses, filters, texts; on a real directory and database."""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path

import pytest

from barque import failpoints
from barque.engine.volumes import ANONYMOUS, NameConflict, NoSuchDriver, NoSuchVolume, VolumeInUse, Volumes
from barque.errors import InvalidArgument
from barque.oci.mount import Mount
from barque.store.db import Database
from barque.store.layout import Layout


class World:
    """The users of volumes, the events, and workers that nothing here may need."""

    def __init__(self) -> None:
        self.users: dict[str, list[str]] = {}
        self.events: list[tuple[str, str, str, Mapping[str, str]]] = []

    def users_of(self, name: str) -> Sequence[str]:
        return self.users.get(name, [])

    def emit(self, kind: str, action: str, actor_id: str, attributes: Mapping[str, str], /) -> None:
        self.events.append((kind, action, actor_id, attributes))

    async def run(self, kind: str, request: bytes, fds: Sequence[int]) -> bytes:
        raise AssertionError("no worker is wanted here")


@pytest.fixture
async def setting(tmp_path: Path) -> AsyncIterator[tuple[Volumes, World]]:
    layout = Layout.open(str(tmp_path))
    db = await Database.open(layout.database)
    world = World()
    yield Volumes(layout, db, world, world, world.emit), world
    await db.close()
    layout.close()


async def test_named_volume(setting: tuple[Volumes, World], tmp_path: Path) -> None:
    volumes, world = setting
    volume = await volumes.ensure("data", labels={"a": "b"}, options={})
    assert volume.mountpoint == str(tmp_path / "volumes/data/_data")
    assert stat.S_IMODE(os.stat(volume.mountpoint).st_mode) == 0o755
    assert (volume.driver, volume.scope, volume.options, volume.anonymous, volume.backing) == (
        "local",
        "local",
        {},
        False,
        None,
    )
    assert await volumes.ensure("data", labels={"ignored": "since it exists"}) == volume
    assert await volumes.get("data") == volume
    Path(volume.mountpoint, "file").write_bytes(b"12345")
    assert await volumes.size("data") == 5
    await volumes.remove("data")
    assert os.listdir(tmp_path / "volumes") == []
    with pytest.raises(NoSuchVolume, match=r"^get data: no such volume$"):
        await volumes.get("data")
    with pytest.raises(NoSuchVolume):
        await volumes.remove("data")
    await volumes.remove("data", force=True)
    assert world.events == [
        ("volume", "create", "data", {"driver": "local"}),
        ("volume", "destroy", "data", {"driver": "local"}),
    ]


async def test_racing_creators_get_one_volume(setting: tuple[Volumes, World]) -> None:
    volumes, world = setting
    made = await asyncio.gather(*[volumes.ensure("same") for _ in range(5)])
    assert len(set(map(id, made))) >= 1 and len({volume.created_at for volume in made}) == 1
    assert [event[1] for event in world.events] == ["create"]


async def test_use_forbids_removal(setting: tuple[Volumes, World]) -> None:
    volumes, world = setting
    await volumes.ensure("data")
    world.users["data"] = ["c1", "c2"]
    for force in (False, True):
        with pytest.raises(VolumeInUse, match=r"^remove data: volume is in use - \[c1, c2\]$"):
            await volumes.remove("data", force)


async def test_leftover_directory_is_taken_over(setting: tuple[Volumes, World], tmp_path: Path) -> None:
    volumes, _ = setting
    (tmp_path / "volumes/old/_data").mkdir(parents=True)
    (tmp_path / "volumes/old/_data/precious").write_text("x")
    (tmp_path / "volumes/.transient-1/_data").mkdir(parents=True)
    await volumes.clean()
    assert os.listdir(tmp_path / "volumes") == ["old"]
    volume = await volumes.ensure("old")
    assert os.listdir(volume.mountpoint) == ["precious"]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a", "volume name is too short, names should be at least two alphanumeric characters"),
        ("../x", 'create ../x: "../x" includes invalid characters for a local volume name, only '),
        ("-x", "If you intended to pass a host directory, use absolute path"),
        ("a/b", "includes invalid characters"),
        ("ab\n", "includes invalid characters"),
        ("x" * 256, "too long"),
        (".transient-1", "includes invalid characters"),
        ("äö", "includes invalid characters"),
    ],
)
async def test_bad_names(setting: tuple[Volumes, World], tmp_path: Path, name: str, text: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        await setting[0].ensure(name)
    assert text in caught.value.message
    assert os.listdir(tmp_path / "volumes") == []


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"colour": "red"}, 'create data: invalid option: "colour"'),
        ({"type": "tmpfs"}, 'create data: missing required option: "device"'),
        ({"o": "size=1m"}, 'create data: missing required option: "device"'),
        ({"size": "1m"}, "create data: quota size requested but no quota support"),
    ],
)
async def test_bad_options(setting: tuple[Volumes, World], options: dict[str, str], text: str) -> None:
    with pytest.raises(InvalidArgument, match=text):
        await setting[0].ensure("data", options=options)


async def test_driver_options_become_a_mount(setting: tuple[Volumes, World]) -> None:
    volume = await setting[0].ensure("tmp", options={"type": "tmpfs", "device": "tmpfs", "o": "size=1m,uid=5"})
    assert volume.backing == Mount(type="tmpfs", source="tmpfs", target=volume.mountpoint, options=("size=1m", "uid=5"))
    await setting[0].copy_up("tmp", Mount(type="overlay"), "/srv")
    filled = await setting[0].ensure("filled")
    Path(filled.mountpoint, "mine").write_bytes(b"")
    await setting[0].copy_up("filled", Mount(type="overlay"), "/srv")


async def test_other_drivers(setting: tuple[Volumes, World]) -> None:
    with pytest.raises(NoSuchDriver, match='create data: error looking up volume plugin nfs: plugin "nfs" not found'):
        await setting[0].ensure("data", driver="nfs")
    await setting[0].ensure("data")
    with pytest.raises(NameConflict, match="volume name must be unique"):
        await setting[0].ensure("data", driver="nfs")


async def test_list_filters(setting: tuple[Volumes, World]) -> None:
    volumes, world = setting
    await volumes.ensure("web-data", labels={"tier": "web"})
    await volumes.ensure("db-data", labels={"tier": "db", "x": ""})
    world.users["db-data"] = ["c1"]

    async def names(**wanted: list[str]) -> list[str]:
        return [volume.name for volume in await volumes.list(wanted)]

    assert await names() == ["db-data", "web-data"]
    assert await names(name=["web"]) == ["web-data"]
    assert await names(label=["tier"]) == ["db-data", "web-data"]
    assert await names(label=["tier=db", "x"]) == ["db-data"]
    assert await names(driver=["other"]) == []
    assert await names(dangling=["true"]) == ["web-data"]
    assert await names(dangling=["0"]) == ["db-data"]


async def test_prune(setting: tuple[Volumes, World], tmp_path: Path) -> None:
    volumes, world = setting
    anonymous = await volumes.ensure(None)
    assert len(anonymous.name) == 64 and anonymous.labels == {ANONYMOUS: ""}
    used = await volumes.ensure("")
    world.users[used.name] = ["c1"]
    await volumes.ensure("named", labels={"keep": "yes"})
    Path(anonymous.mountpoint, "file").write_bytes(b"123")
    assert await volumes.prune({}, False) == ([anonymous.name], 3)
    assert await volumes.prune({"label!": ["keep"]}, True) == ([], 0)
    assert await volumes.prune({"all": ["1"]}, False) == (["named"], 0)
    assert os.listdir(tmp_path / "volumes") == [used.name]
    assert world.events[-1] == ("volume", "prune", "", {"reclaimed": "0"})


@pytest.mark.parametrize("point", ["after-row", "moved"])
async def test_a_renaming_that_was_cut_short_is_finished_at_boot(tmp_path: Path, point: str) -> None:
    layout = Layout.open(str(tmp_path))
    db = await Database.open(layout.database)
    world = World()
    volumes = Volumes(layout, db, world, world, world.emit)
    Path((await volumes.ensure("old")).mountpoint, "file").write_text("content")
    failpoints.arm(f"volume.rename.{point}=error")
    try:
        with pytest.raises(failpoints.FailpointError):
            await volumes.rename("old", "new")
    finally:
        failpoints.arm("")
    again = Volumes(layout, db, world, world, world.emit)
    await again.clean()
    volume = await again.get("new")
    assert volume.mountpoint == str(tmp_path / "volumes/new/_data")
    assert Path(volume.mountpoint, "file").read_text() == "content"
    assert os.listdir(tmp_path / "volumes") == ["new"]
    with pytest.raises(NoSuchVolume):
        await again.get("old")
    await db.close()
    layout.close()


async def test_what_cannot_be_filled_leaves_nothing(setting: tuple[Volumes, World], tmp_path: Path) -> None:
    volumes, world = setting

    async def fail(directory: str) -> None:
        Path(directory, "half").write_text("half")
        raise InvalidArgument("no more")

    with pytest.raises(InvalidArgument, match="no more"):
        await volumes.make("new", None, fail)
    assert os.listdir(tmp_path / "volumes") == []
    with pytest.raises(NoSuchVolume):
        await volumes.get("new")
    assert world.events == []


@pytest.mark.parametrize("point", ["create.before-row", "make.before-row", "remove.after-row"])
async def test_a_volume_that_was_half_made_or_removed_is_no_hindrance(
        setting: tuple[Volumes, World], tmp_path: Path, point: str) -> None:
    volumes, _ = setting

    async def fill(directory: str) -> None:
        Path(directory, "file").write_text("content")

    if point.startswith("remove"):
        await volumes.ensure("data")
    failpoints.arm(f"volume.{point}=error")
    try:
        with pytest.raises(failpoints.FailpointError):
            await {"create": lambda: volumes.ensure("data"), "make": lambda: volumes.make("data", None, fill),
                   "remove": lambda: volumes.remove("data")}[point.partition(".")[0]]()
    finally:
        failpoints.arm("")
    await volumes.clean()
    assert await volumes.list({}) == []
    volume = await volumes.ensure("data")
    assert (await volumes.get("data")) == volume
    await volumes.remove("data")
    assert os.listdir(tmp_path / "volumes") == []
