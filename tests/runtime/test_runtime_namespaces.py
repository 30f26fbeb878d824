"""Namespaces of others, none at all, and what comes with the container's own."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from tests.runtime.conftest import living


def join(bundle, kind: str, path: str) -> None:
    drop(bundle, kind)
    bundle.linux["namespaces"].append({"type": kind, "path": path})


def drop(bundle, kind: str) -> None:
    bundle.linux["namespaces"] = [item for item in bundle.linux["namespaces"] if item["type"] != kind]


def share_mounts(bundle) -> None:
    for name in ("maskedPaths", "readonlyPaths"):
        bundle.linux.pop(name)
    # The mounts of a namespace that is not the container's own stay visible until the container is removed.
    bundle.spec["mounts"] = [item for item in bundle.spec["mounts"] if item["destination"] in ("/proc", "/dev")]


def mounts_below(path: Path) -> list[str]:
    return [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if str(path) in line]


def test_without_a_mount_namespace(barque, bundle):
    drop(bundle, "mount")
    share_mounts(bundle)
    script = "readlink /proc/self/ns/mnt; ls /; cat /etc/group | head -1"
    lines = barque.output(bundle, "sh", "-c", script).splitlines()
    assert lines[0] == os.readlink("/proc/self/ns/mnt")
    assert lines[-1] == "root:x:0:"
    assert "sbin" not in lines
    assert mounts_below(bundle.path) == []


def test_without_a_mount_namespace_from_create_to_delete(barque, bundle):
    drop(bundle, "mount")
    share_mounts(bundle)
    bundle.save("sleep", "1000")
    barque.detached("run", "--detach", "--bundle", str(bundle.path), "shared")
    assert mounts_below(bundle.rootfs)
    assert barque.ok("exec", "shared", "sh", "-c", "head -1 /etc/group; readlink /proc/self/ns/mnt").split() == [
        "root:x:0:", os.readlink("/proc/self/ns/mnt")]
    barque.ok("delete", "--force", "shared")
    assert mounts_below(bundle.path) == []


def test_a_failure_without_a_mount_namespace_leaves_no_mounts(barque, bundle):
    drop(bundle, "mount")
    share_mounts(bundle)
    assert barque.run(bundle, "absent").returncode == 1
    assert mounts_below(bundle.path) == []


@pytest.mark.parametrize("what", ["maskedPaths", "readonlyPaths"])
def test_masks_need_a_mount_namespace(runtime, bundle, what):
    drop(bundle, "mount")
    share_mounts(bundle)
    bundle.linux[what] = ["/proc/kcore"]
    assert "unable to restrict sys entries without a private MNT namespace" in runtime.run(bundle, "true").stderr


def test_joining_a_mount_namespace(runtime, bundle):
    with living("--mount", "--propagation", "private") as pid:
        join(bundle, "mount", f"/proc/{pid}/ns/mnt")
        share_mounts(bundle)
        expected = os.readlink(f"/proc/{pid}/ns/mnt")
        assert runtime.output(bundle, "readlink", "/proc/self/ns/mnt").strip() == expected


def test_a_joined_mount_namespace_keeps_its_own_root(barque, bundle):
    with living("--mount", "--propagation", "private") as pid:
        join(bundle, "mount", f"/proc/{pid}/ns/mnt")
        share_mounts(bundle)
        assert barque.output(bundle, "ls", "/").split() == ["bin", "dev", "etc", "proc", "root", "tmp"]
        # Whoever was there before still has its own root and sees its files.
        assert sorted(os.listdir(f"/proc/{pid}/root")) == sorted(os.listdir("/"))


def map_to_user(bundle) -> None:
    for folder, names, files in os.walk(bundle.rootfs):
        for name in [".", *names, *files]:
            os.chown(os.path.join(folder, name), 100000, 100000, follow_symlinks=False)
    for path in (bundle.path, *list(bundle.path.parents)[:3]):
        path.chmod(0o755)


def test_joining_a_user_namespace(barque, bundle):
    map_to_user(bundle)
    with living("--user") as pid:
        for name in ("uid_map", "gid_map"):
            Path(f"/proc/{pid}/{name}").write_text("0 100000 65536")
        join(bundle, "user", f"/proc/{pid}/ns/user")
        expected = os.readlink(f"/proc/{pid}/ns/user")
        lines = barque.output(bundle, "sh", "-c", "readlink /proc/self/ns/user; id -u; cat /proc/self/uid_map; "
                                                  "echo x > /tmp/mine").splitlines()
    assert lines[:2] == [expected, "0"]
    assert lines[2].split() == ["0", "100000", "65536"]
    assert (bundle.rootfs / "tmp/mine").stat().st_uid == 100000


def test_exec_into_a_joined_user_namespace(barque, bundle):
    map_to_user(bundle)
    with living("--user") as pid:
        for name in ("uid_map", "gid_map"):
            Path(f"/proc/{pid}/{name}").write_text("0 100000 65536")
        join(bundle, "user", f"/proc/{pid}/ns/user")
        bundle.save("sleep", "1000")
        barque.detached("run", "--detach", "--bundle", str(bundle.path), "joined")
        assert barque.ok("exec", "joined", "sh", "-c", "id -u; readlink /proc/self/ns/user").split() == [
            "0", os.readlink(f"/proc/{pid}/ns/user")]
        barque.ok("delete", "--force", "joined")


def test_a_user_namespace_and_the_network_that_it_owns(barque, bundle):
    map_to_user(bundle)
    with living("--user", "--net") as pid:
        for name in ("uid_map", "gid_map"):
            Path(f"/proc/{pid}/{name}").write_text("0 100000 65536")
        join(bundle, "user", f"/proc/{pid}/ns/user")
        join(bundle, "network", f"/proc/{pid}/ns/net")
        assert barque.output(bundle, "readlink", "/proc/self/ns/net").strip() == os.readlink(f"/proc/{pid}/ns/net")


def test_a_namespace_of_the_wrong_kind_is_refused(runtime, bundle):
    join(bundle, "ipc", "/proc/self/ns/uts")
    assert runtime.run(bundle, "true").returncode != 0
    assert runtime.ok("list", "-q") == ""


def test_a_mount_namespace_that_is_none(barque, bundle):
    join(bundle, "mount", "/proc/self/ns/uts")
    share_mounts(bundle)
    assert "join the mount namespace" in barque.run(bundle, "true").stderr


def test_the_loopback_device_is_up(runtime, bundle):
    assert "127.0.0.1/8" in runtime.output(bundle, "ip", "addr", "show", "up")


def test_devices_of_the_host_move_in(barque, bundle):
    def ip(*words: str) -> None:
        subprocess.run(["ip", *words], check=True)

    ip("link", "add", "brq-moved", "type", "veth", "peer", "name", "brq-stays")
    ip("address", "add", "10.88.0.5/24", "dev", "brq-moved")
    ip("link", "set", "brq-moved", "up")
    bundle.linux["netDevices"] = {"brq-moved": {"name": "inside"}}
    text = barque.output(bundle, "ip", "addr", "show", "up")
    assert "inside" in text
    assert "10.88.0.5/24" in text
    # It went away with the container's namespace, and so did its peer.
    subprocess.run(["ip", "link", "delete", "brq-stays"], check=False, capture_output=True)
    assert subprocess.run(["ip", "link", "show", "brq-moved"], capture_output=True, check=False).returncode != 0


def test_a_device_that_does_not_exist(barque, bundle):
    bundle.linux["netDevices"] = {"brq-absent": {}}
    assert "'brq-absent' not found" in barque.run(bundle, "true").stderr


def test_no_pivot(runtime, bundle):
    bundle.save("sh", "-c", "ls /; readlink /proc/self/root; grep -c ' / / ' /proc/self/mountinfo")
    done = runtime("run", "--no-pivot", "--bundle", str(bundle.path), "moved")
    assert done.returncode in (0, 1), done.stderr
    assert done.stdout.split()[:4] == ["bin", "dev", "etc", "proc"]
    assert "/" in done.stdout.split()


def test_exec_into_a_container_that_waits(runtime, bundle):
    bundle.save("sleep", "1000")
    runtime.detached("create", "--bundle", str(bundle.path), "waiting")
    assert runtime.ok("exec", "waiting", "cat", "/etc/group").startswith("root:x:0:")
    assert runtime.state("waiting")["status"] == "created"
    runtime.ok("start", "waiting")
    assert runtime.state("waiting")["status"] == "running"


def test_a_tmpfs_begins_with_what_it_covers(runtime, bundle):
    data = bundle.rootfs / "data"
    (data / "sub").mkdir(parents=True)
    (data / "sub/file").write_text("content\n")
    (data / "sub/file").chmod(0o644)
    os.chown(data / "sub/file", 12, 34)
    (data / "link").symlink_to("/etc/passwd")
    bundle.spec["mounts"].append({"destination": "/data", "type": "tmpfs", "source": "tmpfs",
                                  "options": ["tmpcopyup", "size=1m"]})
    lines = runtime.output(bundle, "sh", "-c", "cat /data/sub/file; stat -c '%a %u %g' /data/sub/file; "
                                               "readlink /data/link; echo new > /data/sub/new").splitlines()
    assert lines == ["content", "644 12 34", "/etc/passwd"]
    assert os.listdir(data / "sub") == ["file"]


def test_a_readonly_tmpfs_with_a_copy(runtime, bundle):
    (bundle.rootfs / "data").mkdir()
    (bundle.rootfs / "data/file").write_text("content\n")
    os.setxattr(bundle.rootfs / "data/file", "trusted.some", b"value")
    bundle.spec["mounts"].append({"destination": "/data", "type": "tmpfs", "options": ["tmpcopyup", "ro"]})
    done = runtime.run(bundle, "sh", "-c", "cat /data/file; touch /data/new")
    assert done.stdout == "content\n"
    assert "Read-only file system" in done.stderr


def test_a_copy_follows_no_link_out_of_the_root(runtime, bundle, tmp_path):
    (tmp_path / "secret").write_text("of the host\n")
    (bundle.rootfs / "data").symlink_to(tmp_path)
    bundle.spec["mounts"].append({"destination": "/data", "type": "tmpfs", "options": ["tmpcopyup"]})
    assert "secret" not in runtime.output(bundle, "find", "/data", str(tmp_path))


def test_warnings_reach_the_log(barque, bundle, tmp_path):
    bundle.process["rlimits"] = [{"type": "RLIMIT_NOFILE", "soft": 1 << 40, "hard": 1 << 40}]
    bundle.save("true")
    log = tmp_path / "log"
    done = subprocess.run([*barque.base, "--log", str(log), "--log-format", "json", "run", "--bundle",
                           str(bundle.path), "warned"], capture_output=True, text=True, check=True, timeout=60)
    assert done.stderr == ""
    assert json.loads(log.read_text())["level"] == "warning"
