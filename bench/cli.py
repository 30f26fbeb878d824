"""What a command line costs: docker's client and ours, each against the same barqued (`python -m bench.cli`).

Wall time is what a person waits for, engine included; processor time is the client's own.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from bench import engines, images
from bench.__main__ import REGISTRY, enter_namespaces, registry

ROUNDS = 30


def _run(command: list[str], environment: dict[str, str]) -> tuple[float, float]:
    """(wall, processor) milliseconds of one command, which must succeed."""
    began = time.perf_counter()
    null = (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)
    pid = os.posix_spawnp(command[0], command, environment, file_actions=[null])
    _, status, usage = os.wait4(pid, 0)
    wall = time.perf_counter() - began
    if status != 0:
        raise RuntimeError(f"{' '.join(command)}: status {status}")
    return wall * 1000, (usage.ru_utime + usage.ru_stime) * 1000


def main() -> int:
    enter_namespaces()
    with ExitStack() as stack:
        work = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="barque-bench-")))
        registry(stack, work)
        image = images.push(REGISTRY, "small", [images.busybox_layer()], work)
        engine = engines.barque(work / "barque", REGISTRY)
        engine.start()
        stack.callback(engine.stop)
        engine.docker("pull", "-q", image)
        clients = {"barque": str(Path(sys.executable).with_name("barque")), "docker": "docker"}
        print(f"{'median (least), ms':24} {'barque':>16} {'docker':>16}")
        for name, words in (("--version", ["--version"]), ("ps", ["ps"]), ("run --rm", ["run", "--rm", image, "true"])):
            figures: dict[str, list[tuple[float, float]]] = {client: [] for client in clients}
            for _ in range(ROUNDS):
                for client, program in clients.items():
                    figures[client].append(_run([program, *words], engine.env))
            for column, kind in enumerate(("wall", "processor")):
                shown = []
                for client in clients:
                    values = [figure[column] for figure in figures[client]]
                    shown.append(f"{statistics.median(values):8.1f} ({min(values):5.1f})")
                print(f"{name + ' ' + kind:24} {shown[0]:>16} {shown[1]:>16}", flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
