"""An older kernel than this host's: pure cgroup v2, and an overlay that takes its layers as one string (before 6.5)."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.vm import PYTEST, Guest, GuestUnavailable

#: What needs Linux 6.8, or a virtual environment around the interpreter.
LEFT_OUT = "not hundreds_of_layers and not nothing_is_imported"
#: An initramfs is no mount that pivot_root could replace, so the tests get a mount on top of it as their root.
NEW_ROOT = "mkdir /top && mount --rbind / /top && cd /top && mount --move . / && exec chroot . sh /tests"


@pytest.mark.slow
def test_containers_on_an_older_kernel(tmp_path: Path) -> None:
    try:
        guest = Guest(tmp_path, 1024)
    except GuestUnavailable as error:
        pytest.skip(str(error))
    for package in ("msgspec", *PYTEST):
        guest.add_package(package)
    guest.add_module("overlay")
    guest.add("/tests", ("cd /barque && python -m pytest -c /dev/null --rootdir=/barque --confcutdir=tests/runtime "
                         "--import-mode=importlib -p no:cacheprovider --color=no --tb=short -q "
                         f"-k '{LEFT_OUT}' tests/runtime/test_runtime_api.py\n").encode())
    result = guest.run(NEW_ROOT, timeout=400)
    assert result.code == 0, result.output
    summary = re.search(r"^(\d+) passed", result.output, re.MULTILINE)
    assert summary and int(summary[1]) > 25
