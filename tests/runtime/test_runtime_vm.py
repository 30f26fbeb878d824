"""An older kernel than this host's: pure cgroup v2, and an overlay that takes its layers as one string (before 6.5)."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from tests.vm import PYTEST, Guest, GuestUnavailable

pytestmark = pytest.mark.slow
#: What needs Linux 6.8, or a virtual environment around the interpreter.
LEFT_OUT = "not hundreds_of_layers and not nothing_is_imported"
#: An initramfs is no mount that pivot_root could replace, so the tests get a mount on top of it as their root.
NEW_ROOT = ("mount --make-rprivate / && mkdir /top && mount --rbind / /top && cd /top && mount --move . / && "
            "exec chroot . sh /tests")


#: Commands by commands: what a cold start each leaves time for under emulation.
COMMANDS = ("test_runtime_commands.py", "barque and not pause_stops and not list")
NAMESPACES = ("test_runtime_namespaces.py", "not runc and not devices_of_the_host")


def run_in_guest(directory: Path, files: str, chosen: str, *, systemd: bool = False, timeout: int = 400) -> int:
    """Run tests of this folder in a guest; returns how many passed."""
    try:
        guest = Guest(directory, 1024)
        if systemd:
            guest.add_systemd()
    except GuestUnavailable as error:
        pytest.skip(str(error))
    for package in ("msgspec", *PYTEST):
        guest.add_package(package)
    # The runtime starts itself anew with -I, which heeds no PYTHONPATH.
    guest.add(f"{Path(os.__file__).parent}/site-packages/guest.pth", b"/barque/src\n/barque/packages\n")
    guest.add_module("overlay")
    guest.add("/tests", ("cd /barque && python -m pytest -c /dev/null --rootdir=/barque --confcutdir=tests/runtime "
                         "--import-mode=importlib -p no:cacheprovider --color=no --tb=short -q "
                         f"-k '{chosen}' tests/runtime/{files}\n").encode())
    result = guest.run(NEW_ROOT, timeout=timeout)
    assert result.code == 0, result.output
    summary = re.search(r"^(\d+) passed", result.output, re.MULTILINE)
    assert summary, result.output
    return int(summary[1])


def test_containers_on_an_older_kernel(tmp_path: Path) -> None:
    assert run_in_guest(tmp_path, "test_runtime_api.py", LEFT_OUT) > 25


@pytest.mark.parametrize(("files", "chosen"), [COMMANDS, NAMESPACES], ids=["commands", "namespaces"])
def test_the_command_line_on_cgroup_v2(tmp_path: Path, files: str, chosen: str) -> None:
    assert run_in_guest(tmp_path, files, chosen, timeout=550) > 15


def test_the_command_line_under_systemd(tmp_path: Path) -> None:
    assert run_in_guest(tmp_path, "guest_runtime_systemd.py", "Systemd", systemd=True, timeout=550) == 5
