"""Registries to test against: ours in a process of its own, and Debian's docker-registry where it is installed."""

from __future__ import annotations

import contextlib
import itertools
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

_ports = itertools.count(10000)


def free_port() -> int:
    """Of loopback: below those that the kernel gives to connections, and no other call gets it."""
    for port in _ports:
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise AssertionError("no port is free")


@contextlib.contextmanager
def answering(command: list[str], port: int, path: str = "/v2/") -> Iterator[str]:
    """A server process, once it answers ``path``: its address."""
    # A file, not a pipe: nobody reads while the server talks.
    with tempfile.TemporaryFile() as said, \
            subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=said) as process:
        try:
            deadline = time.monotonic() + 60
            while True:
                try:
                    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}"):
                        break
                except urllib.error.HTTPError:
                    break  # a refusal is an answer
                except OSError:
                    assert process.poll() is None, said.seek(0) or said.read().decode()
                    assert time.monotonic() < deadline, "the registry does not answer"
                    time.sleep(0.05)
            yield f"127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait(60)


@contextlib.contextmanager
def barque_registry(root: Path, *options: str) -> Iterator[str]:
    port = free_port()
    code = "import sys; from barque.registry.server import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", code, "serve", "--addr", f"127.0.0.1:{port}", "--root", str(root), *options]
    with answering(command, port) as address:
        yield address


def has_docker_registry() -> bool:
    return shutil.which("docker-registry") is not None


@contextlib.contextmanager
def docker_registry(root: Path) -> Iterator[str]:
    port = free_port()
    root.mkdir(parents=True, exist_ok=True)
    config = root / "config.yml"
    config.write_text(f"""version: 0.1
log: {{level: error, accesslog: {{disabled: true}}}}
storage: {{filesystem: {{rootdirectory: {root}/data}}, delete: {{enabled: true}}}}
http: {{addr: "127.0.0.1:{port}"}}
""")
    with answering(["docker-registry", "serve", str(config)], port) as address:
        yield address
