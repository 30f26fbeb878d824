"""The log file of a daemon that nobody's service manager watches."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

PROGRAM = """
import logging, sys
from barque import log
log.FILE_LIMIT = 1000
log.configure("info", "text", sys.argv[1])
for number in range(100):
    logging.getLogger("barque").info("line %d", number)
print("by standard error", file=sys.stderr)
"""


def test_the_file_stays_small_and_standard_error_follows_it(tmp_path: Path) -> None:
    path = tmp_path / "log"
    with open(path, "ab") as file:
        done = subprocess.run([sys.executable, "-c", PROGRAM, str(path)], stderr=file, stdout=file,
                              stdin=subprocess.DEVNULL, check=False, timeout=60)
    assert done.returncode == 0
    assert sorted(item.name for item in tmp_path.iterdir()) == ["log", "log.1"]
    assert all(item.stat().st_size < 1200 for item in tmp_path.iterdir())
    lines = path.read_text().splitlines()
    assert lines[-1] == "by standard error"
    assert lines[-2].endswith('msg="line 99"')
    numbers = [int(line.rsplit(" ", 1)[1].rstrip('"')) for line in (
        (tmp_path / "log.1").read_text() + path.read_text()).splitlines()[:-1]]
    assert numbers == list(range(numbers[0], 100))
