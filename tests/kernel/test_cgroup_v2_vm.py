"""Pure cgroup v2 and systemd, which this host need not have: the guest_*.py beside this file in a virtual machine."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.vm import PYTEST, Guest, GuestUnavailable

pytestmark = pytest.mark.slow
HERE = Path(__file__).parent


@pytest.mark.parametrize(("files", "systemd"), [(("guest_cgroup_v2.py", "cgroup_cases.py"), False),
                                                (("guest_systemd.py",), True)], ids=["plain", "systemd"])
def test_in_a_guest(files: tuple[str, ...], systemd: bool, tmp_path: Path) -> None:
    try:
        guest = Guest(tmp_path)
        if systemd:
            guest.add_systemd()
    except GuestUnavailable as error:
        pytest.skip(str(error))
    for package in ("msgspec", *PYTEST):
        guest.add_package(package)
    result = guest.run("python -m pytest -c /dev/null --rootdir=/barque --noconftest -p no:cacheprovider --no-header "
                       f"--color=no --tb=short -q -rp tests/kernel/{files[0]}", timeout=400)
    assert result.code == 0, result.output
    passed = set(re.findall(r"^PASSED \S+::(test_\w+)$", result.output, re.MULTILINE))
    assert passed == {name for file in files for name in re.findall(r"def (test_\w+)\(self", (HERE / file).read_text())}
