"""Bundles to run, the runtimes to run them with, and the check that a test leaves nothing on the machine."""

from __future__ import annotations

import itertools
import json
import os
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from barque.runtime.default_spec import default_document

BUSYBOX = "/bin/busybox"
CGROUPS = Path("/sys/fs/cgroup")
#: How long one answer may take, in seconds.
ANSWER = 60
_numbers = itertools.count()


@pytest.fixture(scope="session")
def busybox_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root file system of busybox alone, to be copied or used as a lower layer."""
    if not os.path.exists(BUSYBOX):
        pytest.skip("needs busybox-static")
    root = tmp_path_factory.mktemp("busybox")
    root.chmod(0o755)
    (root / "bin").mkdir()
    shutil.copy(BUSYBOX, root / "bin/busybox")
    applets = subprocess.run([BUSYBOX, "--list"], capture_output=True, text=True, check=True).stdout.split()
    for name in applets:
        if name != "busybox":
            (root / "bin" / name).symlink_to("busybox")
    for name in ("etc", "tmp", "root"):
        (root / name).mkdir()
    (root / "tmp").chmod(0o1777)
    (root / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\nworker:x:1000:1001:w:/home/worker:/bin/sh\n")
    (root / "etc/group").write_text("root:x:0:\nworkers:x:1001:\naudio:x:29:worker\n")
    return root


class Bundle:
    """A bundle on disk; change ``spec`` (a plain tree) and call save()."""

    def __init__(self, path: Path, root: Path) -> None:
        self.path = path
        self.rootfs = path / "rootfs"
        shutil.copytree(root, self.rootfs, symlinks=True)
        self.spec: dict[str, Any] = default_document()
        self.cgroup = f"/barque-test-{os.getpid()}-{next(_numbers)}"
        self.spec["process"]["terminal"] = False
        self.spec["root"]["readonly"] = False
        self.linux["cgroupsPath"] = self.cgroup

    @property
    def process(self) -> dict[str, Any]:
        return self.spec["process"]

    @property
    def linux(self) -> dict[str, Any]:
        return self.spec["linux"]

    def save(self, *args: str) -> None:
        if args:
            self.process["args"] = list(args)
        (self.path / "config.json").write_text(json.dumps(self.spec))


@pytest.fixture
def bundle(tmp_path: Path, busybox_root: Path) -> Bundle:
    tmp_path.chmod(0o755)
    path = tmp_path / "bundle"
    path.mkdir()
    return Bundle(path, busybox_root)


def wait_until(happened: Callable[[], bool]) -> None:
    deadline = time.monotonic() + ANSWER
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.01)


class Runtime:
    """One runtime's command line over a state directory of its own."""

    def __init__(self, name: str, root: Path) -> None:
        self.name = name
        self.root = root
        program = [str(Path(sys.executable).with_name(name))] if name == "barque-runtime" else [name]
        self.base = [*program, "--root", str(root)]

    def __call__(self, *args: str, **options: Any) -> subprocess.CompletedProcess[str]:
        options = {"stdin": subprocess.DEVNULL, "timeout": 60, **options}
        return subprocess.run([*self.base, *args], capture_output=True, text=True, check=False, **options)

    def ok(self, *args: str, **options: Any) -> str:
        done = self(*args, **options)
        assert done.returncode == 0, done.stderr
        return str(done.stdout)

    def detached(self, *args: str) -> None:
        """For create and run -d, whose container would keep captured pipes open."""
        done = subprocess.run([*self.base, *args], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                              stderr=subprocess.DEVNULL, check=False, timeout=60)
        assert done.returncode == 0
        if self.name == "runc" and args[0] == "run":
            self._until_the_program_runs(args[-1])

    def _until_the_program_runs(self, container: str) -> None:
        """runc's start is over before its last exec."""
        def runs() -> bool:
            try:
                return not Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"runc\0init\0")
            except (FileNotFoundError, ProcessLookupError):
                return True

        pid = self.state(container)["pid"]
        wait_until(runs)

    def run(self, bundle: Bundle, *args: str, **options: Any) -> subprocess.CompletedProcess[str]:
        """Run the bundle with ``args`` to its end."""
        bundle.save(*args)
        return self("run", "--bundle", str(bundle.path), "run-test", **options)

    def output(self, bundle: Bundle, *args: str, **options: Any) -> str:
        done = self.run(bundle, *args, **options)
        assert done.returncode == 0, done.stderr
        return str(done.stdout)

    def state(self, container: str) -> dict[str, Any]:
        tree: dict[str, Any] = json.loads(self.ok("state", container))
        return tree


def read_until(fd: int, wanted: bytes | None) -> bytes:
    """What comes from ``fd`` until ``wanted`` is among it; without it until the end, which of a terminal is EIO."""
    text, end = b"", time.monotonic() + ANSWER
    while wanted is None or wanted not in text:
        assert select.select([fd], [], [], max(0.0, end - time.monotonic()))[0], f"no {wanted!r} after {text!r}"
        try:
            piece = os.read(fd, 65536)
        except OSError:
            piece = b""
        if not piece:
            assert wanted is None, f"the end instead of {wanted!r} after {text!r}"
            break
        text += piece
    return text


@contextmanager
def living(*unshare: str) -> Iterator[int]:
    """A process in new namespaces; its number."""
    helper = subprocess.Popen(["unshare", *unshare, "sh", "-c", "echo there; exec sleep 1000"], stdout=subprocess.PIPE)
    assert helper.stdout
    try:
        read_until(helper.stdout.fileno(), b"there\n")
        yield helper.pid
    finally:
        helper.kill()
        helper.wait()
        helper.stdout.close()


def has_ended(pid: int) -> bool:
    """Gone, or a zombie that whoever adopted it has yet to reap."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return True


def _make(name: str, root: Path) -> Iterator[Runtime]:
    if name != "barque-runtime" and shutil.which(name) is None:
        pytest.skip(f"needs {name}")
    runtime = Runtime(name, root)
    yield runtime
    for container in runtime.ok("list", "-q").split():
        runtime("delete", "--force", container)


@pytest.fixture(params=["barque-runtime", "runc"])
def runtime(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Runtime]:
    """The same expectations hold for both."""
    yield from _make(request.param, tmp_path / "state")


@pytest.fixture
def barque(tmp_path: Path) -> Iterator[Runtime]:
    """Ours alone, for what runc does otherwise or not at all."""
    yield from _make("barque-runtime", tmp_path / "state")


def _children() -> list[str]:
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if int((entry / "stat").read_text().rpartition(")")[2].split()[1]) == os.getpid():
                found.append(entry.name)
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


def _traces(folder: Path) -> dict[str, object]:
    cgroups = sorted(str(path) for tree in CGROUPS.iterdir() if tree.is_dir()
                     for path in [tree, *tree.iterdir()] if f"barque-test-{os.getpid()}-" in path.name)
    mounts = [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if str(folder) in line]
    namespaces = {name: os.readlink(f"/proc/self/ns/{name}") for name in os.listdir("/proc/self/ns")}
    return {"cgroups": cgroups, "mounts": mounts, "children": _children(), "namespaces": namespaces,
            "fds": len(os.listdir("/proc/self/fd"))}


@pytest.fixture(autouse=True)
def no_traces(tmp_path: Path) -> Iterator[None]:
    """Mounts, processes, cgroups, namespaces and descriptors are the same after a test as before."""
    before = _traces(tmp_path)
    yield
    assert _traces(tmp_path) == before
