"""Builds by BuildKit's own protocol, with a client in this process; with the real ones in tests/conformance."""

from __future__ import annotations

import asyncio
import io
import json
import os
import tarfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from grpclib.const import Status
from grpclib.exceptions import GRPCError

from barque.api.buildkit import messages as m
from tests.buildkit_client import BRIDGE, CONTROL, Client, DirectoryClient, build, call, connected
from tests.e2e.engine_world import PATIENCE, EngineWorld, engine_world

pytestmark = pytest.mark.asyncio
#: How long a step sleeps that is to be ended; by the number it is known among all processes of the machine.
SECONDS = 100_000 + os.getpid()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EngineWorld]:
    with engine_world(tmp_path_factory.mktemp("door"), bip="172.31.87.1/24") as started:
        yield started


def _client(root: Path, dockerfile: str, kind: type[Client] = Client, **files: str) -> Client:
    for name, text in files.items():
        (root / name).write_text(text)
    (root / "Dockerfile").write_text(dockerfile)
    return kind({"context": root, "dockerfile": root})


def _moby(*names: str) -> list[m.Exporter]:
    return [m.Exporter("moby", {"name": ",".join(names)})]


async def test_a_build(world: EngineWorld, tmp_path: Path) -> None:
    client = _client(tmp_path, """# syntax=docker/dockerfile:1
ARG BASE=busybox
FROM $BASE AS first
ARG WHO
WORKDIR /w
COPY . .
RUN --mount=type=secret,id=token test "$(cat /run/secrets/token)" = xyz && echo "hello $WHO"
FROM busybox
ENV A=b
COPY --from=first /w/a /a
CMD ["cat", "/a"]
""", a="content", b="left out")
    (tmp_path / ".dockerignore").write_text("b\n")
    client.secrets["token"] = b"xyz"
    client.accounts["registry-1.docker.io"] = ("joe", "secret")
    built = await build(world.socket, client, {"build-arg:WHO": "you", "label:l": "v"}, _moby("door", "door:2"))
    assert built.error is None
    assert "hello you" in built.logs
    assert [name for name in built.names() if not name.startswith("[internal]")] == [
        "[first 1/4] FROM docker.io/library/busybox:latest", "[first 2/4] WORKDIR /w", "[first 3/4] COPY . .",
        '[first 4/4] RUN --mount=type=secret,id=token test "$(cat /run/secrets/token)" = xyz && echo "hello $WHO"',
        "[stage-1 1/2] FROM docker.io/library/busybox:latest", "[stage-1 2/2] COPY --from=first /w/a /a",
        "exporting to image"]
    assert all(vertex.completed and not vertex.error for vertex in built.vertexes)
    image = world.inspect("door:2", "{{.Id}}")
    assert built.response["containerimage.digest"] == image
    assert built.response["image.name"] == "docker.io/library/door:latest,docker.io/library/door:2"
    assert world.ok("run", "--rm", "door") == "content"
    assert world.inspect("door", "{{.Config.Labels.l}}") == "v"
    assert ("secret", "token") in client.asked and ("account", "registry-1.docker.io") in client.asked

    again = await build(world.socket, client, {"build-arg:WHO": "you", "label:l": "v"}, _moby("door"))
    assert again.response["containerimage.digest"] == image
    assert all(vertex.cached for vertex in again.vertexes if "RUN" in vertex.name or "COPY" in vertex.name)
    world.ok("rmi", "door:latest", "door:2")


async def test_what_has_not_changed_is_not_sent_again(world: EngineWorld, tmp_path: Path) -> None:
    files = {name: f"this is {name}" for name in ("same", "edited", "moded", "gone", "file", "linked", "late")}
    client = _client(tmp_path, "FROM scratch\nCOPY . /\n", **files)
    client.name = "somebody"
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "deep").write_text("deep")
    (tmp_path / "link").symlink_to("same")
    (tmp_path / ".dockerignore").write_text("late\nDockerfile\n.dockerignore\n")

    async def sent() -> set[str]:
        client.asked.clear()
        built = await build(world.socket, client, {}, [m.Exporter("tar")])
        assert built.error is None
        with tarfile.open(fileobj=io.BytesIO(client.received[0])) as tar:
            found = {member.name: member for member in tar if not member.isdir()}
            wanted = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if not path.is_dir()} - late
            assert found.keys() == wanted
            for name, member in found.items():
                path, file = tmp_path / name, tar.extractfile(member) if not member.issym() else None
                assert member.mode == path.lstat().st_mode & 0o7777
                assert (file.read() if file else member.linkname) == (
                    path.read_bytes() if file else os.readlink(path)), name
        return {path for kind, path in client.asked if kind == "context" and path not in late}

    late = {"late", "Dockerfile", ".dockerignore"}
    assert await sent() == {"same", "edited", "moded", "gone", "file", "linked", "tree/deep"}
    assert await sent() == set()
    (tmp_path / "edited").write_text("THIS IS edited")
    os.utime(tmp_path / "edited", ns=(1, 1))
    (tmp_path / "moded").chmod(0o600)
    (tmp_path / "gone").unlink()
    (tmp_path / "file").unlink()
    (tmp_path / "file").mkdir()
    (tmp_path / "file" / "within").write_text("within")
    (tmp_path / "tree" / "deep").unlink()
    (tmp_path / "tree").rmdir()
    (tmp_path / "tree").symlink_to("nowhere")
    (tmp_path / "link").unlink()
    (tmp_path / "link").symlink_to("edited")
    os.link(tmp_path / "linked", tmp_path / "linked2")
    (tmp_path / ".dockerignore").write_text("Dockerfile\n.dockerignore\n")
    late -= {"late"}
    assert await sent() == {"edited", "moded", "file/within", "late"}
    assert await sent() == {"linked"}

    kept = [entry for entry in json.loads(world.ok("system", "df", "-v", "--format", "{{json .BuildCache}}"))
            if entry["CacheType"] == "source.local"]
    assert len(kept) == 1
    world.ok("builder", "prune", "-f")
    assert await sent() >= {"same", "late"}


async def test_what_is_kept_of_two_builds_at_once_and_of_strangers(world: EngineWorld, tmp_path: Path) -> None:
    """Whoever finds the files in use, or says not who it is, sends all of its own."""
    clients = []
    for number, name in enumerate(("busy", "busy", "")):
        root = tmp_path / str(number)
        root.mkdir()
        clients.append(_client(root, "FROM scratch\nCOPY a /\n", a=str(number)))
        clients[-1].name = name
    for _ in range(2):
        await asyncio.gather(*(build(world.socket, client, {}, [m.Exporter("tar")]) for client in clients))
        for number, client in enumerate(clients):
            with tarfile.open(fileobj=io.BytesIO(client.received[0])) as tar:
                file = tar.extractfile("a")
                assert file is not None and file.read() == str(number).encode()
    assert ("context", "a") in clients[2].asked


async def test_results_for_the_client(world: EngineWorld, tmp_path: Path) -> None:
    dockerfile = "FROM scratch\nCOPY a sub/ /d/\n"
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "big").write_bytes(os.urandom(3 << 20))
    client = _client(tmp_path, dockerfile, DirectoryClient, a="1")
    built = await build(world.socket, client, {}, [m.Exporter("local")])
    assert built.error is None
    files = client.received[0]
    assert files["d/a"][2] == b"1"
    assert files["d/big"][2] == (tmp_path / "sub" / "big").read_bytes()
    assert "exporting to client directory" in built.names() and "exporting to image" not in built.names()

    client = _client(tmp_path, dockerfile)
    built = await build(world.socket, client, {}, [m.Exporter("tar"), m.Exporter("moby", {"name": "both"})])
    assert built.error is None
    with tarfile.open(fileobj=io.BytesIO(client.received[0])) as tar:
        assert {"d/a", "d/big"} <= {member.name for member in tar}
    world.ok("rmi", "both")


async def test_other_places_of_files(world: EngineWorld, tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, data in (("D", b"FROM busybox\nCOPY f /\nRUN echo got $(cat /f)\n"), ("f", b"it")):
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    client = Client(uploads={"id": buffer.getvalue()})
    built = await build(world.socket, client, {"context": "http://buildkit-session/id", "filename": "D"}, [])
    assert built.error is None and "got it" in built.logs

    other = tmp_path / "other"
    other.mkdir()
    (other / "Df").write_text("FROM busybox\nCOPY only /\nRUN ls /Dockerfile; echo end\n")
    (other / "Df.dockerignore").write_text("*\n!only\n")
    (tmp_path / "only").write_text("o")
    client = Client({"context": tmp_path, "dockerfile": other})
    built = await build(world.socket, client, {"filename": "Df"}, [])
    assert built.error is None and "No such file" in built.logs


@pytest.mark.parametrize(("dockerfile", "attrs", "words", "status"), [
    ("FROM busybox\nRUN exit 3\n", {}, "returned a non-zero code: 3", Status.UNKNOWN),
    ("FROM busybox\nRUNN x\n", {}, "unknown instruction: RUNN", Status.UNKNOWN),
    ("FROM busybox\nCOPY nosuch /\n", {}, "nosuch", Status.UNKNOWN),
    ("", {}, "cannot be empty", Status.UNKNOWN),
    ("FROM busybox\n", {"filename": "nosuch"}, "Cannot locate specified Dockerfile: nosuch", Status.UNKNOWN),
    ("FROM busybox\n", {"target": "nosuch"}, "nosuch", Status.UNKNOWN),
    ("FROM busybox\n", {"platform": "linux/amd64,linux/arm64"}, "several platforms", Status.UNIMPLEMENTED),
    ("FROM busybox\n", {"context:x": "docker-image://y"}, "additional build contexts", Status.UNIMPLEMENTED),
    ("FROM busybox\n", {"nosuch": "1"}, "build option nosuch", Status.UNIMPLEMENTED),
    ("FROM busybox\n", {"no-cache": "stage"}, "some stages only", Status.UNIMPLEMENTED),
    ("FROM busybox\n", {"shm-size": "x"}, "invalid value for shm-size", Status.UNKNOWN)])
async def test_what_goes_wrong(world: EngineWorld, tmp_path: Path, dockerfile: str, attrs: dict[str, str], words: str,
                               status: Status) -> None:
    built = await build(world.socket, _client(tmp_path, dockerfile), attrs, [])
    assert built.error is not None
    assert words in (built.error.message or "")
    assert built.error.status is status
    assert built.response == {}


@pytest.mark.parametrize(("exporter", "words"), [
    (m.Exporter("oci", {"compression": "zstd"}), "cannot be told compression"),
    (m.Exporter("nosuch"), "type nosuch is not supported"),
    (m.Exporter("local", {"mode": "delete"}), "cannot be told mode=delete")])
async def test_outputs_that_are_refused(world: EngineWorld, tmp_path: Path, exporter: m.Exporter, words: str) -> None:
    built = await build(world.socket, _client(tmp_path, "FROM busybox\n"), {}, [exporter])
    assert built.error is not None and words in (built.error.message or "")


async def test_what_is_not_a_dockerfile_is_refused(world: EngineWorld) -> None:
    async with connected(world.socket, Client(), "s") as channel:
        with pytest.raises(GRPCError, match="LLB"):
            await call(channel, CONTROL + "Solve", m.SolveRequest(ref="r", definition=b"\x0a\x00"), m.SolveResponse)
        with pytest.raises(GRPCError, match=r"frontend x/y is not supported"):
            await call(channel, CONTROL + "Solve", m.SolveRequest(
                ref="r", frontend="gateway.v0", frontend_attrs={"source": "x/y"}), m.SolveResponse)
        with pytest.raises(GRPCError) as info:
            await call(channel, BRIDGE + "ReadFile", m.Empty(), m.Empty)
        assert info.value.status is Status.UNIMPLEMENTED


async def test_a_check_builds_nothing(world: EngineWorld, tmp_path: Path) -> None:
    client = _client(tmp_path, "FROM busybox as x\nRUN echo never\n")
    async with connected(world.socket, client, "s") as channel:
        solving = asyncio.create_task(call(channel, CONTROL + "Solve", m.SolveRequest(ref="c", session="s"),
                                           m.SolveResponse))
        answer = await call(channel, BRIDGE + "Solve", m.BridgeSolveRequest(
            frontend="dockerfile.v0", frontend_opt={"requestid": "frontend.lint"}), m.BridgeSolveResponse, "c")
        await call(channel, BRIDGE + "Return", m.ReturnRequest(answer.result), m.Empty, "c")
        assert (await solving).exporter_response == {}
    said = answer.result.metadata
    assert said["result.statuscode"] == b"1" and b"1 warning has been found" in said["result.txt"]
    [warning] = json.loads(said["result.json"])["warnings"]
    assert warning["ruleName"] == "FromAsCasing"
    assert warning["location"]["ranges"] == [{"start": {"line": 1}, "end": {"line": 1}}]


async def test_the_engine_as_a_worker(world: EngineWorld) -> None:
    async with connected(world.socket, Client(), "s") as channel:
        answer = await call(channel, CONTROL + "ListWorkers", m.Empty(), m.ListWorkersResponse)
        [worker] = answer.record
        assert worker.platforms[0].os == "linux"
        assert worker.labels["org.mobyproject.buildkit.worker.moby.host-gateway-ip"] == "172.31.87.1"
        usage = await call(channel, CONTROL + "DiskUsage", m.DiskUsageRequest(), m.DiskUsageResponse)
        assert any(record.description for record in usage.record)


async def test_a_client_that_goes_away(world: EngineWorld, tmp_path: Path) -> None:
    """The step is ended with it, and nothing is left."""
    client = _client(tmp_path, f"FROM busybox\nRUN echo begun; exec sleep {SECONDS}\n")
    running = asyncio.create_task(build(world.socket, client, {"no-cache": ""}, []))
    await _until(lambda: _sleeping(), "the step to begin")
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    await _until(lambda: not _sleeping(), "the step to end")
    await _until(lambda: world.ok("ps", "-aq") == "", "its container to go")


def _sleeping() -> bool:
    return any(b"sleep\0%d" % SECONDS in _command(pid) for pid in filter(str.isdigit, os.listdir("/proc")))


def _command(pid: str) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""


async def _until(true: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        await asyncio.sleep(0.05)
