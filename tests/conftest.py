"""What every test shares: a network namespace of the run's own, and the check that nothing is left behind.

As root the whole run moves into a fresh network namespace, so that no test can touch the links, routes and rules of the
machine nor send a packet beyond it.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
from pathlib import Path

import pytest

CLONE_NEWNET = 0x40000000
AREAS_FOR_ROOT = ("kernel", "runtime", "api", "e2e", "contract", "crash", "conformance")


def pytest_configure(config: pytest.Config) -> None:
    if os.geteuid() == 0:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.unshare(CLONE_NEWNET) != 0:
            raise pytest.UsageError("cannot make a network namespace: " + os.strerror(ctypes.get_errno()))
        # sysfs shows the network namespace of whoever mounted it; the tests look at links with ip(8) instead.
        if Path("/usr/sbin/ip").exists() or Path("/usr/bin/ip").exists():
            subprocess.run(["ip", "link", "set", "lo", "up"], check=True)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    tests = Path(__file__).parent
    for item in items:
        area = item.path.relative_to(tests).parts[0]
        if area in AREAS_FOR_ROOT and os.geteuid() != 0:
            item.add_marker(pytest.mark.skip(reason="needs root"))
