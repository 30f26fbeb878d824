"""Builds: each engine with its own command line, the client included, from the same files.

dockerd builds with its classic builder, which is the one that it has without a plugin of its client.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from functools import cache
from pathlib import Path

from bench.engines import Engine
from bench.scenarios import Images, Scenario

_MEGABYTE = 1 << 20
_FILES = 50_000


@cache
def _contexts() -> tempfile.TemporaryDirectory[str]:
    """Gone with the process."""
    return tempfile.TemporaryDirectory(prefix="barque-bench-builds-")


def _context(name: str) -> Path:
    path = Path(_contexts().name) / name
    path.mkdir(exist_ok=True)
    return path


def _build(engine: Engine, context: Path, dockerfile: str, *flags: str) -> float:
    (context / "Dockerfile").write_text(dockerfile)
    program = [str(Path(sys.executable).with_name("barque"))] if engine.name == "barque" else ["docker"]
    began = time.perf_counter()
    done = subprocess.run([*program, "build", "-q", *flags, str(context)], env={**engine.env, "DOCKER_BUILDKIT": "0"},
                          capture_output=True, text=True, check=False)
    took = time.perf_counter() - began
    if done.returncode != 0:
        raise RuntimeError(f"{engine.name}: {done.stderr.strip()}")
    return took


def _ten_steps(images: Images) -> tuple[Path, str]:
    context = _context("ten")
    for number in range(5):
        if not (file := context / f"data{number}").exists():
            file.write_bytes(os.urandom(10 * _MEGABYTE))
    steps = "".join(f"COPY data{number} /d{number}\nRUN echo {number} > /r{number}\n" for number in range(4))
    return context, f"FROM {images.small}\nCOPY data4 /d4\nENV A=b\n{steps}"


def uncached(engine: Engine, images: Images) -> float:
    """Ten steps over 50 MB of files."""
    return _build(engine, *_ten_steps(images), "--no-cache")


def cached(engine: Engine, images: Images) -> float:
    """The same once more, with nothing to do."""
    context, text = _ten_steps(images)
    _build(engine, context, text)
    return _build(engine, context, text)


def diamond(engine: Engine, images: Images) -> float:
    """Four stages that need nothing of each other, each half a second of a processor that sleeps."""
    stages = "".join(f"FROM {images.small} AS s{number}\nRUN sleep 0.5; echo {number} > /f\n" for number in range(4))
    copies = "".join(f"COPY --from=s{number} /f /f{number}\n" for number in range(4))
    return _build(engine, _context("diamond"), f"{stages}FROM {images.small}\n{copies}", "--no-cache")


def many_files(engine: Engine, images: Images) -> float:
    """50 000 small files, of which one has changed."""
    context = _context("many")
    if not (context / "f").exists():
        for number in range(_FILES):
            if number % 500 == 0:
                (context / "f" / str(number // 500)).mkdir(parents=True)
            (context / "f" / str(number // 500) / str(number)).write_text(f"file {number}\n" * 20)
    (context / "f" / "0" / "0").write_text(str(time.time_ns()))
    return _build(engine, context, f"FROM {images.small}\nCOPY f /f\n")


SCENARIOS = [
    Scenario("build, 10 steps, 50 MB, uncached", "s", 0.60, uncached, runs=4),
    Scenario("build, 10 steps, 50 MB, cached", "s", 0.40, cached, runs=4),
    Scenario("build, four stages at once", "s", 0.50, diamond, runs=4),
    Scenario("build, 50k files", "s", 0.60, many_files, runs=2),
]
