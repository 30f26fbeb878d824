"""What a worker can still see and do once it has shut itself in."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

#: Reports on itself after confine(); everything it needs is imported before.
_PROBE = """
import json, os, resource, sys
from barque.store.confine import confine
from barque.sys.caps import get_sets, to_names
root = confine(os.open(sys.argv[1], os.O_RDONLY | os.O_DIRECTORY), ("CAP_CHOWN", "CAP_DAC_OVERRIDE"))
report = {"root": sorted(os.listdir("/")), "fd": sorted(os.listdir(root)), "cwd": os.getcwd(),
          "above": sorted(os.listdir("/..")), "caps": to_names(get_sets()[1])}
try:
    os.chroot("/")
    report["chroot"] = "worked"
except OSError as error:
    report["chroot"] = error.strerror
report["core"] = resource.getrlimit(resource.RLIMIT_CORE)
sys.stdout.write(json.dumps(report))
"""


def test_only_the_target_is_left(tmp_path: Path) -> None:
    (tmp_path / "target").mkdir()
    (tmp_path / "target/inside").write_text("")
    command = [sys.executable, "-c", _PROBE, str(tmp_path / "target")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == {
        "root": ["inside"], "fd": ["inside"], "cwd": "/", "above": ["inside"],
        "caps": ["CAP_CHOWN", "CAP_DAC_OVERRIDE"], "chroot": "Operation not permitted", "core": [0, 0]}


def test_workers_can_be_forked_from_a_process_without_threads() -> None:
    """The zygote imports the workers: nothing that they reach may start a thread, a loop or a database."""
    code = ("import sys, barque.store.tar.child; print([name for name in ('threading', 'asyncio', 'concurrent', "
            "'subprocess', 'multiprocessing', 'logging', 'sqlite3', 'aiohttp') if name in sys.modules])")
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_unprivileged_users_unpack_what_they_may(tmp_path: Path) -> None:
    """Without root there is no private root directory; members are still confined, by descriptors."""
    box = tmp_path / "box"
    box.mkdir()
    os.chown(box, 65534, 65534)
    code = ("import os, sys; from barque.store.tar.child import run; from barque.store.tar.messages import *; "
            "target = os.open(sys.argv[1], os.O_RDONLY); os.setgroups([]); os.setgid(65534); os.setuid(65534); "
            "print(decode(run(encode(UnpackRequest()), [0, target]), UnpackResult).error)")
    archive = subprocess.run(["tar", "--owner=65534", "--group=65534", "-C", "/etc", "-cf", "-", "hostname"],
                             capture_output=True, check=True).stdout
    done = subprocess.run([sys.executable, "-c", code, str(box)], input=archive, capture_output=True, check=True)
    assert done.stdout.decode().strip() == "None"
    assert os.listdir(box) == ["hostname"]
