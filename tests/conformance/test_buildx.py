"""docker's plugins buildx and compose, the real ones, build by BuildKit's protocol and run what they have built."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.engine_world import PATIENCE, Done, EngineWorld, engine_world
from tests.e2e.test_bad_input import wait_until


def _has(plugin: str) -> bool:
    try:
        done = subprocess.run(["docker", plugin, "version"], capture_output=True, check=False, timeout=PATIENCE)
    except FileNotFoundError:
        return False
    return done.returncode == 0


needs_buildx = pytest.mark.skipif(not _has("buildx"), reason="docker's plugin buildx is not installed")
needs_compose = pytest.mark.skipif(not _has("compose"), reason="docker's plugin compose is not installed")

DOCKERFILE = """# syntax=docker/dockerfile:1
FROM busybox AS builder
WORKDIR /w
COPY . .
RUN --mount=type=secret,id=tok cat /run/secrets/tok > out && cat sub/x >> out
FROM scratch AS files
COPY --from=builder /w/out /w/sub /d/
FROM busybox
COPY --from=builder /w/out /out
CMD ["cat", "/out"]
"""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EngineWorld]:
    with engine_world(tmp_path_factory.mktemp("buildx"), bip="172.31.86.1/24") as started:
        yield started


def docker(world: EngineWorld, directory: Path, *arguments: str, stdin: str = "") -> Done:
    done = subprocess.run(["docker", *arguments], input=stdin, capture_output=True, text=True, check=False,
                          cwd=directory, timeout=2 * PATIENCE,
                          env={**world.environment(), "DOCKER_BUILDKIT": "1", "BUILDKIT_PROGRESS": "plain"})
    return Done(done.stdout, done.stderr, done.returncode)


@pytest.fixture
def context(tmp_path: Path) -> Path:
    (tmp_path / "ctx" / "sub").mkdir(parents=True)
    (tmp_path / "ctx" / "Dockerfile").write_text(DOCKERFILE)
    (tmp_path / "ctx" / ".dockerignore").write_text("*.skip\n")
    (tmp_path / "ctx" / "a.skip").touch()
    (tmp_path / "ctx" / "sub" / "x").write_text("sub\n")
    (tmp_path / "ctx" / "link").symlink_to("sub/x")
    (tmp_path / "tok").write_text("secret\n")
    return tmp_path


@needs_buildx
def test_build_and_run(world: EngineWorld, context: Path) -> None:
    done = docker(world, context, "build", "--secret", "id=tok,src=tok", "-t", "buildx", "--iidfile", "iid", "ctx")
    assert done.code == 0, (done, world.log[-4000:])
    for words in ("using docker driver", "[builder 4/4] RUN", "naming to docker.io/library/buildx done"):
        assert words in done.err
    assert world.ok("run", "--rm", "buildx") == "secret\nsub"
    assert (context / "iid").read_text() == world.inspect("buildx", "{{.Id}}")
    again = docker(world, context, "build", "--secret", "id=tok,src=tok", "-q", "ctx")
    assert again.out.strip() == (context / "iid").read_text()
    world.ok("rmi", "buildx")


@needs_buildx
def test_files_for_the_client(world: EngineWorld, context: Path) -> None:
    done = docker(world, context, "build", "--target", "files", "--output", "out", "ctx")
    assert done.code == 0, done
    assert (context / "out" / "d" / "x").read_text() == "sub\n"
    done = docker(world, context, "build", "-o", "type=tar,dest=out.tar", "--target", "files", "ctx")
    assert done.code == 0, done
    names = subprocess.run(["tar", "-tf", "out.tar"], cwd=context, capture_output=True, text=True, check=True).stdout
    assert "d/x" in names.splitlines()


@needs_buildx
def test_a_dockerfile_from_standard_input(world: EngineWorld, context: Path) -> None:
    done = docker(world, context, "build", "-t", "stdin", "-", stdin="FROM busybox\nCMD echo from stdin\n")
    assert done.code == 0, done
    assert world.ok("run", "--rm", "stdin") == "from stdin"
    world.ok("rmi", "stdin")


@needs_buildx
def test_a_failure_shows_its_place(world: EngineWorld, context: Path) -> None:
    (context / "ctx" / "Dockerfile").write_text("FROM busybox\nRUN exit 7\n")
    done = docker(world, context, "build", "ctx")
    assert done.code == 1
    assert "non-zero code: 7" in done.err
    assert "2 | >>> RUN exit 7" in done.err
    (context / "ctx" / "Dockerfile").write_text("FROM busybox\nRUNN x\n")
    assert "2 | >>> RUNN x" in docker(world, context, "build", "ctx").err


@needs_buildx
def test_other_verbs(world: EngineWorld, context: Path) -> None:
    assert "running" in docker(world, context, "buildx", "ls").out
    assert docker(world, context, "buildx", "du").code == 0
    done = docker(world, context, "buildx", "prune", "-f")
    assert done.code == 0, done


@needs_buildx
def test_bake(world: EngineWorld, context: Path) -> None:
    (context / "docker-bake.json").write_text(
        '{"group": {"default": {"targets": ["a", "b"]}}, "target": {'
        '"a": {"dockerfile-inline": "FROM busybox\\nRUN echo a\\n", "tags": ["bake-a"]},'
        '"b": {"context": "ctx", "dockerfile-inline": "FROM scratch\\nCOPY sub /\\n", "tags": ["bake-b"]}}}')
    done = docker(world, context, "buildx", "bake")
    assert done.code == 0, done
    world.ok("rmi", "bake-a", "bake-b")


@needs_compose
@needs_buildx
def test_compose_builds_and_runs(world: EngineWorld, context: Path) -> None:
    (context / "ctx" / "Dockerfile").write_text("FROM busybox\nCOPY sub/x /x\nCMD cat /x; sleep 1000\n")
    (context / "compose.yaml").write_text("""
services:
  first:
    image: busybox
    init: true
    command: sleep 1000
    healthcheck: {test: ["CMD", "true"], interval: 1s}
    volumes: ["kept:/kept"]
    networks: [back]
  second:
    build: ctx
    init: true
    depends_on: {first: {condition: service_healthy}}
    networks: {back: {aliases: [other]}}
    configs: [c]
configs: {c: {file: ./tok}}
networks: {back: {}}
volumes: {kept: {}}
""")
    compose = ("compose", "-p", "door")
    done = docker(world, context, *compose, "up", "-d", "--wait", "--wait-timeout", str(PATIENCE))
    try:
        assert done.code == 0, (done, world.log[-4000:])
        assert docker(world, context, *compose, "exec", "-T", "first", "ping", "-c1", "other").code == 0
        assert docker(world, context, *compose, "exec", "-T", "second", "cat", "/c", "/x").out == "secret\nsub\n"
        wait_until(lambda: "sub" in docker(world, context, *compose, "logs", "second").out)
    finally:
        done = docker(world, context, *compose, "down", "-v", "-t", "1", "--rmi", "local")
    assert done.code == 0, done
    assert world.ok("ps", "-aq") == "" and world.ok("volume", "ls", "-q") == ""
