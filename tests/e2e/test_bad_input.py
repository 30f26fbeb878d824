"""Bad images, bad registries, full disks and taken names: docker's words, and nothing half-made left."""

from __future__ import annotations

import asyncio
import gzip
import io
import json
import os
import socket
import subprocess
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from barque.sys.unmount import detach
from tests.e2e.engine_world import PATIENCE, EngineWorld, engine_world
from tests.image_world import CONFIG, LAYER, MANIFEST, FaultyRegistry, SmallImage, digest, faulty_registry, make_image
from tests.registry_peers import free_port

Member = tuple[tarfile.TarInfo, bytes]
FINE = {"fine": b"x" * 10_000}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EngineWorld]:
    with engine_world(tmp_path_factory.mktemp("bad")) as made:
        yield made


@contextmanager
def registry_in_thread() -> Iterator[FaultyRegistry]:
    """A registry that misbehaves as told, served from a thread of its own."""
    ready: list[FaultyRegistry] = []
    started, loop = threading.Event(), asyncio.new_event_loop()
    stop = asyncio.Event()

    async def serve() -> None:
        async with faulty_registry() as registry:
            ready.append(registry)
            started.set()
            await stop.wait()

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),))
    thread.start()
    started.wait()
    try:
        yield ready[0]
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()
        loop.close()


@pytest.fixture
def registry() -> Iterator[FaultyRegistry]:
    with registry_in_thread() as made:
        yield made


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "", data: bytes = b"") -> Member:
    entry = tarfile.TarInfo(name)
    entry.type, entry.linkname, entry.size, entry.mode = kind, link, len(data), 0o755
    if kind == tarfile.BLKTYPE:
        entry.devmajor, entry.devminor = 7, 0
    return entry, data


def image_of(*members: Member) -> SmallImage:
    """An image of one layer with exactly these members."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for entry, data in members:
            archive.addfile(entry, io.BytesIO(data))
    tar = buffer.getvalue()
    blob = gzip.compress(tar, 1, mtime=0)
    document = json.dumps({"architecture": "amd64", "os": "linux", "config": {},
                           "rootfs": {"type": "layers", "diff_ids": [digest(tar)]}}).encode()
    manifest = {"schemaVersion": 2, "mediaType": MANIFEST,
                "config": {"mediaType": CONFIG, "digest": digest(document), "size": len(document)},
                "layers": [{"mediaType": LAYER, "digest": digest(blob), "size": len(blob)}]}
    return SmallImage(json.dumps(manifest).encode(), document, [blob])


def wait_until(happened: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def store(world: EngineWorld) -> set[str]:
    """Blobs, snapshots and images that the engine has."""
    data = world.root / "data"
    return {*(str(path) for path in (data / "content" / "blobs").rglob("*") if path.is_file()),
            *os.listdir(data / "snapshots"), *world.ok("images", "-aq", "--no-trunc").split()}


def refused(world: EngineWorld, reference: str, *texts: str) -> None:
    """A run of ``reference`` fails with 125 and says all of ``texts``; nothing of the image stays, the engine lives."""
    world.ok("image", "prune", "-f")
    before = store(world)
    done = world.docker("run", "--rm", reference, "true")
    assert done.code == 125, done
    for text in texts:
        assert text in done.err, done.err
    world.ok("image", "prune", "-f")  # what a broken download keeps for its next try goes with the collection
    wait_until(lambda: store(world) <= before)  # files go behind their rows, when nothing else needs the processor
    assert world.ok("run", "--rm", "busybox", "echo", "alive") == "alive"


def spoil(registry: FaultyRegistry, which: bytes, data: bytes) -> None:
    registry.blobs[digest(which)] = data


def test_unknown_image(world: EngineWorld, registry: FaultyRegistry) -> None:
    refused(world, "nosuch:1", "Unable to find image 'nosuch:1' locally", "nosuch")
    refused(world, f"{registry.address}/nosuch:1", f"manifest for {registry.address}/nosuch:1 not found")


def test_registry_down(world: EngineWorld) -> None:
    port = free_port()
    refused(world, f"127.0.0.1:{port}/app", f"dial tcp 127.0.0.1:{port}: connect: connection refused")


@pytest.mark.parametrize(("change", "text"), [
    (lambda layer: bytes(len(layer)), "filesystem layer verification failed for digest"),
    (lambda layer: layer[:len(layer) // 2], "unexpected EOF"),
    (lambda layer: layer + b"more", "got at least"),
], ids=["wrong digest", "truncated", "too long"])
def test_layer_that_is_not_what_the_manifest_says(world: EngineWorld, registry: FaultyRegistry,
                                                  change: Callable[[bytes], bytes], text: str) -> None:
    image = make_image(FINE)
    registry.add("app", "latest", image)
    spoil(registry, image.layers[0], change(image.layers[0]))
    refused(world, f"{registry.address}/app", text)


def test_layer_that_is_no_archive(world: EngineWorld, registry: FaultyRegistry) -> None:
    image = make_image(FINE)
    data = gzip.compress(b"not a tar archive" * 1000, 1, mtime=0)
    manifest = json.loads(image.manifest)
    manifest["layers"][0] |= {"digest": digest(data), "size": len(data)}
    registry.add("app", "latest", SmallImage(json.dumps(manifest).encode(), image.config, [data]))
    refused(world, f"{registry.address}/app", "failed to register layer")


@pytest.mark.parametrize("members", [
    [member("../../escape", data=b"out")],
    [member("a/../../escape", data=b"out")],
    [member("d", tarfile.SYMTYPE, "/"), member("d/escape", data=b"out")],
    [member("d", tarfile.SYMTYPE, "../../../../../.."), member("d/escape", data=b"out")],
    [member("passwd", tarfile.LNKTYPE, "../../../../../../../../etc/passwd")],
    [member("passwd", tarfile.LNKTYPE, "/etc/passwd")],
    [member("/escape", data=b"out")],
], ids=["dots", "dots inside", "absolute link", "relative link", "hard link by dots", "hard link", "absolute"])
def test_hostile_entries_stay_in_the_layer(world: EngineWorld, registry: FaultyRegistry,
                                           members: list[Member]) -> None:
    """Refused, or resolved inside the layer: in either case nothing outside is written to or shown."""
    registry.add("hostile", "latest", image_of(*members))
    reference = f"{registry.address}/hostile"
    done = world.docker("pull", reference)
    outside = [path for path in (Path("/escape"), world.root / "escape", world.root / "data" / "escape",
                                 world.root / "data" / "snapshots" / "escape") if path.exists()]
    assert outside == []
    if done.code == 0:
        world.ok("create", "--name", "hostile", reference, "x")
        size = world.ok("inspect", "-s", "-f", "{{.SizeRootFs}}", "hostile")
        assert int(size) <= 3  # of the host's passwd there is nothing
        world.ok("rm", "hostile")
        world.ok("rmi", reference)
    else:
        assert "failed to register layer" in done.err
    assert world.ok("run", "--rm", "busybox", "echo", "alive") == "alive"


def test_device_nodes_of_an_image_give_no_access(world: EngineWorld, registry: FaultyRegistry) -> None:
    busybox = Path(subprocess.run(["which", "busybox"], capture_output=True, text=True, check=True).stdout.strip())
    registry.add("devices", "latest", image_of(member("disk", tarfile.BLKTYPE), member("busybox",
                                                                                       data=busybox.read_bytes())))
    done = world.docker("run", "--rm", f"{registry.address}/devices", "/busybox", "head", "-c1", "/disk")
    assert done.code == 1
    assert "Operation not permitted" in done.err
    world.ok("rmi", f"{registry.address}/devices")


@contextmanager
def small_disk(path: Path, size: str) -> Iterator[None]:
    path.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "small", str(path)], check=True)
    try:
        yield
    finally:
        detach(str(path))


def test_disk_full(tmp_path_factory: pytest.TempPathFactory, registry: FaultyRegistry) -> None:
    """While pulling, and while a container writes: an error that says so, and the space comes back."""
    root = tmp_path_factory.mktemp("full")
    registry.add("big", "latest", make_image({"zeros": bytes(64 << 20)}))
    registry.add("noise", "latest", make_image({"noise": os.urandom(48 << 20)}))
    with small_disk(root / "data", "24m"), engine_world(root, "172.31.98.1/24") as world:
        refused(world, f"{registry.address}/big", "no space left on device")
        refused(world, f"{registry.address}/noise", "no space left on device")
        done = world.docker("run", "--name", "writer", "busybox", "dd", "if=/dev/zero", "of=/f", "bs=1M", "count=64")
        assert done.code == 1
        assert "No space left on device" in done.err
        world.ok("rm", "writer")
        chatty = "yes 0123456789012345678901234567890123456789 | head -c 40000000; sleep 0.2; exit 7"
        done = world.docker("run", "--name", "chatty", "busybox", "sh", "-c", chatty)
        assert done.code == 7
        world.ok("rm", "chatty")
        world.ok("run", "-d", "--name", "filler", "busybox", "sh", "-c",
                 "while dd if=/dev/zero of=/f$((i+=1)) bs=4k; do :; done; touch /full; exec sleep 1000")
        wait_until(lambda: world.docker("exec", "filler", "test", "-e", "/full").code == 0)
        done = world.docker("run", "--rm", "--name", "crowded", "-v", "/v", "busybox", "true")
        assert done.code in (0, 125)
        assert done.code == 0 or "no space left on device" in done.err, done
        assert "filler" in world.ok("ps", "--format", "{{.Names}}")
        world.ok("rm", "-f", "filler")
        assert world.ok("run", "--rm", "busybox", "echo", "room") == "room"


def test_taken_port_of_a_stranger(world: EngineWorld) -> None:
    with socket.socket() as stranger:
        stranger.bind(("127.0.0.1", 0))
        stranger.listen()
        port = stranger.getsockname()[1]
        done = world.docker("run", "--name", "late", "-p", f"127.0.0.1:{port}:80", "busybox", "true")
        assert done.code == 125
        assert "driver failed programming external connectivity on endpoint late" in done.err
        assert f"127.0.0.1:{port}" in done.err
        assert "address already in use" in done.err
        assert world.inspect("late", "{{.State.Status}}") == "created"
    assert world.docker("start", "-a", "late").code == 0
    world.ok("rm", "late")


def test_taken_port_of_a_container(world: EngineWorld) -> None:
    port = free_port()
    world.ok("run", "-d", "--name", "first", "-p", f"{port}:80", "busybox", "sleep", "1000")
    done = world.docker("run", "--rm", "-p", f"{port}:80", "busybox", "true")
    assert done.code == 125
    assert "port is already allocated" in done.err
    assert "Error waiting for container" not in done.err
    world.ok("rm", "-f", "first")
    assert world.docker("run", "--rm", "-p", f"{port}:80", "busybox", "true").code == 0


@pytest.mark.parametrize(("arguments", "text"), [
    (["-v", "/nosuch:relative", "busybox"], "invalid volume specification"),
    (["--mount", "type=bind,source=/nosuch,target=/x", "busybox"], "bind source path does not exist: /nosuch"),
    (["--memory", "100m", "--memory-swap", "50m", "busybox"], "Minimum memoryswap limit should be larger"),
    (["--cpus", "1000", "busybox"], "range of CPUs is from 0.01 to"),
    (["--security-opt", "seccomp=/nosuch", "busybox"], "opening seccomp profile"),
    (["--security-opt", "seccomp={}x", "busybox"], "seccomp profile"),
    (["--ulimit", "nosuch=1", "busybox"], "invalid ulimit type: nosuch"),
    (["--restart", "always", "--rm", "busybox"], "conflicting options"),
    (["--network", "container:nosuch", "busybox"], "No such container: nosuch"),
    (["--volumes-from", "nosuch", "busybox"], "No such container: nosuch"),
    (["--log-driver", "nosuch", "busybox"], "no log driver named 'nosuch' is registered"),
    (["--sysctl", "kernel.nosuch=1", "busybox", "true"], "kernel.nosuch"),
    (["-p", "99999:80", "busybox"], "99999"),
    (["--name", "-bad", "busybox"], "Invalid container name (-bad)"),
    (["--mount", "type=volume,source=v,target=/", "busybox"], "destination can't be '/'"),
])
def test_bad_flags(world: EngineWorld, arguments: list[str], text: str) -> None:
    before = world.ok("ps", "-aq"), world.ok("volume", "ls", "-q")
    done = world.docker("run", *([] if "--rm" in arguments else ["--rm"]), *arguments)
    assert done.code == 125, done
    assert text in done.err
    assert (world.ok("ps", "-aq"), world.ok("volume", "ls", "-q")) == before


