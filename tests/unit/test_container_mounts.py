"""Volume and mount specifications."""

from __future__ import annotations

import pytest

from barque.engine.containers import mounts
from barque.engine.containers.model import MountPoint
from barque.engine.containers.options import BindOptions, ContainerConfig, HostConfig, MountSpec, TmpfsOptions
from barque.errors import InvalidArgument


@pytest.mark.parametrize(("text", "kind", "source", "name", "rw"), [
    ("/a:/b", "bind", "/a", "", True),
    ("/a/../c:/b:ro,rslave", "bind", "/c", "", False),
    ("data:/b", "volume", "", "data", True),
    ("data:/b:ro,nocopy", "volume", "", "data", False),
    ("/b", "volume", "", "", True),
])
def test_binds(text: str, kind: str, source: str, name: str, rw: bool) -> None:
    point = mounts.parse_bind(text)
    assert (point.type, point.source, point.name, point.destination, point.rw) == (kind, source, name, "/b", rw)


@pytest.mark.parametrize(("text", "message"), [
    ("a:b:c:d", "invalid volume specification: 'a:b:c:d'"), (":/b", "invalid volume specification"),
    ("/a:/b:xx", "invalid mode: xx"), ("/a:/b:rw,ro", "invalid mode"), ("/a:b", "mount path must be absolute"),
    ("/a:/", "destination can't be '/'"), ("/a:/x/..", "destination can't be '/'"), ("a b:/x", "invalid characters"),
    ("data:/b:shared", "invalid mode"),
])
def test_what_makes_no_sense_is_refused(text: str, message: str) -> None:
    with pytest.raises(InvalidArgument, match=message.replace("(", r"\(")):
        mounts.parse_bind(text)


def test_what_is_asked_for_wins_over_image_and_others() -> None:
    config = ContainerConfig(volumes={"/a": {}, "/b/": {}})
    host = HostConfig(binds=["/h:/a"], tmpfs={"/t": "size=1m"})
    inherited = [MountPoint(type="volume", name="v", destination="/a"), MountPoint(type="volume", name="w",
                                                                                   destination="/c")]
    points = {point.destination: point for point in mounts.collect(config, host, inherited)}
    assert sorted(points) == ["/a", "/b", "/c", "/t"]
    assert points["/a"].type == "bind"
    assert points["/b"].anonymous
    assert points["/c"].name == "w"


def test_two_at_one_place_are_an_error() -> None:
    with pytest.raises(InvalidArgument, match="Duplicate mount point: /a"):
        mounts.collect(ContainerConfig(), HostConfig(binds=["/h:/a", "/i:/a/"]), [])


def test_mount_specs() -> None:
    specs = [MountSpec(type="bind", source="/s", target="/x/y", read_only=True,
                       bind_options=BindOptions(non_recursive=True)),
             MountSpec(type="tmpfs", target="/t", tmpfs_options=TmpfsOptions(size_bytes=5, mode=0o700)),
             MountSpec(type="volume", target="/v")]
    tmpfs, volume, bind = mounts.collect(ContainerConfig(), HostConfig(mounts=specs), [])
    assert (bind.recursive, bind.rw, bind.create_source) == (False, False, False)
    assert tmpfs.options == ("size=5", "mode=700")
    assert volume.anonymous


def test_parents_come_before_children() -> None:
    points = mounts.collect(ContainerConfig(), HostConfig(binds=["/1:/a/b/c", "/2:/a", "/3:/a/b"]), [])
    assert [point.destination for point in points] == ["/a", "/a/b", "/a/b/c"]


def test_volumes_from_may_only_take_rights_away() -> None:
    points = [MountPoint(type="volume", name="v", destination="/a", rw=False), MountPoint(type="tmpfs",
                                                                                          destination="/t")]
    assert [(point.name, point.rw) for point in mounts.inherit(points, "rw")] == [("v", False)]
    with pytest.raises(InvalidArgument, match="invalid mode: x"):
        mounts.inherit(points, "x")


def test_tmpfs_takes_no_word_that_the_file_system_does_not_know() -> None:
    host = HostConfig(tmpfs={"/t": "nosuid,size=1m,mode=700,huge=never"})
    assert mounts.collect(ContainerConfig(), host, [])[0].destination == "/t"
    with pytest.raises(InvalidArgument, match=r'invalid tmpfs option \["bogus" "2"\]'):
        mounts.collect(ContainerConfig(), HostConfig(tmpfs={"/t": "size=1m,bogus=2"}), [])
