"""What this host need not have, in virtual machines: pure cgroup v2, systemd, and an older kernel, whose overlay takes
its layers as one string (before Linux 6.5). Each machine is booted once, for everything that is to be seen in it.
"""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import pytest

from tests.vm import PYTEST, ROOT, Guest, GuestUnavailable, Result

#: Seconds for one machine, on a host that is busy with other things.
BOOT = 1200
pytestmark = [pytest.mark.slow, pytest.mark.timeout(BOOT + 60)]
#: An initramfs is no mount that pivot_root could replace, so the tests get a mount on top of it as their root.
NEW_ROOT = ("mount --make-rprivate / && mkdir /top && mount --rbind / /top && cd /top && mount --move . / && "
            "exec chroot . sh /tests")
#: What needs Linux 6.8 or a virtual environment around the interpreter; and what is the same on every host, since each
#: command is dear under emulation.
LEFT_OUT = ("hundreds_of_layers", "nothing_is_imported", "devices_of_the_host", "runc", "pause_stops", "forms_of_list",
            "no_paths", "errors_go_to", "no_bundle", "not_supported", "cannot_run", "exec_of_a_directory", "wrong_kind",
            "need_a_mount_namespace", "does_not_exist", "namespace_that_is_none", "reach_the_log", "spec_writes",
            "of_a_created", "is_taken_once", "standard_input", "process_document", "needs_a_program", "groups_by_name",
            "users_that")
#: What criu asks the kernel with, and holds the network by; and it keeps a tmpfs by GNU tar.
CRIU_MODULES = ("unix_diag", "tcp_diag", "udp_diag", "raw_diag", "af_packet_diag", "netlink_diag", "nf_tables",
                "nf_conntrack_netlink")
#: What loads profiles, which not every distribution has.
PARSER = "/usr/sbin/apparmor_parser"
APPARMOR = "tests/runtime/guest_runtime_apparmor.py"
#: Of this folder.
COMMON = ("test_runtime_api.py", "test_runtime_commands.py", "test_runtime_namespaces.py",
          "guest_runtime_delegation.py")


def boot(directory: Path, files: list[str], parameters: str, *, systemd: bool = False) -> Result:
    """Run ``files`` of this checkout in a guest, all by one pytest; ``parameters`` are its kernel's."""
    try:
        guest = Guest(directory, 1024, parameters)
        if systemd:
            guest.add_systemd()
    except GuestUnavailable as error:
        pytest.skip(str(error))
    for package in ("msgspec", *PYTEST):
        guest.add_package(package)
    guest.add_runtime()
    # What is started with -I heeds no PYTHONPATH.
    guest.add(f"{Path(os.__file__).parent}/site-packages/guest.pth", b"/barque/src\n/barque/packages\n")
    guest.add_module("overlay")
    if "tests/runtime/guest_runtime_criu.py" in files:
        for module in CRIU_MODULES:
            guest.add_module(module)
    if APPARMOR in files:
        guest.add_program(PARSER)
    for program in ("setpriv", "crun", "criu", "tar"):
        if found := shutil.which(program):
            # Before busybox puts its own there.
            guest.add(f"/bin/{program}", Path(found))
    guest.add("/tests", ("cd /barque && python -m pytest -c /dev/null --rootdir=/barque --confcutdir=tests/runtime "
                         "--import-mode=importlib -p no:cacheprovider --color=no --tb=short -q -rp --durations=15 "
                         f"-k 'not ({' or '.join(LEFT_OUT)})' {' '.join(files)}\n").encode())
    result = guest.run(NEW_ROOT, timeout=BOOT)
    assert result.code == 0, result.output
    return result


def passed(result: Result, file: str) -> set[str]:
    return set(re.findall(rf"^PASSED {file}::(\S+)$", result.output, re.MULTILINE))


def methods(*files: str) -> set[str]:
    """The names of the tests in classes of ``files``."""
    return {name for file in files for name in re.findall(r"def (test_\w+)\(self", (ROOT / file).read_text())}


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Result:
    names = [*COMMON, *(f"guest_runtime_{name}.py" for name in ("crun", "criu") if shutil.which(name))]
    files = ["tests/kernel/guest_cgroup_v2.py", *(f"tests/runtime/{name}" for name in names)]
    return boot(tmp_path_factory.mktemp("plain"), files + [APPARMOR] * os.path.exists(PARSER), "security=apparmor")


@pytest.fixture(scope="module")
def systemd(tmp_path_factory: pytest.TempPathFactory) -> Result:
    return boot(tmp_path_factory.mktemp("systemd"), [
        "tests/kernel/guest_systemd.py", "tests/runtime/guest_runtime_systemd.py"], "", systemd=True)


@pytest.mark.parametrize("files", [
    ("tests/kernel/guest_cgroup_v2.py", "tests/kernel/cgroup_cases.py"),
    ("tests/runtime/guest_runtime_delegation.py",)], ids=["cgroups", "delegation"])
def test_cgroup_version_2(plain: Result, files: tuple[str, ...]) -> None:
    names = {name.rpartition("::")[2] for name in passed(plain, files[0])}
    assert names == methods(*files)


@pytest.mark.parametrize(("name", "least"), [("api", 15), ("commands", 5), ("namespaces", 12)])
def test_containers_on_version_2_and_an_older_kernel(plain: Result, name: str, least: int) -> None:
    assert len(passed(plain, f"tests/runtime/test_runtime_{name}.py")) > least


@pytest.mark.skipif(shutil.which("crun") is None, reason="needs crun")
def test_crun_behind_our_monitor(plain: Result) -> None:
    names = {name.rpartition("::")[2] for name in passed(plain, "tests/runtime/guest_runtime_crun.py")}
    assert names == methods("tests/runtime/guest_runtime_crun.py")


@pytest.mark.skipif(shutil.which("criu") is None, reason="needs criu")
def test_checkpoints(plain: Result) -> None:
    names = {name.rpartition("::")[2] for name in passed(plain, "tests/runtime/guest_runtime_criu.py")}
    assert names == methods("tests/runtime/guest_runtime_criu.py")


@pytest.mark.skipif(not os.path.exists(PARSER), reason="needs apparmor_parser")
def test_apparmor(plain: Result) -> None:
    names = {name.rpartition("::")[2] for name in passed(plain, APPARMOR)}
    assert names == methods(APPARMOR)


@pytest.mark.parametrize("file", ["tests/kernel/guest_systemd.py", "tests/runtime/guest_runtime_systemd.py"],
                         ids=["cgroups", "runtime"])
def test_systemd(systemd: Result, file: str) -> None:
    assert {name.rpartition("::")[2] for name in passed(systemd, file)} == methods(file)
