"""Clients of docker in environments of their own (scripts/clients): compose, testcontainers, aiodocker, dockerode."""

from __future__ import annotations

import os
import shutil
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.engine_world import PATIENCE, EngineWorld, engine_world

CLIENTS = Path(__file__).parents[1] / "clients"
INSTALLED = Path(__file__).parents[2] / ".venv/clients"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EngineWorld]:
    with engine_world(tmp_path_factory.mktemp("clients")) as made:
        yield made
        assert made.ok("volume", "ls", "-q") == ""
        assert made.ok("network", "ls", "-q", "--filter", "type=custom") == ""


def installed(name: str) -> Path:
    if not (INSTALLED / name / ".lock").exists():
        pytest.skip(f"the client environment {name!r} is not installed")
    return INSTALLED / name


def run(world: EngineWorld, *command: str | Path, directory: Path = CLIENTS, **environment: str) -> str:
    done = subprocess.run(command, cwd=directory, env={**world.environment(), **environment}, text=True,
                          stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False,
                          timeout=2 * PATIENCE)
    assert done.returncode == 0, (done.stdout, world.log[-4000:])
    return done.stdout


class Compose:
    def __init__(self, world: EngineWorld, directory: Path) -> None:
        self._world = world
        self._directory = directory
        self._program = installed("compose") / "bin/docker-compose"

    def __call__(self, *arguments: str) -> str:
        return run(self._world, self._program, *arguments, directory=self._directory, COMPOSE_DOCKER_CLI_BUILD="0")


def test_compose(world: EngineWorld, tmp_path: Path) -> None:
    directory = tmp_path / "shop"
    shutil.copytree(CLIENTS / "project", directory)
    compose = Compose(world, directory)
    compose("up", "-d", "--build", "--scale", "worker=3")
    assert sorted(world.ok("ps", "--format", "{{.Names}}").split()) == [
        "shop_db_1", "shop_web_1", "shop_worker_1", "shop_worker_2", "shop_worker_3"]
    assert world.inspect("shop_db_1", "{{.State.Health.Status}}") == "healthy"
    address = compose("port", "web", "8080").strip()
    with urllib.request.urlopen(f"http://{address}/index.html", timeout=PATIENCE) as answer:
        assert answer.read() == b"hello from web\n"
    logs = [line.partition("|")[2].strip() for line in compose("logs", "--no-color", "worker").splitlines()]
    assert logs.count("hello from web") == 3
    assert compose("exec", "-T", "web", "sh", "-c", "echo $COLOUR; wget -q -O- http://db/file") == "red\nkept\n"
    assert "kept" in compose("run", "--rm", "-T", "worker", "sh", "-c", "echo kept")

    before = world.inspect("shop_db_1", "{{.Id}}")
    (directory / "web/Dockerfile").write_text((directory / "web/Dockerfile").read_text().replace("from web", "again"))
    compose("up", "-d", "--build", "--scale", "worker=1", "-t", "1")
    assert world.inspect("shop_db_1", "{{.Id}}") == before
    assert compose("exec", "-T", "web", "cat", "/www/index.html") == "hello again\n"
    assert len(world.ok("ps", "-q", "--filter", "label=role=worker").split()) == 1

    compose("stop", "-t", "1", "web")
    assert world.inspect("shop_web_1", "{{.State.Status}}") == "exited"
    compose("down", "-v", "--rmi", "local", "-t", "1")
    assert world.ok("ps", "-aq") == ""


def test_testcontainers(world: EngineWorld) -> None:
    # Its helper that tidies up after a crash is an image of its own.
    run(world, installed("python") / "bin/python", CLIENTS / "with_testcontainers.py",
        TESTCONTAINERS_RYUK_DISABLED="true")


def test_aiodocker(world: EngineWorld) -> None:
    run(world, installed("python") / "bin/python", CLIENTS / "with_aiodocker.py")


def test_dockerode(world: EngineWorld, tmp_path: Path) -> None:
    modules = installed("dockerode") / "node_modules"
    (tmp_path / "Dockerfile").write_text("FROM busybox\nRUN true\n")
    run(world, "node", CLIENTS / "with_dockerode.js", str(tmp_path), NODE_PATH=str(modules), PATH=os.environ["PATH"])
