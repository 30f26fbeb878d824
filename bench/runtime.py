"""What a container costs without an engine: runc, `barque-runtime`, and our own zygote (`python -m bench.runtime`).

The same bundle for all: busybox `true` with every namespace, limits, docker's capabilities and the default seccomp
profile. The zygote's figure is from the order to create until the container is deleted. Processor time counts all
processes; of the zygote it has the kernel's clock ticks, so it is the mean of all rounds.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec

from barque.runtime import capabilities, seccomp_profile
from barque.runtime.default_spec import default_document
from barque.supervise.client import Supervisor
from barque.supervise.messages import CreateOrder
from bench.__main__ import enter_namespaces

ROUNDS = 30
#: Times runc's, to be stayed below.
GOALS = {"barque-runtime run": 1.5, "zygote": 0.4}
Run = Callable[[], Awaitable[float]]


def make_bundle(folder: Path) -> Path:
    """A bundle whose container has all that an engine's has."""
    root = folder / "bundle/rootfs"
    (root / "bin").mkdir(parents=True)
    shutil.copy("/bin/busybox", root / "bin/true")
    names = capabilities.docker_caps([], [])
    document = default_document()
    document["process"] |= {"terminal": False, "args": ["true"], "noNewPrivileges": False, "env": ["PATH=/bin"],
                            "capabilities": dict.fromkeys(("bounding", "effective", "permitted"), names)}
    document["linux"]["resources"] |= {"memory": {"limit": 64 << 20}, "pids": {"limit": 100}}
    document["linux"]["seccomp"] = msgspec.to_builtins(seccomp_profile.default_profile(frozenset(names)))
    document["linux"]["cgroupsPath"] = f"/barque-bench-{os.getpid()}"
    (folder / "bundle/config.json").write_text(json.dumps(document))
    return folder / "bundle"


def command(program: str, state: Path, bundle: Path) -> Run:
    """``run`` by a runtime's command line, cold each time; returns its processor seconds."""
    words = [program, "--root", str(state / "runtime"), "run", "--bundle", str(bundle), "bench"]

    def run() -> float:
        pid = os.posix_spawnp(words[0], words, os.environ)
        _, status, usage = os.wait4(pid, 0)
        if status != 0:
            raise RuntimeError(f"{' '.join(words)}: status {status}")
        return usage.ru_utime + usage.ru_stime

    return lambda: asyncio.to_thread(run)


def supervised(supervisor: Supervisor, bundle: Path) -> Run:
    """The way of the engine's containers."""
    async def run() -> float:
        monitor = await supervisor.create(CreateOrder("bench" + "0" * 59, str(bundle)))
        await monitor.start()
        record = await monitor.wait_exit()
        await monitor.release()
        if record.exit_code != 0:
            raise RuntimeError(f"exit code {record.exit_code} {record.error}")
        return 0.0

    return run


def _ticks(pid: int) -> float:
    """Processor seconds of a process and of the children that it has waited for."""
    fields: list[Any] = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:15]
    return sum(map(int, fields)) / os.sysconf("SC_CLK_TCK")


async def measure(bundle: Path, state: Path) -> None:
    supervisor = await Supervisor.start(str(state / "exec"))
    try:
        kinds = {"runc run": command("runc", state, bundle),
                 "barque-runtime run": command(str(Path(sys.executable).with_name("barque-runtime")), state, bundle),
                 "zygote": supervised(supervisor, bundle)}
        for run in kinds.values():
            await run()
        walls: dict[str, list[float]] = {name: [] for name in kinds}
        used: dict[str, list[float]] = {name: [] for name in kinds}
        assert supervisor.zygote_pid is not None
        before = _ticks(supervisor.zygote_pid)
        for _ in range(ROUNDS):
            for name, run in kinds.items():
                began = time.perf_counter()
                used[name].append(await run())
                walls[name].append(time.perf_counter() - began)
        assert supervisor.refill is not None
        await supervisor.refill
        used["zygote"] = [(_ticks(supervisor.zygote_pid) - before) / ROUNDS]
    finally:
        await supervisor.close()
    report(walls, used)


def report(walls: dict[str, list[float]], used: dict[str, list[float]]) -> None:
    print(f"{'median (least), ms':20} {'wall':>18} {'ratio':>6} {'processor':>10} {'ratio':>6} {'goal':>5}")
    for name in walls:
        wall, processor = (statistics.median(figures[name]) for figures in (walls, used))
        of_runc = [statistics.median(figures["runc run"]) for figures in (walls, used)]
        print(f"{name:20} {wall * 1e3:9.1f} ({min(walls[name]) * 1e3:6.1f}) {wall / of_runc[0]:6.2f} "
              f"{processor * 1e3:10.1f} {processor / of_runc[1]:6.2f} {GOALS.get(name, 1.0):5.2f}")


def main() -> int:
    enter_namespaces()
    with tempfile.TemporaryDirectory(prefix="barque-bench-") as folder, \
            tempfile.TemporaryDirectory(prefix="barque-bench-", dir="/run") as state:
        asyncio.run(measure(make_bundle(Path(folder)), Path(state)))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
