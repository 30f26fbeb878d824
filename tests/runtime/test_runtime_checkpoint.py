"""Checkpoint and restore as far as they go without criu: what is refused, what criu is asked, and what becomes of a
container whichever way criu ends. The real one works in the virtual machine: guest_runtime_criu.py.
"""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path

import pytest

from barque import protobuf
from barque.runtime.criu import wire
from tests.runtime import criu_stand_in
from tests.runtime.conftest import Bundle, Runtime

PROTO = Path("/usr/include/criu/rpc.proto")
NEWNET = 0x40000000
#: What the stand-in does, and what is said about it.
FAILURES = (("fail", "criu failed: The reason (its log is "),
            ("die", "criu failed: it has ended with exit code 139"))


@pytest.fixture
def criu(tmp_path: Path) -> Path:
    criu_stand_in.install(tmp_path / "criu")
    return tmp_path / "criu"


@pytest.fixture
def images(tmp_path: Path) -> Path:
    path = tmp_path / "images"
    path.mkdir()
    return path


def running(barque: Runtime, bundle: Bundle, name: str = "subject") -> int:
    bundle.save("sleep", "1000")
    barque.detached("run", "--detach", "--bundle", str(bundle.path), name)
    return int(barque.state(name)["pid"])


def checkpoint(barque: Runtime, criu: Path, images: Path, *flags: str) -> str:
    done = barque("--criu", str(criu), "checkpoint", "--image-path", str(images), *flags, "subject")
    return done.stderr if done.returncode else ""


def restore(barque: Runtime, criu: Path, images: Path, bundle: Bundle, *flags: str, **options: object):
    return barque("--criu", str(criu), "restore", "--image-path", str(images), "--bundle", str(bundle.path), *flags,
                  "again", **options)


def asked(images: Path) -> dict[int, list[int | bytes]]:
    """The options of the last request, all of each."""
    found: dict[int, list[int | bytes]] = {}
    inner = wire._fields((images / "asked").read_bytes())[2]
    assert isinstance(inner, bytes)
    at = 0
    while at < len(inner):
        key, at = protobuf.read_varint(inner, at)
        value, after = protobuf.read_varint(inner, at)
        if key & 7 == 2:
            found.setdefault(key >> 3, []).append(inner[after:after + value])
            after += value
        else:
            found.setdefault(key >> 3, []).append(value)
        at = after
    return found


class TestRefusals:
    def test_no_criu_or_an_old_one(self, barque, bundle, images, tmp_path):
        running(barque, bundle)
        said = checkpoint(barque, Path("/nowhere/criu"), images)
        assert 'checkpoint needs criu: exec: \\"/nowhere/criu\\": executable file not found in $PATH' in said
        done = restore(barque, Path("criu-that-is-not-there"), images, bundle)
        assert done.returncode == 1 and "restore needs criu" in done.stderr
        assert barque.ok("list", "-q") == "subject\n"
        old = tmp_path / "criu"
        old.write_text(f"#!{sys.executable}\nimport socket\nchannel = socket.socket(fileno=3)\nchannel.recv(99)\n"
                       "channel.send(bytes([8, 10, 16, 1, 0x52, 4, 8, 3, 16, 15]))\n")
        old.chmod(0o755)
        assert f"checkpoint needs criu 3.16 or newer, {old} is 3.15.0" in checkpoint(barque, old, images)
        assert barque.state("subject")["status"] == "running"

    def test_what_makes_no_sense(self, barque, bundle, criu, images):
        bundle.save("true")
        barque.detached("create", "--bundle", str(bundle.path), "subject")
        assert "Container cannot be checkpointed in created state" in checkpoint(barque, criu, images)
        assert "--no-pivot is not supported" in restore(barque, criu, images, bundle, "--no-pivot").stderr
        bundle.linux["seccomp"] = {"defaultAction": "SCMP_ACT_ALLOW", "listenerPath": "/x"}
        bundle.save("true")
        assert "containers with a seccomp listener cannot be checkpointed or restored" in restore(
            barque, criu, images, bundle).stderr

    @pytest.mark.parametrize(("flag", "said"), [
        ("--lazy-pages", "--lazy-pages is not supported"),
        ("--page-server=1.2.3.4:5", "--page-server is not supported"),
        ("--status-fd=9", "--status-fd is not supported"),
        ("--empty-ns=ipc", 'namespace \\"ipc\\" is not supported')])
    def test_flags(self, barque, criu, images, flag, said):
        assert said in checkpoint(barque, criu, images, flag)


class TestCheckpoint:
    def test_what_criu_is_asked(self, barque, bundle, criu, images, tmp_path):
        (tmp_path / "given").write_text("x")
        (bundle.rootfs / "etc/link").symlink_to("/tmp/through")
        (bundle.rootfs / "tmp/through").touch()
        bundle.spec["mounts"].append({"destination": "/etc/link", "type": "bind", "source": str(tmp_path / "given"),
                                      "options": ["bind", "ro"]})
        for item in bundle.linux["namespaces"]:
            if item["type"] == "network":
                item["path"] = "/proc/self/ns/net"
        pid = running(barque, bundle)
        assert checkpoint(barque, criu, images, "--tcp-established", "--file-locks") == ""
        options = asked(images)
        assert (options[2], options[3], options[5], options[8]) == ([pid], [0], [1], [1])
        assert (options[13], options[38]) == ([str(bundle.rootfs).encode()], [NEWNET])
        external = options[37]
        assert b"mnt[/tmp/through]:/etc/link" in external
        assert b"mnt[/proc/interrupts]:/dev/null" in external
        assert f"net[{os.stat('/proc/self/ns/net').st_ino}]:extRootNetNS".encode() in external
        assert json.loads((images / "descriptors.json").read_text())[0].startswith("file[")
        assert barque.ok("list", "-q") == ""

    def test_it_runs_on_if_asked_to(self, barque, bundle, criu, images):
        pid = running(barque, bundle)
        first, second = images / "first", images / "second"
        first.mkdir()
        assert checkpoint(barque, criu, first, "--pre-dump", "--work-path", str(images / "logs")) == ""
        assert wire._fields((first / "asked").read_bytes())[1] == wire.PRE_DUMP
        assert (images / "logs").is_dir() and not (first / "descriptors.json").exists()
        assert "--parent-path must be relative" in checkpoint(barque, criu, second, "--parent-path=/x")
        assert "invalid --parent-path" in checkpoint(barque, criu, second, "--parent-path=../none")
        assert "Invalid manage-cgroups-mode" in checkpoint(barque, criu, second, "--manage-cgroups-mode=x")
        assert checkpoint(barque, criu, second, "--parent-path", "../first", "--leave-running") == ""
        assert (asked(second)[3], asked(second)[14], asked(second)[15]) == ([1], [b"../first"], [1])
        for behave, said in FAILURES:
            (images / "behave").write_text(behave)
            assert said in checkpoint(barque, criu, images)
        state = barque.state("subject")
        assert (state["status"], state["pid"]) == ("running", pid)


class TestRestore:
    @pytest.fixture(autouse=True)
    def _checkpoint(self, bundle: Bundle, images: Path) -> None:
        bundle.save("true")
        (images / "descriptors.json").write_text('["/dev/null","pipe:[77]","file[1a:2b]"]')

    def test_exit_code_and_output(self, barque, bundle, criu, images):
        (images / "behave").write_text("wait busybox expr 5 + 6")
        done = restore(barque, criu, images, bundle)
        assert (done.returncode, done.stdout, done.stderr) == (0, "11\n", "")
        (images / "behave").write_text("wait busybox false")
        assert restore(barque, criu, images, bundle).returncode == 1
        assert barque.ok("list", "-q") == ""

    def test_what_criu_is_asked(self, barque, bundle, criu, images, tmp_path):
        (tmp_path / "given").write_text("x")
        bundle.spec["mounts"].append({"destination": "/etc/given", "type": "bind", "source": str(tmp_path / "given"),
                                      "options": ["bind"]})
        bundle.spec["linux"]["namespaces"] = [
            {**item, "path": f"/proc/self/ns/{item['type'][:3]}"} if item["type"] in ("network", "uts") else item
            for item in bundle.spec["linux"]["namespaces"]]
        bundle.spec.pop("hostname")
        bundle.save("true")
        (images / "behave").write_text("wait true")
        assert restore(barque, criu, images, bundle, "--lsm-profile", "apparmor:x").stderr == ""
        options = asked(images)
        assert options[26] == [1]
        assert f"mnt[/etc/given]:{tmp_path / 'given'}".encode() in options[37]
        assert b"mnt[/dev/null]:/dev/null" in options[37]
        inherited = [wire._fields(item) for item in options[27] if isinstance(item, bytes)]
        assert inherited == [{1: b"extRootNetNS", 2: 4}, {1: b"pipe:[77]", 2: 1}, {1: b"file[1a:2b]", 2: 2}]
        assert [wire._fields(item) for item in options[39] if isinstance(item, bytes)] == [
            {1: b"uts", 2: b"/proc/self/ns/uts"}]
        assert options[53] == [b"apparmor:x"]
        # Mount points that the new root lacked are there now.
        assert (bundle.rootfs / "etc/given").is_file() and (bundle.rootfs / "proc").is_dir()

    def test_detached(self, barque, bundle, criu, images, tmp_path):
        (images / "behave").write_text("wait sleep 1000")
        barque.detached("--criu", str(criu), "restore", "--image-path", str(images), "--bundle", str(bundle.path),
                        "--detach", "--pid-file", str(tmp_path / "pid"), "again")
        state = barque.state("again")
        assert (state["status"], state["pid"]) == ("running", int((tmp_path / "pid").read_text()))
        assert "container with given ID already exists" in restore(barque, criu, images, bundle).stderr
        barque.ok("delete", "--force", "again")
        assert barque.ok("list", "-q") == ""

    def test_hooks_of_the_host_run(self, barque, bundle, criu, images, tmp_path):
        bundle.spec["hooks"] = {"createRuntime": [{"path": "/bin/sh", "args": ["sh", "-c", f"cat > {tmp_path}/hook"]}]}
        bundle.save("true")
        (images / "behave").write_text("wait true")
        restore(barque, criu, images, bundle)
        state = json.loads((tmp_path / "hook").read_text())
        assert (state["id"], state["status"]) == ("again", "creating") and state["pid"] > 0

    def test_criu_fails(self, barque, bundle, criu, images):
        for behave, said in FAILURES:
            (images / "behave").write_text(behave)
            done = restore(barque, criu, images, bundle)
            assert done.returncode == 1 and said in done.stderr
        assert barque.ok("list", "-q") == ""

    def test_no_checkpoint(self, barque, bundle, criu, images, tmp_path):
        (images / "descriptors.json").unlink()
        assert f"there is no checkpoint in {images}" in restore(barque, criu, images, bundle).stderr
        assert "no such file or directory" in restore(barque, criu, tmp_path / "none", bundle).stderr.lower()
        assert barque.ok("list", "-q") == ""


@pytest.mark.skipif(not PROTO.exists(), reason="needs criu")
def test_numbers_are_those_of_criu():
    text = PROTO.read_text()

    def fields(message: str) -> dict[str, int]:
        body = re.search(rf"message {message} {{(.*?)}}", text, re.DOTALL)
        assert body is not None
        return {name: int(number) for name, number in re.findall(r"(\w+)\s*=\s*(\d+)\s*[\[;]", body[1])}

    known = fields("criu_opts")
    assert {name: known.get(name) for name in wire.OPTIONS} == wire.OPTIONS
    for ours, theirs in (("cg_root", "cgroup_root"), ("inherit_fd", "inherit_fd"), ("join_ns", "join_namespace")):
        assert wire._INNER[ours].items() <= fields(theirs).items()
    assert wire._REQUEST.items() <= fields("criu_req").items()
