"""Pure cgroup v2, which this host need not have: guest_cgroup_v2.py in a virtual machine."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.vm import PYTEST, Guest, GuestUnavailable

pytestmark = pytest.mark.slow


def test_the_v2_manager_in_a_guest(tmp_path: Path) -> None:
    try:
        guest = Guest(tmp_path)
    except GuestUnavailable as error:
        pytest.skip(str(error))
    for package in ("msgspec", *PYTEST):
        guest.add_package(package)
    result = guest.run("python -m pytest -c /dev/null --rootdir=/barque --noconftest -p no:cacheprovider --no-header "
                       "--color=no -q -rp tests/kernel/guest_cgroup_v2.py", timeout=400)
    passed = set(re.findall(r"^PASSED \S+::TestV2::(\w+)$", result.output, re.MULTILINE))
    written = set(re.findall(r"def (test_\w+)\(self", "".join(
        Path(__file__).with_name(name).read_text() for name in ("guest_cgroup_v2.py", "cgroup_cases.py"))))
    assert result.code == 0, result.output
    assert passed == written
