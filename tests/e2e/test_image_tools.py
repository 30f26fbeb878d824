"""What docker has not: flattening, base images from packages, downloads that outlive the engine."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import http.client
import json
import os
import resource
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.e2e.engine_world import PATIENCE, Done, EngineWorld, engine_world
from tests.e2e.test_bad_input import wait_until
from tests.image_world import CONFIG, LAYER, MANIFEST, digest, tar_of

#: Bytes of a layer, and what may come on top of an idle process that has to do with it; 8 MB is the stack of a thread.
LARGE, GROWTH = 96 << 20, 48 << 20


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EngineWorld]:
    with engine_world(tmp_path_factory.mktemp("tools"), bip="172.31.98.1/24") as made:
        yield made


def barque(world: EngineWorld, *arguments: str, **environment: str) -> Done:
    """Our own command line."""
    done = subprocess.run([sys.executable, "-m", "barque.cli.main", *arguments], capture_output=True, text=True,
                          check=False, env={**world.environment(), **environment}, stdin=subprocess.DEVNULL,
                          timeout=PATIENCE)
    return Done(done.stdout, done.stderr, done.returncode)


def ok(world: EngineWorld, *arguments: str, **environment: str) -> str:
    done = barque(world, *arguments, **environment)
    assert done.code == 0, (arguments, done, world.log[-4000:])
    return done.out.strip()


def test_a_flat_image_is_the_same_image(world: EngineWorld) -> None:
    world.ok("run", "--name", "changes", "busybox", "sh", "-c", "rm /data/from-image; dd if=/dev/zero of=/tmp/x bs=1k "
             "count=99 2>&1; mkdir /data/new; chown 7:8 /data/new; ln /tmp/x /tmp/y")
    world.ok("commit", "changes", "layered:1")
    world.ok("rm", "changes")
    flat = ok(world, "image", "flatten", "layered:1", "flat:1")
    assert ok(world, "image", "diff", "layered:1", "flat:1") == ""
    assert "A /data/new" in ok(world, "image", "diff", "busybox", "flat:1").splitlines()
    assert ok(world, "image", "flatten", "layered:1") == flat
    image = json.loads(world.ok("image", "inspect", "flat:1"))[0]
    assert image["Id"] == flat and len(image["RootFS"]["Layers"]) == 1
    assert image["Config"]["Labels"] == {"from": "image"}
    assert ok(world, "image", "layers", "layered:1").splitlines()[-1].startswith("2 layers, ")
    listing = "stat -c '%u %g' /data/new; ls /data; stat -c %h /tmp/x"
    assert world.ok("run", "--rm", "flat:1", "sh", "-c", listing) == "7 8\nnew\n2"


def on_the_disk(world: EngineWorld) -> int:
    """Bytes of the contents of all files of images, containers and volumes."""
    files = {}
    for part in ("content/blobs", "snapshots", "volumes"):
        for folder, _, names in os.walk(world.root / "data" / part):
            for name in names:
                with contextlib.suppress(FileNotFoundError):
                    info = os.lstat(os.path.join(folder, name))
                    if stat.S_ISREG(info.st_mode):
                        files[info.st_dev, info.st_ino] = info.st_size
    return sum(files.values())


def test_disk_usage_is_what_is_on_the_disk(world: EngineWorld) -> None:
    world.ok("run", "--name", "writer", "-v", "filled:/v", "busybox", "sh", "-c", "head -c 5000 /dev/zero > /v/x; "
             "head -c 777 /dev/zero > /tmp/y")
    with closing(http.client.HTTPConnection("engine")) as connection:
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.connect(world.socket)
        connection.request("GET", "/v1.45/system/df")
        usage = json.loads(connection.getresponse().read())
    told = usage["LayersSize"] + sum(item["UsageData"]["Size"] for item in usage["Volumes"]) \
        + sum(item["SizeRw"] for item in usage["Containers"])
    wait_until(lambda: on_the_disk(world) == told)  # files go behind their rows
    world.ok("rm", "-v", "writer")
    world.ok("volume", "rm", "filled")


def test_the_engine_is_checked_and_mended_while_it_runs(world: EngineWorld) -> None:
    assert ok(world, "system", "fsck", "--deep") == "no damage found"
    (world.root / "data/snapshots/4711/fs").mkdir(parents=True)
    done = barque(world, "system", "fsck")
    assert (done.code, done.out) == (1, "snapshot-unrecorded 4711: directory without a row\n1 found, 0 repaired\n")
    assert "1 found, 1 repaired" in ok(world, "system", "fsck", "--repair")
    assert not (world.root / "data/snapshots/4711").exists()


def status(pid: int, field: str) -> int:
    """Bytes, from proc_pid_status(5)."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith(f"{field}:"))


def children(pid: int) -> list[int]:
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return [int(child) for task in tasks for child in (task / "children").read_text().split()]


def write_large(path: Path) -> None:
    """Every eighth MB of it cannot be compressed."""
    with path.open("wb") as file:
        for number in range(LARGE >> 20):
            file.write(os.urandom(1 << 20) if number % 8 == 0 else bytes(1 << 20))


def test_a_large_layer_goes_through_little_memory(world: EngineWorld, tmp_path: Path) -> None:
    """In every way there is. The daemon's peak is what the kernel noted (VmHWM); workers inherit the zygote's limit of
    data (getrlimit(2)), and one that took more would fail, and its command with it.
    """
    assert world.process is not None
    daemon = world.process.pid
    zygotes = children(daemon)
    assert zygotes, "workers have another parent"
    _, hard = resource.prlimit(daemon, resource.RLIMIT_DATA)
    for zygote in zygotes:
        resource.prlimit(zygote, resource.RLIMIT_DATA, (status(zygote, "VmData") + GROWTH, hard))
    Path(f"/proc/{daemon}/clear_refs").write_text("5")  # begin the peak anew
    idle = status(daemon, "VmRSS")

    large, plain, saved = tmp_path / "large", tmp_path / "plain.tar", tmp_path / "saved.tar"
    write_large(large)
    with tarfile.open(plain, "w") as archive:
        archive.add(large, "large")
    (tmp_path / "Dockerfile").write_text("FROM scratch\nCOPY large /copied\n")
    (tmp_path / ".dockerignore").write_text("*.tar\n")
    name = f"{world.mirror.removeprefix('http://')}/large"

    def peak(*command: str) -> None:
        world.ok(*command)
        grown = status(daemon, "VmHWM") - idle
        assert grown < GROWTH, f"{command[0]} took {grown >> 20} MB"

    peak("import", str(plain), name)
    peak("push", "-q", name)
    peak("save", "-o", str(saved), name)
    for again in (("load", "-q", "-i", str(saved)), ("pull", "-q", name)):
        world.ok("rmi", name)
        peak(*again)
    world.ok("create", "--name", "changed", name, "none")
    peak("cp", str(large), "changed:/more")
    peak("commit", "changed", "committed")
    peak("export", "-o", str(tmp_path / "exported.tar"), "changed")
    peak("build", "-q", str(tmp_path))
    world.ok("rm", "changed")
    for zygote in zygotes:
        resource.prlimit(zygote, resource.RLIMIT_DATA, (hard, hard))


def _repository(root: Path) -> str:
    """A package with one program in a repository of files; its line in sources.list."""
    tree = root / "tree"
    (tree / "DEBIAN").mkdir(parents=True)
    (tree / "usr/bin").mkdir(parents=True)
    shutil.copy("/bin/busybox", tree / "usr/bin/busybox")
    architecture = subprocess.run(["dpkg", "--print-architecture"], capture_output=True, text=True, check=True,
                                  timeout=PATIENCE).stdout.strip()
    control = f"Package: tool\nVersion: 1\nArchitecture: {architecture}\nMaintainer: x <x@example>\nDescription: x\n"
    (tree / "DEBIAN/control").write_text(control)
    repository = root / "repository"
    repository.mkdir()
    subprocess.run(["dpkg-deb", "-Znone", "--root-owner-group", "-b", str(tree), str(repository / "tool.deb")],
                   check=True, capture_output=True, timeout=PATIENCE)
    package = (repository / "tool.deb").read_bytes()
    packages = (control + f"Filename: ./tool.deb\nSize: {len(package)}\n"
                f"SHA256: {hashlib.sha256(package).hexdigest()}\n").encode()
    (repository / "Packages").write_bytes(packages)
    (repository / "Release").write_text("Suite: test\nDate: Sat, 17 May 2025 09:15:54 UTC\nSHA256:\n "
                                        f"{hashlib.sha256(packages).hexdigest()} {len(packages)} Packages\n")
    return f"deb [trusted=yes] copy:{repository} ./"


@pytest.mark.skipif(shutil.which("mmdebstrap") is None, reason="needs mmdebstrap")
def test_base_images_from_packages_are_the_same_each_time(world: EngineWorld, tmp_path: Path) -> None:
    mirror = _repository(tmp_path)
    command = ["image", "bootstrap", "--mirror", mirror, "--variant", "extract", "--include", "tool", "example:test"]
    first = ok(world, *command).splitlines()[-1]
    image = json.loads(world.ok("image", "inspect", "example:test"))[0]
    assert image["Id"] == first and image["Created"] == "2025-05-17T09:15:54Z"
    assert world.ok("run", "--rm", "example:test", "/usr/bin/busybox", "echo", "runs") == "runs"
    assert ok(world, *command, "again:1").splitlines()[-1] == first
    assert ok(world, *command, "other:1", SOURCE_DATE_EPOCH="1000000000").splitlines()[-1] != first
    assert world.ok("image", "inspect", "-f", "{{.Created}}", "other:1") == "2001-09-09T01:46:40Z"
    done = barque(world, "image", "bootstrap", "nodistribution:suite")
    assert done.code == 1 and "name them with --mirror" in done.err


def test_base_images_where_there_is_only_debootstrap(world: EngineWorld, tmp_path: Path) -> None:
    """It would install a whole system from a mirror: what it is asked for, and what is made of its tree."""
    programs, asked = tmp_path / "bin", tmp_path / "asked"
    programs.mkdir()
    command = ["image", "bootstrap", "--mirror", "deb [trusted=yes] http://mirror.invalid/debian test main contrib",
               "--include", "tool", "--include", "other", "example:test", "fallen:1"]
    done = barque(world, *command, PATH=str(programs))
    assert done.code == 1 and "neither mmdebstrap nor debootstrap is installed" in done.err
    script = programs / "debootstrap"
    script.write_text(f"""#!/bin/sh -e
PATH=/usr/bin:/bin
echo "$@" > {asked}
while [ $# -gt 2 ]; do shift; done
mkdir -p "$1/usr/bin" "$1/var/lib/apt/lists" "$1/debootstrap"
cp /bin/busybox "$1/usr/bin/"
echo 'Date: Sat, 17 May 2025 09:15:54 UTC' > "$1/var/lib/apt/lists/test_Release"
""")
    script.chmod(0o755)
    first = ok(world, *command, PATH=str(programs)).splitlines()[-1]
    *options, suite, _, address = asked.read_text().split()
    assert (suite, address) == ("test", "http://mirror.invalid/debian")
    assert options == ["--variant=minbase", "--no-check-gpg", "--components=main,contrib", "--include=tool,other"]
    image = json.loads(world.ok("image", "inspect", "fallen:1"))[0]
    assert image["Id"] == first and image["Created"] == "2025-05-17T09:15:54Z"
    assert ok(world, *command, PATH=str(programs)).splitlines()[-1] == first
    assert world.ok("run", "--rm", "fallen:1", "/usr/bin/busybox", "ls", "/var/lib/apt/lists") == ""
    script.write_text("#!/bin/sh\necho E: no such suite; exit 1\n")
    done = barque(world, *command, PATH=str(programs))
    assert done.code == 1 and "debootstrap failed:\nE: no such suite" in done.err


class _Slow(BaseHTTPRequestHandler):
    """A registry with one image, whose layer stops in the middle as often as ``stops`` says."""

    protocol_version = "HTTP/1.1"
    layer, diff = b"", ""
    stops = 0
    ranges: list[str] = []  # noqa: RUF012 - set for each test
    over = threading.Event()

    def do_GET(self) -> None:
        config = json.dumps({"architecture": "amd64", "os": "linux",
                             "rootfs": {"type": "layers", "diff_ids": [self.diff]}}).encode()
        manifest = json.dumps({
            "schemaVersion": 2, "mediaType": MANIFEST,
            "config": {"mediaType": CONFIG, "digest": digest(config), "size": len(config)},
            "layers": [{"mediaType": LAYER, "digest": digest(self.layer), "size": len(self.layer)}]}).encode()
        if self.path.endswith(digest(self.layer)):
            self._layer()
        elif "/manifests/" in self.path:
            self._send(manifest, MANIFEST)
        else:
            self._send(config if "/blobs/" in self.path else b"{}", "application/octet-stream")

    def _send(self, body: bytes, kind: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _layer(self) -> None:
        asked = self.headers.get("Range", "")
        self.ranges.append(asked)
        begin = int(asked.removeprefix("bytes=").rstrip("-") or 0)
        rest = self.layer[begin:]
        self.send_response(206 if asked else 200)
        if asked:
            self.send_header("Content-Range", f"bytes {begin}-{len(self.layer) - 1}/{len(self.layer)}")
        self.send_header("Content-Length", str(len(rest)))
        self.end_headers()
        if len(self.ranges) <= type(self).stops:
            self.wfile.write(rest[:3 << 20])
            self.wfile.flush()
            self.over.wait(PATIENCE)
            self.close_connection = True
        else:
            self.wfile.write(rest)

    def handle(self) -> None:
        with contextlib.suppress(ConnectionError):  # an engine that is killed
            super().handle()

    def log_message(self, *_: object) -> None:
        return


@contextmanager
def slow_registry(layer: bytes, diff: str, stops: int) -> Iterator[tuple[str, list[str]]]:
    handler = type("Slow", (_Slow,), {"layer": layer, "diff": diff, "stops": stops, "ranges": [],
                                      "over": threading.Event()})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"127.0.0.1:{server.server_address[1]}", handler.ranges
    finally:
        handler.over.set()
        server.shutdown()
        server.server_close()


def _wait_for_bytes(world: EngineWorld, layer: bytes, least: int) -> int:
    """Until the engine has that much of the layer; how much it is."""
    path = world.root / "data/content/ingest" / digest(layer).replace(":", "-")
    deadline = time.monotonic() + PATIENCE
    while not path.exists() or path.stat().st_size < least:
        assert time.monotonic() < deadline, "the download does not get on"
        time.sleep(0.02)
    return path.stat().st_size


def test_a_download_outlives_kill_9_and_a_restart(world: EngineWorld) -> None:
    tar = tar_of({"big": os.urandom(9 << 20)})
    layer = gzip.compress(tar, 1)
    with slow_registry(layer, digest(tar), stops=2) as (address, ranges):
        for number, least in ((signal.SIGKILL, 2 << 20), (signal.SIGTERM, 4 << 20)):
            client = world.popen("pull", f"{address}/app:1")
            _wait_for_bytes(world, layer, least)
            world.end(number)
            client.communicate(timeout=PATIENCE)
            world.start()
        world.ok("pull", f"{address}/app:1")
        begins = [int(asked.removeprefix("bytes=").rstrip("-")) for asked in ranges[1:]]
        assert ranges[0] == "" and len(begins) == 2
        assert begins[0] >= 2 << 20 and begins[1] >= 4 << 20, "each goes on where the one before was ended"
    world.ok("rmi", f"{address}/app:1")
