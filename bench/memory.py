"""How much memory one large layer takes on its way (`python -m bench.memory`): the peak over what the idle engine has.

Counted is the anonymous memory of all processes of an engine, workers included, looked at every few milliseconds: what
is in the page cache can be had back at any time.
"""

from __future__ import annotations

import io
import os
import sys
import tarfile
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from bench import engines, images
from bench.__main__ import REGISTRY, disk, enter_namespaces, registry
from bench.engines import Engine

_INTERVAL = 0.005
_SETTLING = 2.0
_MB = 1 << 20
#: Of the file that the layer has: bytes in all, of which every fifth MB cannot be compressed.
_SIZE = 300 * _MB


def big_file(path: Path) -> None:
    with path.open("wb") as file:
        for number in range(_SIZE // _MB):
            file.write(os.urandom(_MB) if number % 5 == 0 else bytes(_MB))


def big_layer(path: Path) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.add(path, "big")
    return buffer.getvalue()


def anonymous(engine: Engine) -> int:
    """Bytes of anonymous memory of all processes, shared pages once (proc(5), smaps_rollup)."""
    total = 0
    for pid in engine.pids():
        try:
            text = Path(f"/proc/{pid}/smaps_rollup").read_text()
        except OSError:
            continue  # it has ended
        total += next((int(line.split()[1]) for line in text.splitlines() if line.startswith("Pss_Anon:")), 0) * 1024
    return total


class Peak:
    """Of an engine's anonymous memory while the block runs; ``growth`` over what it was before, in bytes."""

    def __init__(self, engine: Engine) -> None:
        self.growth = 0
        self._engine = engine
        self._ended = threading.Event()
        self._watcher = threading.Thread(target=self._watch)

    def _watch(self) -> None:
        while not self._ended.wait(_INTERVAL):
            self.growth = max(self.growth, anonymous(self._engine) - self._before)

    def __enter__(self) -> Peak:
        time.sleep(_SETTLING)
        self._before = anonymous(self._engine)
        self._watcher.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._watcher.join()


def jobs(engine: Engine, image: str, context: Path) -> list[tuple[str, Callable[[], object]]]:
    """In this order: some need what others leave."""
    archive, plain = str(engine.work / "saved.tar"), str(engine.work / "plain.tar")
    (context / "Dockerfile").write_text("FROM scratch\nCOPY big /copied\n")

    def load() -> None:
        engine.docker("load", "-q", "-i", archive)

    def commit() -> None:
        engine.docker("commit", "changed", f"{REGISTRY}/changed")

    return [
        ("pull", lambda: engine.docker("pull", "-q", image)),
        ("save", lambda: engine.docker("save", "-o", archive, image)),
        ("rmi", lambda: engine.docker("rmi", "-f", image)),
        ("load", load),
        ("import", lambda: engine.docker("import", plain, f"{REGISTRY}/imported")),
        ("cp into a container", lambda: (engine.docker("create", "--name", "changed", image, "sh"),
                                         engine.docker("cp", str(context / "big"), "changed:/more"))),
        ("commit", commit),
        ("push", lambda: engine.docker("push", "-q", f"{REGISTRY}/changed")),
        ("export", lambda: engine.docker("export", "-o", str(engine.work / "exported.tar"), "changed")),
        ("build, COPY", lambda: engine.docker("build", "-q", str(context))),
    ]


def main() -> int:
    enter_namespaces()
    with ExitStack() as stack:
        work = disk(stack)
        registry(stack, work)
        context = work / "context"
        context.mkdir()
        big_file(context / "big")
        layer = big_layer(context / "big")
        image = images.push(REGISTRY, "big", [layer], work)
        pair = [engines.barque(work / "barque", REGISTRY), engines.dockerd(work / "dockerd", REGISTRY)]
        if "--alone" in sys.argv:
            pair = pair[:1]
        for engine in pair:
            (engine.work / "plain.tar").write_bytes(layer)
            engine.start()
            stack.callback(engine.stop)
            stack.callback(engine.remove_all)
        del layer
        print("peak of anonymous memory over idle, MB:", *(engine.name for engine in pair))
        for steps in zip(*(jobs(engine, image, context) for engine in pair), strict=True):
            figures = []
            for engine, (_, job) in zip(pair, steps, strict=True):
                with Peak(engine) as peak:
                    job()
                figures.append(f"{peak.growth / _MB:9.1f}")
            print(f"{steps[0][0]:24}", *figures, flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
