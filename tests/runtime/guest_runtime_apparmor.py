"""Containers under AppArmor: profiles of documents, and the engine's default one. Run in the virtual machine."""

from __future__ import annotations

import asyncio
import json
import subprocess
from pathlib import Path

import pytest

from barque.engine import apparmor
from tests.runtime.conftest import Bundle, Runtime

CURRENT = "/proc/self/attr/current"
#: Everything but the one file, so that what is refused can only be so by the profile.
BOX = """profile box flags=(attach_disconnected,mediate_deleted) { file, capability, signal, deny /secret r, }
profile hat flags=(attach_disconnected,mediate_deleted) { file, capability, signal, deny /other r, }
"""
ALL_CAPABILITIES = ["CAP_SYS_ADMIN", "CAP_SYS_PTRACE", "CAP_DAC_OVERRIDE", "CAP_KILL", "CAP_CHOWN"]


@pytest.fixture(scope="module", autouse=True)
def profiles() -> None:
    parser = apparmor.find_parser()
    assert apparmor.is_enabled() and parser
    subprocess.run([parser, "--skip-cache", "--replace"], input=BOX.encode(), check=True)
    asyncio.run(apparmor.make_sure(apparmor.DEFAULT, parser))


@pytest.fixture
def files(bundle: Bundle) -> Bundle:
    for name in ("secret", "other"):
        (bundle.rootfs / name).write_text(f"{name}\n")
    return bundle


def under(bundle: Bundle, profile: str) -> Bundle:
    bundle.process["apparmorProfile"] = profile
    return bundle


def powerful(bundle: Bundle) -> Bundle:
    """As a privileged container: nothing but a profile is in the way."""
    bundle.process["noNewPrivileges"] = False
    bundle.process["capabilities"] = dict.fromkeys(("bounding", "effective", "permitted"), ALL_CAPABILITIES)
    bundle.linux["maskedPaths"] = bundle.linux["readonlyPaths"] = []
    for mount in bundle.spec["mounts"]:
        mount["options"] = [word for word in mount.get("options", []) if word != "ro"]
    return bundle


class TestProfiles:
    def test_the_first_process_has_it(self, barque: Runtime, files: Bundle) -> None:
        done = barque.run(under(files, "box"), "cat", CURRENT, "/other", "/secret")
        assert done.stdout == "box (enforce)\nother\n"
        assert "can't open '/secret': Permission denied" in done.stderr

    def test_none(self, barque: Runtime, files: Bundle) -> None:
        assert barque.output(under(files, "unconfined"), "cat", CURRENT, "/secret") == "unconfined\nsecret\n"

    def test_two_at_once(self, barque: Runtime, files: Bundle) -> None:
        done = barque.run(under(files, "box//&hat"), "sh", "-c", f"cat {CURRENT}; cat /secret; cat /other")
        assert done.stdout == "box//&hat (enforce)\n"
        assert done.stderr.count("Permission denied") == 2

    def test_whoever_joins_has_it_too(self, barque: Runtime, files: Bundle, tmp_path: Path) -> None:
        under(files, "box").save("sleep", "1000")
        barque.detached("run", "--detach", "--bundle", str(files.path), "joined")
        assert barque.ok("exec", "joined", "cat", CURRENT) == "box (enforce)\n"
        assert barque.ok("exec", "--apparmor", "hat", "joined", "cat", CURRENT) == "hat (enforce)\n"
        process = tmp_path / "process.json"
        process.write_text(json.dumps(files.process | {"args": ["cat", CURRENT], "apparmorProfile": "unconfined"}))
        assert barque.ok("exec", "--process", str(process), "joined") == "unconfined\n"
        refused = barque("exec", "--apparmor", "missing", "joined", "true")
        assert "'missing' is not loaded" in refused.stderr
        barque.ok("delete", "--force", "joined")

    def test_one_that_is_not_loaded(self, barque: Runtime, files: Bundle) -> None:
        done = barque.run(under(files, "missing"), "true")
        assert done.returncode == 1
        assert "unable to apply apparmor profile: 'missing' is not loaded on this host" in done.stderr

    def test_in_a_user_namespace(self, barque: Runtime, files: Bundle) -> None:
        files.linux["namespaces"].append({"type": "user"})
        files.linux["uidMappings"] = files.linux["gidMappings"] = [{"containerID": 0, "hostID": 0, "size": 65536}]
        done = barque.run(under(files, "box"), "cat", CURRENT, "/secret")
        assert done.stdout == "box (enforce)\n"
        assert "Permission denied" in done.stderr


#: What a container that may do everything does to the host, each told by its name where it succeeds.
ATTACKS = {
    "mount": "mount -t tmpfs none /tmp",
    "sysrq": "echo h >/proc/sysrq-trigger",
    "core_pattern": "echo core >/proc/sys/kernel/core_pattern",
    "sysfs": "cat /sys/kernel/rcu_normal >/tmp/rcu && cat /tmp/rcu >/sys/kernel/rcu_normal",
    "irq": "cat /proc/irq/default_smp_affinity >/tmp/irq && cat /tmp/irq >/proc/irq/default_smp_affinity",
    "trace": "cat /proc/1/environ >/dev/null",
    "root": "readlink /proc/1/root",
    "signal": "kill -0 1",
}


class TestDefault:
    def test_attacks(self, barque: Runtime, bundle: Bundle) -> None:
        """Each one works without the profile, so it is the profile that refuses."""
        powerful(bundle)
        bundle.linux["namespaces"] = [item for item in bundle.linux["namespaces"] if item["type"] != "pid"]
        script = "; ".join(f"({attack}) >/dev/null && echo {name}" for name, attack in ATTACKS.items())
        assert barque.run(bundle, "sh", "-c", script).stdout.split() == list(ATTACKS)
        done = barque.run(under(bundle, apparmor.DEFAULT), "sh", "-c", script)
        assert done.stdout == ""
        assert done.stderr.count("ermission denied") == len(ATTACKS) - 1  # readlink has nothing to say

    def test_ordinary_work_goes_on(self, barque: Runtime, bundle: Bundle) -> None:
        work = ("echo x >/tmp/file && cat /tmp/file && chown 1:1 /tmp/file && sleep 1000 & sleep 0; kill $! && "
                "cat /proc/$$/environ >/dev/null && echo 0 >/proc/self/oom_score_adj && ps >/dev/null && "
                "echo 123 >/proc/sys/kernel/shmmni && echo y >/dev/shm/y && cat /proc/sys/kernel/shmmni")
        bundle.linux["readonlyPaths"] = []
        assert barque.output(under(bundle, apparmor.DEFAULT), "sh", "-c", work).endswith("123\n")

    def test_the_engine_loads_it_again(self) -> None:
        parser = apparmor.find_parser()
        assert parser and apparmor.is_loaded(apparmor.DEFAULT)
        subprocess.run([parser, "--remove"], input=apparmor.profile("unconfined").encode(), check=True)
        assert not apparmor.is_loaded(apparmor.DEFAULT)
        asyncio.run(apparmor.make_sure(apparmor.DEFAULT, parser))
        assert apparmor.is_loaded(apparmor.DEFAULT)
