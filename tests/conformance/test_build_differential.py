"""The same Dockerfiles built by Debian's dockerd and by ours: file system, configuration, history, messages.

Both have the very same base image, and the same client sends them the same files.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import shutil
import subprocess
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.engine_world import PATIENCE, engine_world

pytestmark = pytest.mark.skipif(not (shutil.which("dockerd") and shutil.which("docker")), reason="needs dockerd")
#: Fields of an image's configuration that are about the container of its last step.
TRANSIENT = ("Image", "Hostname", "Domainname", "AttachStdin", "AttachStdout", "AttachStderr", "Tty", "OpenStdin",
             "StdinOnce", "ArgsEscaped")
#: What engines put into every container, and so change the time of /etc.
MADE = ("dev", "proc", "sys", ".dockerenv", "etc/hostname", "etc/hosts", "etc/resolv.conf", "etc/mtab")
#: Later times than this (2020) are those of the build itself.
NOW = 1_577_836_800

BUILDS = {
    "files": """FROM busybox AS tools
COPY d /tools/
RUN mkdir /gone /kept && ln /tools/b /kept/hard && ln -s ../tools/b /kept/soft && mkfifo -m 604 /kept/pipe && \
    chmod 4711 /tools/deep/c && chown 4012:4034 /kept && rm -r /home/bob /data/from-image && rmdir /gone
FROM busybox
COPY --chown=bob:wheel a d/b /own/
COPY d /copied/
COPY --from=tools /tools/b /kept /from/
ADD packed.tgz /unpacked/
ADD plain.gz a /added/
WORKDIR /made/by
COPY d/deep/c ./here/
""",
    "settings": """ARG TAG=latest
FROM busybox:$TAG
MAINTAINER someone
ARG A=1
ARG B
ENV E="x y" F=$A
LABEL l1="v 1" l2=$E
USER 1000:10
WORKDIR /w
WORKDIR sub
EXPOSE 80 53/udp 8000-8002
VOLUME ["/v", "/v2"]
STOPSIGNAL SIGUSR1
HEALTHCHECK --interval=5m --timeout=3s --retries=4 CMD test -e /x
SHELL ["/bin/sh", "-e", "-c"]
USER root
RUN echo $A$B$E > /said; mkdir /v/lost
ONBUILD RUN echo later
ENTRYPOINT exec echo $F
CMD ["a", "b"]
""",
}


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """dockerd's address and ours, both with the image busybox."""
    root = tmp_path_factory.mktemp("theirs")
    theirs = f"unix://{root}/s"
    with open(root / "log", "wb") as log:
        process = subprocess.Popen(
            ["unshare", "--net", "dockerd", "--data-root", f"{root}/data", "--exec-root", f"{root}/run", "-H", theirs,
             "--pidfile", f"{root}/pid", "--bip", "172.31.94.1/24"], stdout=log, stderr=log)
    try:
        with engine_world(tmp_path_factory.mktemp("ours")) as world:
            ours = f"unix://{world.socket}"
            saved = docker(ours, "save", "busybox")
            deadline = time.monotonic() + PATIENCE
            while subprocess.run(["docker", "-H", theirs, "version"], capture_output=True, check=False).returncode != 0:
                assert process.poll() is None, (root / "log").read_text()
                assert time.monotonic() < deadline
                time.sleep(0.1)
            docker(theirs, "load", stdin=saved)
            yield theirs, ours
    finally:
        process.terminate()
        process.wait(PATIENCE)


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("context")
    (directory / "d" / "deep").mkdir(parents=True)
    for name, mode in (("a", 0o640), ("d/b", 0o600), ("d/deep/c", 0o755)):
        (directory / name).write_text(f"{name}\n")
        (directory / name).chmod(mode)
    (directory / "d" / "link").symlink_to("/etc/passwd")
    with tarfile.open(directory / "packed.tgz", "w:gz", format=tarfile.PAX_FORMAT) as archive:
        for name, kind, mode in (("p", tarfile.DIRTYPE, 0o1750), ("p/f", tarfile.REGTYPE, 0o2755),
                                 ("p/null", tarfile.CHRTYPE, 0o622)):
            entry = tarfile.TarInfo(name)
            entry.type, entry.mode, entry.uid, entry.gid, entry.mtime = kind, mode, 5, 6, 1_000_000_000
            entry.devmajor, entry.devminor = 1, 3
            if kind == tarfile.REGTYPE:
                entry.size = 3
                # cap_net_raw+ep, as the kernel stores it (struct vfs_cap_data, revision 2)
                value = bytes.fromhex("0100000200200000000000000000000000000000")
                entry.pax_headers = {"SCHILY.xattr.security.capability": value.decode("latin-1")}
            archive.addfile(entry, io.BytesIO(b"cap") if kind == tarfile.REGTYPE else None)
    (directory / "plain.gz").write_bytes(gzip.compress(b"plain\n", mtime=0))
    for path in [*directory.rglob("*"), directory]:
        os.utime(path, (1_500_000_000, 1_500_000_000), follow_symlinks=False)
    return directory


def docker(host: str, *arguments: str, stdin: bytes = b"") -> bytes:
    environment = {**os.environ, "DOCKER_HOST": host, "DOCKER_BUILDKIT": "0", "DOCKER_CONFIG": "/nonexistent"}
    done = subprocess.run(["docker", *arguments], input=stdin, capture_output=True, check=False, timeout=PATIENCE,
                          env=environment)
    assert done.returncode == 0, (arguments, done)
    return done.stdout


def built(host: str, context: Path, name: str) -> list[str]:
    """What the client shows of a build, without ids."""
    (context / "Dockerfile").write_text(BUILDS[name])
    shown = docker(host, "build", "-t", name, "--build-arg", "B=2", str(context)).decode().splitlines()
    return [line for line in shown if not line.startswith((" ---> ", "Removing ", "Successfully built", "Sending "))]


def files(host: str, name: str) -> dict[str, tuple[Any, ...]]:
    """Every file of the image: kind, mode, owner, link, device, attributes, content, and its time where that is old."""
    container = docker(host, "create", name).decode().strip()
    found = {}
    with tarfile.open(fileobj=io.BytesIO(docker(host, "export", container))) as archive:
        for entry in archive:
            path = entry.name.strip("/").removeprefix("./")
            if path.startswith(MADE):
                continue
            content = archive.extractfile(entry) if entry.isreg() else None
            attributes = {key: value for key, value in entry.pax_headers.items() if key.startswith("SCHILY.xattr.")}
            found[path] = (entry.type, oct(entry.mode & 0o7777), entry.uid, entry.gid, entry.linkname, entry.devmajor,
                           entry.devminor, attributes, hashlib.sha256(content.read()).hexdigest() if content else "",
                           int(entry.mtime) if entry.mtime < NOW and path != "etc" else "new")
    docker(host, "rm", "-v", container)
    return found


def settings(host: str, name: str) -> dict[str, Any]:
    image = json.loads(docker(host, "image", "inspect", name))[0]
    return {key: value for key, value in image["Config"].items() if key not in TRANSIENT and value} | {
        "author": image.get("Author"), "layers": len(image["RootFS"]["Layers"])}


def history(host: str, name: str) -> list[str]:
    form = "{{.CreatedBy}}|{{.Size}}|{{.Comment}}"
    return docker(host, "history", "--no-trunc", "--format", form, name).decode().splitlines()


@pytest.mark.parametrize("name", BUILDS)
def test_builds_are_the_same(hosts: tuple[str, str], context: Path, name: str) -> None:
    theirs, ours = hosts
    assert built(ours, context, name) == built(theirs, context, name)
    assert files(ours, name) == files(theirs, name)
    assert settings(ours, name) == settings(theirs, name)
    assert history(ours, name) == history(theirs, name)
