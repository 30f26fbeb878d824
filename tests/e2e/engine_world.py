"""One engine for a test module: a registry with a busybox image, a daemon that has it as its mirror, docker's own
CLI.
"""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import io
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from barque.image.client.hosts import HostConfig
from barque.image.client.transport import Transport
from barque.image.push import push_image
from barque.oci import media_types as mt
from barque.oci.reference import parse
from tests.registry_peers import free_port

#: How long anything may take on a loaded machine before it counts as hanging (seconds).
PATIENCE = 60
PASSWD = b"root:x:0:0:root:/root:/bin/sh\nbob:x:1000:1000:bob:/home/bob:/bin/sh\n"
GROUP = b"root:x:0:\nbob:x:1000:\nwheel:x:10:bob,root\n"


def _layer() -> bytes:
    """busybox with a link for each applet, and what a base image has in /etc."""
    busybox = shutil.which("busybox")
    assert busybox is not None
    applets = subprocess.run([busybox, "--list"], capture_output=True, text=True, check=True).stdout.split()
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for name, mode in (("bin", 0o755), ("etc", 0o755), ("tmp", 0o1777), ("root", 0o700), ("home/bob", 0o755),
                           ("data", 0o755)):
            entry = tarfile.TarInfo(name)
            entry.type, entry.mode = tarfile.DIRTYPE, mode
            tar.addfile(entry)
        for name, data, mode in (("bin/busybox", Path(busybox).read_bytes(), 0o755), ("etc/passwd", PASSWD, 0o644),
                                 ("etc/group", GROUP, 0o644), ("data/from-image", b"image\n", 0o644)):
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(data), mode
            tar.addfile(entry, io.BytesIO(data))
        for applet in applets:
            if applet != "busybox":
                entry = tarfile.TarInfo(f"bin/{applet}")
                entry.type, entry.linkname = tarfile.SYMTYPE, "busybox"
                tar.addfile(entry)
    return buffer.getvalue()


def digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def push_busybox(directory: Path, port: int) -> None:
    """As library/busybox:latest into the registry on that port of loopback."""
    layer = _layer()
    packed = gzip.compress(layer, 1)
    config = json.dumps({
        "architecture": {"x86_64": "amd64", "aarch64": "arm64"}[os.uname().machine], "os": "linux",
        "created": "2024-01-02T03:04:05Z", "rootfs": {"type": "layers", "diff_ids": [digest(layer)]},
        "config": {"Env": ["PATH=/bin"], "Cmd": ["sh"], "Labels": {"from": "image"}}}).encode()
    manifest = json.dumps({
        "schemaVersion": 2, "mediaType": mt.OCI_MANIFEST,
        "config": {"mediaType": mt.OCI_CONFIG, "digest": digest(config), "size": len(config)},
        "layers": [{"mediaType": mt.OCI_LAYER_GZIP, "digest": digest(packed), "size": len(packed)}]}).encode()

    blobs = {}
    for data in (packed, config):
        (directory / digest(data)).write_bytes(data)
        blobs[digest(data)] = str(directory / digest(data))

    async def push() -> None:
        transport = Transport(HostConfig())
        try:
            reference = parse(f"127.0.0.1:{port}/library/busybox:latest")
            await push_image(transport, reference, mt.OCI_MANIFEST, manifest, blobs)
        finally:
            await transport.close()

    asyncio.run(push())


def wait_listening(port: int) -> None:
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            return
        except ConnectionRefusedError:
            assert time.monotonic() < deadline, "the registry does not come up"
            time.sleep(0.05)


@dataclass
class Done:
    """What a command printed, and its exit code."""

    out: str
    err: str
    code: int


@dataclass
class EngineWorld:
    """A daemon below ``root``, which may be killed and started again."""

    root: Path
    mirror: str
    process: subprocess.Popen[bytes] | None = None
    flags: list[str] = field(default_factory=list)
    bip: str = "172.31.99.1/24"

    @property
    def socket(self) -> str:
        return str(self.root / "s")

    @property
    def log(self) -> str:
        return (self.root / "log").read_text()

    def start(self) -> None:
        """Returns when the API answers."""
        command = [sys.executable, "-m", "barque.daemon", "--data-root", str(self.root / "data"), "--exec-root",
                   str(self.root / "run"), "-H", f"unix://{self.socket}", "--config-file",
                   str(self.root / "daemon.json"),
                   "--registry-mirror", self.mirror, "--bip", self.bip, *self.flags]
        (self.root / "daemon.json").write_text("{}")
        with open(self.root / "log", "ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        deadline = time.monotonic() + PATIENCE
        while self.docker("version").code != 0:
            assert self.process.poll() is None, self.log
            assert time.monotonic() < deadline, self.log
            time.sleep(0.05)

    def end(self, number: int = signal.SIGTERM) -> int:
        """Send the signal and wait for the daemon's end; returns its status."""
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.wait(PATIENCE)

    def environment(self) -> dict[str, str]:
        return {"PATH": os.environ["PATH"], "DOCKER_HOST": f"unix://{self.socket}", "HOME": str(self.root),
                "DOCKER_CLI_HINTS": "false", "DOCKER_BUILDKIT": os.environ.get("DOCKER_BUILDKIT", "0")}

    def docker(self, *arguments: str, stdin: str | None = None) -> Done:
        """docker's own CLI against this engine."""
        done = subprocess.run(["docker", *arguments], input=stdin or "", capture_output=True, text=True, check=False,
                              env=self.environment(), timeout=PATIENCE)
        return Done(done.stdout, done.stderr, done.returncode)

    def ok(self, *arguments: str, stdin: str | None = None) -> str:
        """As :meth:`docker`, for a command that must succeed; gives what it printed."""
        done = self.docker(*arguments, stdin=stdin)
        assert done.code == 0, (arguments, done, self.log[-4000:])
        return done.out.strip()

    def inspect(self, name: str, template: str) -> str:
        return self.ok("inspect", "-f", template, name)

    def popen(self, *arguments: str, stdin: int | IO[bytes] = subprocess.DEVNULL) -> subprocess.Popen[bytes]:
        return subprocess.Popen(["docker", *arguments], env=self.environment(), stdin=stdin, stdout=subprocess.PIPE,
                                stderr=subprocess.PIPE)


def barque(world: EngineWorld, *arguments: str, stdin: str | None = None) -> Done:
    """Our own command line, for what docker's has no words for."""
    done = subprocess.run([sys.executable, "-m", "barque.cli.main", *arguments], input=stdin or "", text=True,
                          capture_output=True, check=False, env=world.environment(), timeout=PATIENCE)
    return Done(done.stdout, done.stderr, done.returncode)


@contextmanager
def busybox_registry(root: Path) -> Iterator[int]:
    """A registry on the port of loopback that it gives, with library/busybox:latest in it."""
    port = free_port()
    program = "import sys; from barque.registry.server import main; sys.exit(main(sys.argv[1:]))"
    registry = subprocess.Popen([sys.executable, "-c", program, "--addr", f"127.0.0.1:{port}", "--root",
                                 str(root / "registry"), "--log-level", "error"])
    try:
        wait_listening(port)
        push_busybox(root, port)
        yield port
    finally:
        registry.terminate()
        registry.wait(PATIENCE)


@contextmanager
def engine_world(root: Path, bip: str = EngineWorld.bip, flags: Sequence[str] = ()) -> Iterator[EngineWorld]:
    """A running engine with busybox pulled; at the end nothing of it may be left, and its log has no bug in it."""
    with busybox_registry(root) as port:
        world = EngineWorld(root, f"http://127.0.0.1:{port}", bip=bip, flags=list(flags))
        try:
            world.start()
            world.ok("pull", "-q", "busybox")
            yield world
            ids = world.ok("ps", "-aq").split()
            if ids:
                world.ok("rm", "-f", "-v", *ids)
            assert "Traceback" not in world.log, world.log
        finally:
            if world.process is not None and world.process.poll() is None:
                world.end()
