"""Real clients against our registry, open and with a login: docker's command line and daemon, podman, oras."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.registry_peers import barque_registry

#: "secret" by bcrypt with the lowest cost.
HTPASSWD = "ann:$2y$04$abcdefghijklmnopqrstuu2r9OfJnfCsdneAXAGHnS4UpFFP8WIrW\n"


def run(*command: str, check: bool = True, stdin: bytes = b"", **env: str) -> str:
    done = subprocess.run(command, capture_output=True, timeout=120, check=False, input=stdin,
                          env={**os.environ, **env})
    assert not check or done.returncode == 0, f"{' '.join(command)}: {done.stderr.decode()}"
    return (done.stdout + done.stderr).decode()


def layer(*files: tuple[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, data in files:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


@pytest.fixture(scope="module", params=["open", "password", "tokens"])
def address(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    root = tmp_path_factory.mktemp(f"registry-{request.param}")
    (root / "htpasswd").write_text(HTPASSWD)
    options = {"open": [], "password": ["--htpasswd", str(root / "htpasswd")]}.get(request.param)
    if options is None:
        config = root / "config.toml"
        config.write_text(f'[auth]\nhtpasswd = "{root}/htpasswd"\n[auth.tokens]\nservice = "reg"\n')
        options = ["--config", str(config)]
    with barque_registry(root / "data", *options) as found:
        yield found


@contextlib.contextmanager
def running_engine(root: Path, *command: str) -> Iterator[str]:
    """Its address."""
    host = f"unix://{root}/docker.sock"
    with (root / "log").open("wb") as log, subprocess.Popen(
            [*command, "--data-root", f"{root}/data", "--exec-root", f"{root}/exec", "-H", host, "--pidfile",
             f"{root}/pid"], stdin=subprocess.DEVNULL, stdout=log, stderr=log) as process:
        try:
            deadline = time.monotonic() + 60
            while subprocess.run(["docker", "-H", host, "version"], capture_output=True, check=False).returncode:
                assert process.poll() is None and time.monotonic() < deadline, (root / "log").read_text()
                time.sleep(0.1)
            yield host
        finally:
            process.terminate()
            process.wait(60)


@pytest.fixture(scope="module")
def dockerd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with running_engine(tmp_path_factory.mktemp("dockerd"), "dockerd", "--storage-driver", "vfs", "--bridge", "none",
                        "--iptables=false") as found:
        yield found


@pytest.fixture(scope="module")
def barqued(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with running_engine(tmp_path_factory.mktemp("barqued"), sys.executable, "-m", "barque.daemon",
                        "--bip", "172.31.98.1/24") as found:
        yield found


@pytest.mark.skipif(shutil.which("dockerd") is None or shutil.which("docker") is None, reason="docker is not installed")
@pytest.mark.parametrize("daemon", ["dockerd", "barqued"])
def test_docker(address: str, daemon: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    engine = request.getfixturevalue(daemon)
    image = f"{address}/team/app:v1"

    def docker(*arguments: str, check: bool = True, stdin: bytes = b"") -> str:
        return run("docker", "-H", engine, *arguments, check=check, stdin=stdin, DOCKER_CONFIG=str(tmp_path))

    # With no credentials yet, docker would take a helper of this host's to keep them.
    (tmp_path / "config.json").write_text('{"auths": {"registry.invalid": {}}}')
    docker("import", "-", image, stdin=layer(("hello", os.urandom(50_000))))
    if "digest: " not in docker("push", image, check=False):
        assert "Login Succeeded" in docker("login", "-u", "ann", "--password-stdin", address, stdin=b"secret")
        kept = json.loads((tmp_path / "config.json").read_text())["auths"][address]
        # With tokens docker keeps what stands for the password, not the password.
        assert ("identitytoken" in kept) == (request.node.callspec.params["address"] == "tokens")
    pushed = docker("push", image)
    digest = pushed.split("digest: ")[1].split()[0]
    docker("rmi", image)
    assert f"Digest: {digest}" in docker("pull", image)
    docker("tag", image, f"{address}/other/app:v2")
    assert "Mounted from team/app" in docker("push", f"{address}/other/app:v2")


@pytest.mark.skipif(shutil.which("podman") is None, reason="podman is not installed")
def test_podman(address: str, tmp_path: Path) -> None:
    image = f"{address}/podman/app:v1"
    store = ("podman", "--root", f"{tmp_path}/root", "--runroot", f"{tmp_path}/run", "--storage-driver", "vfs")
    env = {"REGISTRY_AUTH_FILE": str(tmp_path / "auth.json"), "TMPDIR": str(tmp_path)}
    archive = tmp_path / "layer.tar"
    archive.write_bytes(layer(("hello", os.urandom(2_000_000))))
    run(*store, "import", str(archive), image, **env)
    run(*store, "login", "--tls-verify=false", "-u", "ann", "-p", "secret", address, check=False, **env)
    run(*store, "push", "--tls-verify=false", image, **env)
    first = run(*store, "inspect", "--format", "{{.Id}}", image, **env)
    run(*store, "rmi", image, **env)
    run(*store, "pull", "-q", "--tls-verify=false", image, **env)
    assert run(*store, "inspect", "--format", "{{.Id}}", image, **env) == first


@pytest.mark.parametrize("address", ["open", "password"], indirect=True)  # its token flow renews on 403 only
def test_oras(address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    client = pytest.importorskip("oras.client")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "note.txt").write_text("an artifact")
    remote = client.OrasClient(hostname=address, insecure=True, auth_backend="basic")
    remote.auth.set_basic_auth("ann", "secret")
    remote.push(target=f"{address}/oras/note:v1", files=["note.txt"], manifest_annotations={"who": "me"})
    assert remote.get_tags(f"{address}/oras/note") == ["v1"]
    remote.pull(target=f"{address}/oras/note:v1", outdir=str(tmp_path / "out"))
    assert (tmp_path / "out/note.txt").read_text() == "an artifact"


@pytest.mark.skipif(shutil.which("crane") is None, reason="crane is not installed")
def test_crane(address: str, tmp_path: Path) -> None:
    (tmp_path / "layer.tar").write_bytes(layer(("hello", os.urandom(2_000_000))))

    def crane(*arguments: str, check: bool = True) -> str:
        return run("crane", *arguments, "--insecure", check=check, DOCKER_CONFIG=str(tmp_path))

    crane("auth", "login", address, "-u", "ann", "-p", "secret", check=False)
    name = f"{address}/crane/app"
    crane("append", "--oci-empty-base", "-f", str(tmp_path / "layer.tar"), "-t", f"{name}:v1")
    digest = run("crane", "digest", "--insecure", f"{name}:v1", DOCKER_CONFIG=str(tmp_path)).strip()
    crane("tag", f"{name}:v1", "v2")
    assert crane("ls", name).split() == ["v1", "v2"]
    crane("copy", f"{name}:v1", f"{address}/crane/copy:v1")
    assert digest in crane("digest", f"{address}/crane/copy:v1")
    crane("validate", "--remote", f"{name}:v1")
    crane("pull", "--format", "oci", f"{name}:v1", str(tmp_path / "layout"))
    crane("push", str(tmp_path / "layout"), f"{address}/crane/again:v1")
    assert digest in crane("digest", f"{address}/crane/again:v1")
    crane("delete", f"{name}@{digest}")
    assert "MANIFEST_UNKNOWN" in crane("digest", f"{name}:v1", check=False)
