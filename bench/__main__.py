"""Compare Barque with Debian's dockerd: `make bench`, or `python -m bench --only pull`.

Everything happens in a network and a mount namespace made here, on a journaled file system in a loop file, so that both
engines write to the same kind of disk and the machine's own links and rules are not touched.
"""

from __future__ import annotations

import argparse
import ctypes
import math
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from bench import builds, engines, image_scenarios, network
from bench.scenarios import SCENARIOS, Images, Scenario

CLONE_NEWNS = 0x00020000
CLONE_NEWNET = 0x40000000
REGISTRY = "127.0.0.1:5055"
DISK_BYTES = 12 << 30
#: With fewer, not even a miss in every round can be told from chance.
_ROUNDS_TO_TELL = 5
NEEDED = ("dockerd", "docker", "docker-registry", "skopeo", "mkfs.ext4", "ip", "iperf3", "nsenter")


def enter_namespaces() -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWNS | CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "unshare: run as root")
    subprocess.run(["mount", "--make-rprivate", "/"], check=True)
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)


def disk(stack: ExitStack) -> Path:
    """A journaled file system of its own, gone afterwards."""
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="barque-bench-")))
    image, mounted = folder / "disk", folder / "mnt"
    mounted.mkdir()
    with image.open("wb") as file:
        file.truncate(DISK_BYTES)
    subprocess.run(["mkfs.ext4", "-q", "-F", str(image)], check=True)
    subprocess.run(["mount", "-o", "loop", str(image), str(mounted)], check=True)
    stack.callback(subprocess.run, ["umount", "-l", str(mounted)], check=False)
    return mounted


def registry(stack: ExitStack, work: Path) -> None:
    config = work / "registry.yml"
    config.write_text(f"version: 0.1\nstorage: {{filesystem: {{rootdirectory: {work}/registry}}}}\n"
                      f"http: {{addr: '{REGISTRY}'}}\nlog: {{level: error}}\n")
    process = subprocess.Popen(["docker-registry", "serve", str(config)], stdout=subprocess.DEVNULL,
                               stderr=subprocess.DEVNULL)
    stack.callback(process.wait)
    stack.callback(process.terminate)
    host, port = REGISTRY.split(":")
    while True:
        with socket.socket() as probe:
            if probe.connect_ex((host, int(port))) == 0:
                return
        time.sleep(0.01)


def _verdict(scenario: Scenario, ours: list[float], theirs: list[float]) -> str:
    """``yes``, ``NO``, or ``even``: the medians miss the goal, but of so many rounds that do not, that it may be chance
    (sign test, 5 %)."""
    sign = 1 if scenario.more_is_better else -1
    if sign * (statistics.median(ours) / statistics.median(theirs) - scenario.goal) >= 0:
        return "yes"
    rounds = len(ours)
    reached = sum(sign * (our / their - scenario.goal) >= 0 for our, their in zip(ours, theirs, strict=True))
    chance = sum(math.comb(rounds, count) for count in range(reached + 1)) / 2 ** rounds
    return "even" if rounds >= _ROUNDS_TO_TELL and chance > 0.05 else "NO"


def _compare(scenario: Scenario, pair: list[engines.Engine], made: Images, scale: float) -> None:
    figures: dict[str, list[float]] = {engine.name: [] for engine in pair}
    runs = max(1, round(scenario.runs * scale))
    for number in range(runs + (runs > 2)):
        for engine in pair if number % 2 == 0 else reversed(pair):
            value = scenario.measure(engine, made)
            if number > 0 or runs <= 2:  # the first round warms caches up
                figures[engine.name].append(value)
    ours, theirs = (statistics.median(figures[engine.name]) for engine in pair)
    ratio = ours / theirs
    verdict = _verdict(scenario, *figures.values())
    spread = " ".join(f"{min(v):.3f}-{max(v):.3f}" for v in figures.values())
    print(f"{scenario.name:32} {ours:9.3f} {theirs:9.3f} {scenario.unit:3} {ratio:6.2f} "
          f"{'>=' if scenario.more_is_better else '<='} {scenario.goal:4.2f} {verdict:4}  {spread}",
          flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(prog="bench", description=__doc__)
    parser.add_argument("--only", default="", help="scenarios whose name contains this text")
    parser.add_argument("--scale", type=float, default=1.0,
                        help="factor for the number of runs, and below 1 for the size of big images")
    options = parser.parse_args()
    missing = [name for name in NEEDED if shutil.which(name) is None]
    if missing:
        print(f"nothing to compare with here: {', '.join(missing)} not found (Debian packages docker.io, "
              "docker-registry, skopeo, e2fsprogs, iproute2, iperf3)")
        return 0
    if os.geteuid() != 0:
        print("the engines need root: sudo make bench", file=sys.stderr)
        return 1
    enter_namespaces()
    with ExitStack() as stack:
        work = disk(stack)
        registry(stack, work)
        made = Images(REGISTRY, work)
        pair = [engines.barque(work / "barque", REGISTRY), engines.dockerd(work / "dockerd", REGISTRY)]
        for engine in pair:
            engine.start()
            stack.callback(engine.stop)
            stack.callback(engine.remove_all)
            engine.docker("pull", "-q", made.small)
        print(f"{'median of each':32} {'barque':>9} {'dockerd':>9} {'':3} {'ratio':>6} {'goal':>7}      min-max")
        awkward = image_scenarios.scenarios(image_scenarios.ImageSet(REGISTRY, work, options.scale))
        for scenario in [*SCENARIOS, *awkward, *network.SCENARIOS, *builds.SCENARIOS]:
            if options.only in scenario.name:
                _compare(scenario, pair, made, options.scale)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
