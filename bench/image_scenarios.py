"""Images: pulls of the awkward kinds, archives, removals. What they need is made when first asked for."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

from bench import images
from bench.engines import Engine
from bench.scenarios import Images, Scenario

_FILES, _BIG = 50_000, 500 << 20
_PRUNED, _PRUNED_FILES = 5, 2000


class ImageSet:
    """``scale`` is a factor for numbers of files and for bytes."""

    def __init__(self, registry: str, work: Path, scale: float) -> None:
        self._registry = registry
        self._work = work
        self._scale = min(scale, 1.0)

    @cached_property
    def files(self) -> str:
        layer = images.small_files_layer(round(_FILES * self._scale))
        return images.push(self._registry, "fifty-thousand", [layer], self._work)

    @cached_property
    def big(self) -> str:
        layer = images.host_layer(["/usr"], round(_BIG * self._scale))
        return images.push(self._registry, "one-big-layer", [layer], self._work)

    @cached_property
    def pair(self) -> tuple[str, str]:
        """Two images that share all layers but one."""
        shared = [images.host_layer([root], 20 << 20) for root in ("/usr/lib", "/usr/bin", "/usr/share")]
        return (images.push(self._registry, "shared-one", [*shared, images.small_files_layer(100)], self._work),
                images.push(self._registry, "shared-other", [*shared, images.small_files_layer(200)], self._work))

    def cold_pull_files(self, engine: Engine, _: Images) -> float:
        engine.docker("rmi", "-f", self.files, check=False)
        return engine.timed("pull", "-q", self.files)

    def cold_pull_big(self, engine: Engine, _: Images) -> float:
        engine.docker("rmi", "-f", self.big, check=False)
        return engine.timed("pull", "-q", self.big)

    def pull_shared(self, engine: Engine, _: Images) -> float:
        one, other = self.pair
        engine.docker("pull", "-q", one)
        engine.docker("rmi", "-f", other, check=False)
        return engine.timed("pull", "-q", other)

    def save(self, engine: Engine, _: Images) -> float:
        engine.docker("pull", "-q", self.pair[0])
        return engine.timed("save", "-o", str(engine.work / "saved.tar"), self.pair[0])

    def load(self, engine: Engine, _: Images) -> float:
        self.save(engine, _)
        engine.docker("rmi", "-f", *self.pair, check=False)
        return engine.timed("load", "-q", "-i", str(engine.work / "saved.tar"))

    def remove(self, engine: Engine, _: Images) -> float:
        engine.docker("pull", "-q", self.files)
        return engine.timed("rmi", self.files)

    def prune(self, engine: Engine, made: Images) -> float:
        """Of dangling images that have a layer of files each for itself."""
        script = "mkdir /made; n=0; while [ $n -lt {files} ]; do echo {image} > /made/$n; n=$((n + 1)); done"
        for image in range(_PRUNED):
            container = engine.docker("create", "--network", "none", made.small, "sh", "-c",
                                      script.format(image=image, files=round(_PRUNED_FILES * self._scale)))
            engine.docker("start", "-a", container)
            engine.docker("commit", container)
            engine.docker("rm", container)
        return engine.timed("image", "prune", "-f")


def scenarios(made: ImageSet) -> list[Scenario]:
    return [
        Scenario("cold pull, 50k small files", "s", 0.50, made.cold_pull_files, runs=3),
        Scenario("cold pull, one layer of 500 MB", "s", 0.50, made.cold_pull_big, runs=3),
        Scenario("pull, all layers but one here", "s", 0.50, made.pull_shared, runs=6),
        Scenario("save, 60 MB", "s", 0.70, made.save, runs=4),
        Scenario("load, 60 MB", "s", 0.70, made.load, runs=4),
        Scenario("rmi, 50k small files", "s", 0.50, made.remove, runs=3),
        Scenario("image prune, 5 images of 2k files", "s", 0.50, made.prune, runs=4),
    ]
