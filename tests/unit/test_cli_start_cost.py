"""What the hot path imports: a module that costs milliseconds there slows every command down."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import barque

#: Each of these costs 3 to 200 ms, or pulls in one that does.
HEAVY = {"aiohttp", "argparse", "asyncio", "collections", "dataclasses", "email", "enum", "functools", "http",
         "inspect",
         "json", "logging", "msgspec", "pathlib", "re", "signal", "socket", "ssl", "subprocess", "threading",
         "typing", "urllib"}
RUN = """
import sys
sys.path.insert(0, {source!r})
from barque.cli.main import main
main({words!r})
print("\\n".join(sys.modules), file=sys.stderr)
"""


@pytest.mark.parametrize("words", [["run", "--rm", "h.io:5000/a/image:1.2", "true"],
                                   ["exec", "c", "true"], ["ps"], ["rm", "-f", "c"]])
def test_nothing_heavy_is_imported_up_to_the_connection(words: list[str]) -> None:
    source = str(Path(barque.__file__).parents[1])
    script = RUN.format(source=source, words=["-H", "unix:///nonexistent/socket", *words])
    done = subprocess.run([sys.executable, "-I", "-S", "-c", script], capture_output=True, text=True, check=True,
                          env={"DOCKER_CONFIG": "/nonexistent"})
    loaded = {name.partition(".")[0] for name in done.stderr.splitlines()}
    assert "barque" in loaded
    assert not loaded & HEAVY
    assert "Cannot connect to the Barque daemon" in done.stderr


def test_output_that_cannot_be_written_is_a_failure() -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run([sys.executable, "-m", "barque.cli.main", "--help"], stdout=full, stderr=subprocess.PIPE,
                              text=True, check=False)
    assert (done.returncode, done.stderr) == (1, "write /dev/stdout: no space left on device\n")
