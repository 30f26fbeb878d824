"""Archives of images go to Debian's dockerd and podman and come back the same, over what is there already."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from barque.image.load import Loader
from barque.image.save import Saver
from barque.oci.reference import parse
from barque.store.workers import SubprocessWorkers
from tests.image_world import World, faulty_registry, make_image, world

PATIENCE = 60
#: Runs the peer's command line, which must succeed.
Peer = Callable[..., str]
IMAGE = make_image({"etc/a": b"x" * 100_000}, {"b": b"y" * 500}, Labels={"k": "v"}, Cmd=["sh"])


def _peer(command: list[str], environment: dict[str, str]) -> Peer:
    def run(*arguments: str) -> str:
        done = subprocess.run([*command, *arguments], capture_output=True, text=True, check=False, env=environment,
                              stdin=subprocess.DEVNULL, timeout=PATIENCE)
        assert done.returncode == 0, (arguments, done.stderr)
        return done.stdout.strip()
    return run


def podman(root: Path) -> Iterator[Peer]:
    (root / "empty.conf").write_text("")
    (root / "tmp").mkdir()
    yield _peer(["podman", "--root", f"{root}/root", "--runroot", f"{root}/run", "--tmpdir", f"{root}/tmp",
                 "--cgroup-manager", "cgroupfs", "--events-backend", "file", "--storage-driver", "vfs"],
                {**os.environ, "CONTAINERS_CONF": f"{root}/empty.conf", "HOME": str(root)})


def dockerd(root: Path) -> Iterator[Peer]:
    host = f"unix://{root}/docker.sock"
    with (root / "log").open("wb") as log, subprocess.Popen(
            ["dockerd", "--data-root", f"{root}/data", "--exec-root", f"{root}/exec", "-H", host, "--pidfile",
             f"{root}/pid", "--bridge", "none", "--iptables=false", "--storage-driver", "vfs"],
            stdout=log, stderr=log) as process:
        try:
            deadline = time.monotonic() + PATIENCE
            while subprocess.run(["docker", "-H", host, "version"], capture_output=True, check=False,
                                 timeout=PATIENCE).returncode:
                assert process.poll() is None and time.monotonic() < deadline, (root / "log").read_text()
                time.sleep(0.1)
            yield _peer(["docker", "-H", host], {**os.environ, "DOCKER_CONFIG": str(root)})
        finally:
            process.terminate()
            process.wait(PATIENCE)


PEERS = {"podman": podman, "dockerd": dockerd}


@pytest.fixture(scope="module", params=PEERS)
def peer(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Peer]]:
    if shutil.which(request.param) is None or (request.param == "dockerd" and shutil.which("docker") is None):
        pytest.skip(f"needs {request.param}")
    for run in PEERS[request.param](tmp_path_factory.mktemp(request.param)):
        yield request.param, run


async def load(here: World, path: Path) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        yield path.read_bytes()

    loader = Loader(here.content, here.snapshots, here.leases, here.names, SubprocessWorkers(), here.slots)
    await loader.load(pieces(), [], lambda _: None)


async def test_there_and_back(peer: tuple[str, Peer], tmp_path: Path) -> None:
    name, run = peer
    async with faulty_registry() as registry, world(tmp_path / "mine") as here:
        registry.add("app", "1", IMAGE)
        reference = f"{registry.address}/app:1"
        await here.puller.pull(parse(reference), None, None, lambda _: None)
        saver = Saver(here.content, here.images, here.names)
        pieces = saver.stream(await saver.plan([reference]))
        (tmp_path / "mine.tar").write_bytes(b"".join([piece async for piece in pieces]))
        mine = await here.images.resolve(reference)
        run("load", "-i", str(tmp_path / "mine.tar"))
        assert run("inspect", "-f", "{{.Id}}", reference).removeprefix("sha256:") == IMAGE.id.removeprefix("sha256:")
        for kind in ("docker-archive", "oci-archive") if name == "podman" else ("docker-archive",):
            run("save", *(["--format", kind] if name == "podman" else []), "-o", str(tmp_path / kind), reference)
            async with world(tmp_path / f"other-{kind}") as there:
                await load(there, tmp_path / kind)
                found = await there.images.resolve(reference)
                assert found.config.rootfs.diff_ids == mine.config.rootfs.diff_ids
                assert found.config.config is not None and found.config.config.labels == {"k": "v"}
            # Over what is there already: the same layers, once.
            await load(here, tmp_path / kind)
            again = await here.images.resolve(reference)
            assert again.chain == mine.chain
            assert len(await here.snapshots.image_lower(again.chain_id)) == 2
