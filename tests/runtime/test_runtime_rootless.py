"""An ordinary user runs bundles: ids by a single mapping or by newuidmap, and no cgroup where none is delegated."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

import barque as package
from tests.runtime.conftest import Bundle, has_ended

#: A user that every Debian has and that owns nothing.
UID, GID = 65534, 65534
SUBORDINATE = 300000


def bind(source: str, target: Path) -> None:
    target.mkdir(exist_ok=True) if os.path.isdir(source) else target.touch()
    subprocess.run(["mount", "--bind", source, str(target)], check=True)


class User:
    """Runs the runtime as the user; everything that it needs is shown where it can read it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.mounts: list[Path] = []
        for name, source in (("python", sys.base_prefix), ("barque", str(Path(package.__file__).parent)),
                             ("msgspec", str(Path(msgspec.__file__).parent))):
            target = directory / ("lib" if name != "python" else "") / name
            target.parent.mkdir(exist_ok=True)
            bind(source, target)
            self.mounts.append(target)
        self.state = directory / "state"
        self.state.mkdir()
        os.chown(self.state, UID, GID)
        python = str(directory / f"python/bin/python3.{sys.version_info.minor}")
        self.command = [str(shutil.which("setpriv")), f"--reuid={UID}", f"--regid={GID}", "--clear-groups",
                        python, "-S", "-m", "barque.runtime.main", "--root", str(self.state)]

    def __call__(self, *words: str, **options: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run([*self.command, *words], stdin=subprocess.DEVNULL, capture_output=True, text=True,
                              check=False, timeout=60, env={"PATH": os.environ["PATH"], "HOME": "/",
                                                            "PYTHONPATH": str(self.directory / "lib")})

    def ok(self, *words: str) -> str:
        done = self(*words)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def detached(self, *words: str) -> None:
        done = subprocess.run([*self.command, *words], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                              stderr=subprocess.DEVNULL, check=False, timeout=60,
                              env={"PATH": os.environ["PATH"], "PYTHONPATH": str(self.directory / "lib")})
        assert done.returncode == 0

    def close(self) -> None:
        for target in self.mounts:
            subprocess.run(["umount", str(target)], check=True)


@pytest.fixture
def user(tmp_path: Path) -> Iterator[User]:
    for path in (tmp_path, *list(tmp_path.parents)[:2]):
        path.chmod(0o755)
    directory = tmp_path / "user"
    directory.mkdir()
    found = User(directory)
    yield found
    for container in found.ok("list", "-q").split():
        found("delete", "--force", container)
    found.close()


@pytest.fixture
def own(user: User, bundle: Bundle) -> Bundle:
    """A bundle of the user's with a document from ``spec --rootless``."""
    for folder, names, files in os.walk(bundle.path):
        for name in [".", *names, *files]:
            os.chown(os.path.join(folder, name), UID, GID, follow_symlinks=False)
    user.ok("spec", "--rootless", "--bundle", str(bundle.path))
    bundle.spec = json.loads((bundle.path / "config.json").read_text())
    bundle.process["terminal"] = False
    bundle.spec["root"]["readonly"] = False
    return bundle


def run(user: User, bundle: Bundle, *args: str) -> subprocess.CompletedProcess[str]:
    bundle.save(*args)
    return user("run", "--bundle", str(bundle.path), "rootless")


def test_a_single_mapping(user, own):
    done = run(user, own, "sh", "-c", "id -u; id -g; cat /proc/self/uid_map; echo x > /mine; echo y > /dev/null; "
                                      "hostname; echo $$")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[:2] == ["0", "0"]
    assert lines[2].split() == ["0", str(UID), "1"]
    assert lines[3:] == ["barque", "1"]
    assert (own.rootfs / "mine").stat().st_uid == UID


def test_exit_codes_and_failures(user, own):
    assert run(user, own, "sh", "-c", "exit 7").returncode == 7
    done = run(user, own, "absent")
    assert done.returncode == 1
    assert "executable file not found in $PATH" in done.stderr
    assert user.ok("list", "-q") == ""


def test_life_from_create_to_delete(user, own):
    own.save("sleep", "1000")
    user.detached("create", "--bundle", str(own.path), "life")
    state = json.loads(user.ok("state", "life"))
    assert (state["status"], state["owner"]) == ("created", "nobody")
    user.ok("start", "life")
    uid, *namespaces = user.ok("exec", "life", "sh", "-c", "id -u; readlink /proc/self/ns/pid; "
                              "readlink /proc/1/ns/pid").split()
    assert uid == "0"
    assert len(namespaces) == 2
    assert len(set(namespaces)) == 1
    assert "cannot pause of a container without a cgroup" in user("pause", "life").stderr
    user.ok("delete", "--force", "life")
    assert user.ok("list", "-q") == ""
    assert has_ended(state["pid"])


def test_its_own_network(user, own):
    own.linux["namespaces"].append({"type": "network"})
    assert "127.0.0.1/8" in run(user, own, "ip", "addr", "show", "up").stdout


def test_binds_and_the_readonly_root(user, own, tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data/file").write_text("content\n")
    own.spec["mounts"].append({"destination": "/data", "type": "bind", "source": str(tmp_path / "data"),
                               "options": ["rbind", "ro"]})
    own.spec["root"]["readonly"] = True
    done = run(user, own, "sh", "-c", "cat /data/file; touch /data/x /x")
    assert done.stdout == "content\n"
    assert done.stderr.count("Read-only file system") == 2


@pytest.fixture
def subordinate_ids(tmp_path: Path) -> Iterator[None]:
    if shutil.which("newuidmap") is None:
        pytest.skip("needs newuidmap")
    for name in ("subuid", "subgid"):
        (tmp_path / name).write_text(f"nobody:{SUBORDINATE}:65536\n")
        subprocess.run(["mount", "--bind", str(tmp_path / name), f"/etc/{name}"], check=True)
    yield
    for name in ("subuid", "subgid"):
        subprocess.run(["umount", f"/etc/{name}"], check=True)


def map_more(own: Bundle, first: int = SUBORDINATE) -> None:
    for kind, mine in (("uidMappings", UID), ("gidMappings", GID)):
        own.linux[kind] = [{"containerID": 0, "hostID": mine, "size": 1},
                           {"containerID": 1, "hostID": first, "size": 65535}]


@pytest.mark.usefixtures("subordinate_ids")
def test_subordinate_ids(user, own):
    map_more(own)
    own.process["user"] = {"uid": 1000, "gid": 1001, "additionalGids": [29]}
    done = run(user, own, "sh", "-c", "id -u; id -g; id -G; cat /proc/self/uid_map; touch /tmp/mine")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[:3] == ["1000", "1001", "1001 29"]
    assert [line.split() for line in lines[3:]] == [["0", str(UID), "1"], ["1", str(SUBORDINATE), "65535"]]
    assert (own.rootfs / "tmp/mine").stat().st_uid == SUBORDINATE + 999


@pytest.mark.usefixtures("subordinate_ids")
def test_ids_of_others_are_refused_by_newuidmap(user, own):
    map_more(own, first=0)
    done = run(user, own, "true")
    assert done.returncode == 1
    assert "newuidmap failed" in done.stderr


def test_what_an_ordinary_user_cannot_have(user, own):
    own.linux["resources"] = {"memory": {"limit": 1 << 26}}
    assert "cannot set memory limit: container could not join or create cgroup" in run(user, own, "true").stderr
    own.linux["resources"] = {}
    own.process["user"]["additionalGids"] = [29]
    assert run(user, own, "true").returncode == 1
    own.process["user"].pop("additionalGids")
    own.linux["namespaces"] = [item for item in own.linux["namespaces"] if item["type"] != "user"]
    own.linux.pop("uidMappings")
    own.linux.pop("gidMappings")
    assert "rootless container requires user namespaces" in run(user, own, "true").stderr
    assert user.ok("list", "-q") == ""


def test_without_a_place_for_the_state(user, own):
    own.save("true")
    done = subprocess.run([*user.command[:-2], "run", "--bundle", str(own.path), "nowhere"], capture_output=True,
                          text=True, check=False, timeout=60, env={"PYTHONPATH": str(user.directory / "lib")})
    assert done.returncode == 1
    assert "XDG_RUNTIME_DIR" in done.stderr


def test_systemd_without_one_of_the_users(user, own):
    own.linux["cgroupsPath"] = ":barque:own"
    own.save("true")
    done = user("--systemd-cgroup", "run", "--bundle", str(own.path), "rootless")
    assert done.returncode == 1
    assert f"--systemd-cgroup needs the systemd of user {UID}" in done.stderr
    assert user.ok("list", "-q") == ""
