"""What every test shares: namespaces of the run's own, the leak check and the list of expected skips.

As root the whole run moves into a fresh network namespace, so that no test can touch the links, routes and rules of the
machine nor send a packet beyond it, and into a private mount namespace, so that the leak check sees its mounts only.
"""

from __future__ import annotations

import ctypes
import fnmatch
import glob
import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

CLONE_NEWNS = 0x00020000
CLONE_NEWNET = 0x40000000
MS_REC_PRIVATE = 0x4000 | 0x40000
TESTS = Path(__file__).parent
AREAS_FOR_ROOT = ("kernel", "runtime", "api", "e2e", "contract", "crash", "conformance")
#: How long a module's asynchronous teardown (namespaces die, processes are reaped) may take to finish, in seconds.
SETTLE = 60.0
#: The most that a test marked so may take, in seconds: it boots a machine.
SLOW = 600
#: Cgroups that tests make themselves, with the number of the run's process in their names.
_NUMBERED = re.compile(r"barque-[a-z]+-(\d+).*")
_skipped: set[str] = set()


def pytest_configure(config: pytest.Config) -> None:
    # How long an example takes says more about the machine's other work than about the code; and the verdict about a
    # change must not depend on chance, which --hypothesis-profile=search is for.
    unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
    settings.register_profile("search", unhurried)
    settings.register_profile("steady", unhurried, derandomize=True)
    settings.load_profile(config.getoption("--hypothesis-profile") or "steady")
    # A command line that nobody told where the engine is would start one on the default paths.
    os.environ["DOCKER_HOST"] = "unix:///nonexistent/engine.sock"
    # docker's command line builds in another way where its plugin buildx is installed: tests say what they want.
    os.environ["DOCKER_BUILDKIT"] = "0"
    if config.option.basetemp is None:
        # Short, since sockets have paths of 107 bytes at most, and not shared, since pytest tidies up what it shares.
        config.option.basetemp = tempfile.mkdtemp(prefix="brq-")
        config.add_cleanup(lambda: shutil.rmtree(config.option.basetemp, ignore_errors=True))
    if os.geteuid() == 0 and not config.option.collectonly:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.unshare(CLONE_NEWNET | CLONE_NEWNS) != 0 or libc.mount(None, b"/", None, MS_REC_PRIVATE, None) != 0:
            raise pytest.UsageError("cannot make namespaces: " + os.strerror(ctypes.get_errno()))
        # Without iproute2 the tests that need it say so themselves.
        if Path("/usr/sbin/ip").exists() or Path("/usr/bin/ip").exists():
            subprocess.run(["ip", "link", "set", "lo", "up"], check=True)


def _area(path: Path) -> str:
    return path.relative_to(TESTS).parts[0]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.get_closest_marker("slow") and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(SLOW))
        if _area(item.path) in AREAS_FOR_ROOT and os.geteuid() != 0:
            item.add_marker(pytest.mark.skip(reason="needs root"))


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.skipped and not hasattr(report, "wasxfail"):
        _skipped.add(report.nodeid)


def _expected_skips() -> list[str]:
    lines = (TESTS / "skips.txt").read_text().splitlines()
    return [line.split("#")[0].strip() for line in lines if line.split("#")[0].strip()]


def pytest_sessionfinish(session: pytest.Session) -> None:
    """A skip that nobody listed is a failure: else a broken set-up would look like a green run."""
    patterns = _expected_skips()
    surprises = sorted(name for name in _skipped if not any(fnmatch.fnmatchcase(name, p) for p in patterns))
    if surprises and os.geteuid() == 0:
        reporter = session.config.pluginmanager.get_plugin("terminalreporter")
        if reporter is not None:
            reporter.write_line("")
            for name in surprises:
                reporter.write_line(f"unexpected skip, list it in tests/skips.txt or mend it: {name}", red=True)
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def _lines(*command: str) -> list[str]:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.splitlines() if done.returncode == 0 else []


def _named() -> tuple[set[str], set[int]]:
    """Processes that name us: what those of this run are, and the numbers of other runs'.

    The network namespace tells them apart.
    """
    own, others, here = set(), set(), os.readlink("/proc/self/ns/net")
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            line = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            if "barque" not in line or "pytest" in line or int(pid) == os.getpid():
                continue
            parent = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1]
            if os.readlink(f"/proc/{pid}/ns/net") == here:
                own.add(f"process {pid} (parent {parent}): {line.strip()}")
            else:
                others.add(int(pid))
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            # Gone meanwhile, or with more capabilities than this run has: not started by it.
            continue
    return own, others


def _parents(cgroup: str) -> set[int]:
    """Who started the processes in it and below."""
    found = set()
    for listing in glob.glob(f"{cgroup}/**/cgroup.procs", recursive=True):
        try:
            for pid in Path(listing).read_text().split():
                found.add(int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1]))
        except (OSError, IndexError):
            continue
    return found


def _cgroups(others: set[int]) -> set[str]:
    """Those that name us and those of containers; not those of the processes ``others`` and of other runs of tests."""
    found = set()
    for pattern in ("*barque*", "barque/*", "*/*barque*", "*/barque/*"):
        for path in filter(os.path.isdir, glob.glob(f"/sys/fs/cgroup/{pattern}")):
            name = os.path.basename(path)
            run = _NUMBERED.fullmatch(name)
            if name == "barque":    # shared by all engines of the machine; the last one removes it
                used = bool(others)
            elif run is not None:
                used = int(run[1]) != os.getpid()
            else:
                used = bool(_parents(path) & others)
            if not used:
                found.add(f"cgroup {path}")
    return found


def _world() -> set[str]:
    """Everything outside this process that a test could leave behind."""
    mounts = {f"mount {line.split()[4]}" for line in Path("/proc/self/mountinfo").read_text().splitlines()}
    links = {f"link {line.split(':')[1].strip().split('@')[0]}" for line in _lines("ip", "-o", "link", "show")}
    tables = {f"nft {line}" for line in _lines("nft", "list", "tables")}
    own, others = _named()
    return mounts | links | tables | own | _cgroups(others)


@pytest.fixture(scope="module", autouse=True)
def nothing_left_behind(request: pytest.FixtureRequest) -> Iterator[None]:
    """Compare mounts, links, rules, cgroups and processes before and after each module that works on the kernel.

    Other runs on the same machine come and go meanwhile: what is theirs does not count.
    """
    if _area(request.path) not in AREAS_FOR_ROOT or os.geteuid() != 0:
        yield
        return
    before = _world()
    yield
    deadline = time.monotonic() + SETTLE
    left = _world() - before
    while left and time.monotonic() < deadline:
        time.sleep(0.05)
        left &= _world()
    assert not left, "left behind:\n" + "\n".join(sorted(left))
