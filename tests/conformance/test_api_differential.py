"""The same requests to Debian's dockerd and to ours: status, names and types of fields, error texts.

Compared at API 1.41, which both speak.
"""

from __future__ import annotations

import http.client
import io
import json
import os
import shutil
import socket
import subprocess
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.engine_world import PATIENCE, EngineWorld, engine_world

pytestmark = pytest.mark.skipif(not (shutil.which("dockerd") and shutil.which("docker")), reason="needs dockerd")
#: Fields of dockerd 20.10's answers that newer ones have no more, or that tell of its own innards.
THEIRS_ALONE = {
    "KernelMemory", "KernelMemoryTCP", "ClusterStore", "ClusterAdvertise", "BridgeNfIptables", "BridgeNfIp6tables",
    "IPv4Forwarding", "SystemStatus", "Parent", "Container", "ContainerConfig", "VirtualSize", "BuilderSize",
}


class UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("d", timeout=PATIENCE)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(PATIENCE)
        self.sock.connect(self._path)


def call(path: str, method: str, url: str, body: object = None) -> tuple[int, Any]:
    connection = UnixConnection(path)
    try:
        connection.request(method, "/v1.41" + url, json.dumps(body) if body is not None else None,
                           {"Content-Type": "application/json"} if body is not None else {})
        answer = connection.getresponse()
        data = answer.read()
        return answer.status, json.loads(data) if data[:1] in (b"{", b"[") else data
    finally:
        connection.close()


@pytest.fixture(scope="module")
def sockets(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """dockerd's socket and ours, both with the image busybox and the container "same"."""
    root = tmp_path_factory.mktemp("theirs")
    theirs = f"{root}/s"
    with open(root / "log", "wb") as log:
        process = subprocess.Popen(
            ["unshare", "--net", "dockerd", "--data-root", f"{root}/data", "--exec-root", f"{root}/run", "-H",
             f"unix://{theirs}", "--pidfile", f"{root}/pid", "--bip", "172.31.95.1/24"], stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + PATIENCE
        while subprocess.run(["docker", "-H", f"unix://{theirs}", "version"], capture_output=True,
                             check=False).returncode != 0:
            assert process.poll() is None, (root / "log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.1)
        with engine_world(tmp_path_factory.mktemp("ours")) as world:
            _same_image(world, theirs, root)
            for path in (theirs, world.socket):
                status, _ = call(path, "POST", "/containers/create?name=same", {
                    "Image": "busybox", "Cmd": ["true"], "Labels": {"b": "2", "a": "b"},
                    "ExposedPorts": {"90/tcp": {}, "80/tcp": {}},
                    "HostConfig": {"Memory": 64 << 20, "Binds": ["kept:/v"]}})
                assert status == 201
            yield theirs, world.socket
            for path in (theirs, world.socket):
                call(path, "DELETE", "/containers/same?v=1")
                call(path, "DELETE", "/volumes/kept")
    finally:
        process.terminate()
        process.wait(PATIENCE)


def _same_image(world: EngineWorld, theirs: str, root: Path) -> None:
    """dockerd gets by import what ours has pulled."""
    archive = root / "rootfs.tar"
    world.ok("create", "--name", "rootfs", "busybox")
    with open(archive, "wb") as file:
        subprocess.run(["docker", "export", "rootfs"], env=world.environment(), stdout=file, check=True)
    world.ok("rm", "rootfs")
    with tarfile.open(archive) as tar:
        assert "bin/busybox" in tar.getnames()
    subprocess.run(["docker", "import", "-c", "CMD sh", "-c", "ENV PATH=/bin", "-c", "LABEL from=image", str(archive),
                    "busybox:latest"], env={**os.environ, "DOCKER_HOST": f"unix://{theirs}"}, check=True,
                   capture_output=True)


ERRORS: list[tuple[str, str, object]] = [
    ("GET", "/containers/nosuch/json", None),
    ("POST", "/containers/nosuch/start", None),
    ("POST", "/containers/same/kill", None),
    ("POST", "/containers/same/pause", None),
    ("POST", "/containers/same/unpause", None),
    ("POST", "/containers/same/exec", {"Cmd": ["true"]}),
    ("POST", "/containers/same/kill?signal=NOSUCH", None),
    ("POST", "/containers/same/rename?name=", None),
    ("POST", "/containers/create?name=same", {"Image": "busybox", "Cmd": ["true"]}),
    ("POST", "/containers/create?name=-x", {"Image": "busybox", "Cmd": ["true"]}),
    ("POST", "/containers/create", {"Image": "nosuch", "Cmd": ["true"]}),
    ("POST", "/containers/create", {"Image": "busybox", "Cmd": ["true"], "HostConfig": {"Memory": 1000}}),
    ("POST", "/containers/create", {"Image": "busybox", "Cmd": ["true"], "HostConfig": {"NanoCpus": -1}}),
    ("POST", "/containers/create", {"Image": "busybox", "Cmd": ["true"], "HostConfig": {"CpusetCpus": "x"}}),
    ("POST", "/containers/create", {"Image": "busybox", "Cmd": ["true"], "HostConfig": {"ShmSize": -1}}),
    ("POST", "/containers/create", {"Image": "busybox", "Cmd": ["true"], "HostConfig": {
        "AutoRemove": True, "RestartPolicy": {"Name": "always"}}}),
    ("POST", "/containers/create", {"Image": "busybox", "Cmd": ["true"], "WorkingDir": "relative"}),
    *(("POST", "/containers/create", {"Image": "busybox", "Cmd": ["true"], "HostConfig": host}) for host in (
        {"VolumesFrom": ["nosuch"]}, {"Links": ["nosuch:x"]}, {"PidMode": "container:nosuch"},
        {"IpcMode": "container:nosuch"}, {"CpusetCpus": "0-99"}, {"CpusetCpus": "0-999999999999"},
        {"CpusetMems": "99"}, {"OomScoreAdj": 2000}, {"Tmpfs": {"rel": ""}},
        {"Mounts": [{"Type": "bogus", "Target": "/t"}]})),
    ("GET", "/containers/same/logs", None),
    ("GET", "/containers/json?filters=%7B%22nosuch%22%3A%5B%22x%22%5D%7D", None),
    ("GET", "/containers/same/archive?path=/nosuch", None),
    ("POST", "/exec/nosuch/start", {}),
    ("GET", "/exec/nosuch/json", None),
    ("DELETE", "/images/nosuch", None),
    ("GET", "/volumes/nosuch", None),
    ("DELETE", "/volumes/kept", None),
    ("POST", "/volumes/create", {"Name": "-x"}),
    ("GET", "/networks/nosuch", None),
    ("DELETE", "/networks/bridge", None),
    ("GET", "/swarm", None),
    ("GET", "/nosuch", None),
    ("POST", "/containers/same/stop", None),
    *[("POST", "/containers/create", {"Image": "busybox", "Cmd": ["true"],
                                      "HostConfig": {"LogConfig": {"Type": kind, "Config": options}}})
      for kind, options in [
          ("json-file", {"nosuch": "1"}), ("json-file", {"mode": "x"}), ("json-file", {"max-buffer-size": "1m"}),
          ("json-file", {"mode": "non-blocking", "max-buffer-size": "x"}), ("local", {"nosuch": "1"}),
          ("syslog", {"syslog-facility": "x"}), ("syslog", {"syslog-format": "x"}), ("syslog", {"cache-disabled": "x"}),
          ("gelf", {}), ("gelf", {"gelf-address": "udp://x"}), ("fluentd", {"fluentd-async": "x"}),
          ("fluentd", {"fluentd-retry-wait": "5"}), ("journald", {"nosuch": "1"})]],
    ("POST", "/containers/create?platform=x/y/z/w", {"Image": "busybox", "Cmd": ["true"]}),
    ("POST", "/containers/create", {"Image": "busybox", "Cmd": ["true"], "HostConfig": {
        "Mounts": [{"Type": "nosuch", "Target": "/x"}]}}),
    ("POST", "/containers/create", {"Image": "busybox", "Cmd": ["true"], "HostConfig": {"CapAdd": ["NOSUCH"]}}),
    ("POST", "/containers/create", {"Image": "busybox", "Cmd": ["true"], "StopSignal": "NOSUCH"}),
    ("POST", "/containers/same/attach", None),
    ("POST", "/containers/same/resize?h=x&w=1", None),
    ("POST", "/containers/same/resize?h=1&w=1", None),
    ("POST", "/containers/same/update", {"Memory": 1000}),
    ("POST", "/containers/nosuch/update", {"CpuShares": 10}),
    ("GET", "/containers/same/top", None),
    ("GET", "/containers/nosuch/stats", None),
    ("GET", "/containers/nosuch/changes", None),
    ("GET", "/containers/nosuch/export", None),
    ("PUT", "/containers/same/archive?path=/nosuch", None),
    ("DELETE", "/containers/nosuch", None),
    ("POST", "/containers/same/nosuch", None),
    ("POST", "/exec/nosuch/resize?h=1&w=1", None),
    ("POST", "/containers/nosuch/exec", {"Cmd": ["true"]}),
    ("POST", "/containers/same/exec", {}),
    ("POST", "/commit?container=nosuch", None),
    ("GET", "/images/nosuch/history", None),
    ("POST", "/images/nosuch/tag?repo=x&tag=y", None),
    ("GET", "/images/json?filters=%7B%22nosuch%22%3A%5B%22x%22%5D%7D", None),
    ("POST", "/networks/bridge/connect", {"Container": "nosuch"}),
    ("GET", "/networks?filters=%7B%22nosuch%22%3A%5B%22x%22%5D%7D", None),
    ("GET", "/volumes?filters=%7B%22nosuch%22%3A%5B%22x%22%5D%7D", None),
    ("DELETE", "/volumes/nosuch", None),
    ("POST", "/volumes/create", {"Name": "vv", "Driver": "nosuch"}),
    ("POST", "/volumes/prune?filters=%7B%22nosuch%22%3A%5B%22x%22%5D%7D", None),
    ("POST", "/containers/prune?filters=%7B%22nosuch%22%3A%5B%22x%22%5D%7D", None),
    ("GET", "/services", None),
    ("GET", "/nodes", None),
    ("GET", "/secrets", None),
]


@pytest.mark.parametrize(("method", "url", "body"), ERRORS, ids=[f"{m} {u} {i}" for i, (m, u, _) in enumerate(ERRORS)])
def test_errors(sockets: tuple[str, str], method: str, url: str, body: object) -> None:
    theirs, ours = (call(path, method, url, body) for path in sockets)
    assert ours[0] == theirs[0], (theirs, ours)
    if isinstance(theirs[1], dict):
        ids = [call(path, "GET", "/containers/same/json")[1]["Id"] for path in sockets]
        told = [json.dumps(answer[1]).replace(known, "ID") for answer, known in zip((theirs, ours), ids, strict=True)]
        assert told[1].lower() == told[0].lower()


def shape(value: Any, path: str = "") -> dict[str, str]:
    """Types of all fields by path; what is null or empty has no type to compare."""
    if isinstance(value, dict):
        result: dict[str, str] = {}
        for key, item in value.items():
            result |= shape(item, f"{path}.{key}")
        return result or {path: "object"}
    if isinstance(value, list):
        return shape(value[0], path + "[]") if value else {path: "empty"}
    kind = "number" if isinstance(value, int | float) and not isinstance(value, bool) else type(value).__name__
    return {path: "empty" if value is None else kind}


@pytest.mark.parametrize("url", ["/containers/same/json?size=1", "/containers/json?all=1", "/version", "/volumes",
                                 "/images/json", "/images/busybox/history"])
def test_shapes(sockets: tuple[str, str], url: str) -> None:
    theirs, ours = (shape(call(path, "GET", url)[1]) for path in sockets)
    missing = {key for key in theirs if not any(
        other.startswith(key) or (key.startswith(other) and ours[other] in ("empty", "object")) for other in ours)}
    missing = {key for key in missing if not {part.rstrip("[]") for part in key.split(".")} & THEIRS_ALONE
               and not any(word in key for word in (".GraphDriver.", ".Details.", ".Components", ".Labels"))}
    assert not missing
    different = {key: (theirs[key], ours[key]) for key in theirs.keys() & ours.keys()
                 if theirs[key] != ours[key] and "empty" not in (theirs[key], ours[key])}
    assert not different


def _import(path: str, archive: bytes) -> None:
    connection = UnixConnection(path)
    try:
        connection.request("POST", "/v1.41/images/create?fromSrc=-&repo=bare", archive)
        assert connection.getresponse().read()
    finally:
        connection.close()


def _seen(path: str, script: str) -> tuple[object, list[str]]:
    """What a container from an image of busybox alone changed, and the names in its export."""
    status, made = call(path, "POST", "/containers/create", {
        "Image": "bare", "Cmd": ["/bin/busybox", "sh", "-c", script], "Volumes": {"/v": {}},
        "HostConfig": {"Tmpfs": {"/t": ""}}})
    assert status == 201
    one = f"/containers/{made['Id']}"
    try:
        assert call(path, "POST", f"{one}/start")[0] == 204
        assert call(path, "POST", f"{one}/wait")[1]["StatusCode"] == 0
        changes = call(path, "GET", f"{one}/changes")[1]
        with tarfile.open(fileobj=io.BytesIO(call(path, "GET", f"{one}/export")[1])) as tar:
            return sorted(changes, key=lambda change: change["Path"]), sorted(tar.getnames())
    finally:
        call(path, "DELETE", f"{one}?v=1&force=1")


def test_what_a_container_changed(sockets: tuple[str, str]) -> None:
    """Neither tells of what every container has mounted; both have it in an export."""
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        tar.add(str(shutil.which("busybox")), "bin/busybox")
        tar.addfile(tarfile.TarInfo("etc/gone"))
    for path in sockets:
        _import(path, archive.getvalue())
    script = "echo > /etc/new; /bin/busybox rm /etc/gone; test -f /.dockerenv"
    theirs, ours = (_seen(path, script) for path in sockets)
    assert ours == theirs


@pytest.mark.parametrize("wrong", [
    {"HostConfig": {"NetworkMode": "nosuch"}}, {"HostConfig": {"NetworkMode": "container:nosuch"}},
    {"User": "nosuch"}, {"User": "0:nosuch"},
], ids=str)
def test_what_only_the_start_finds(sockets: tuple[str, str], wrong: dict[str, object]) -> None:
    answers = []
    for path in sockets:
        status, made = call(path, "POST", "/containers/create", {"Image": "busybox", "Cmd": ["true"], **wrong})
        assert status == 201
        one = f"/containers/{made['Id']}"
        started = call(path, "POST", f"{one}/start")
        state = call(path, "GET", f"{one}/json")[1]["State"]
        answers.append((started, state["Status"], state["Error"], state["ExitCode"]))
        assert call(path, "DELETE", one)[0] == 204
    assert answers[1] == answers[0]


#: Objects whose order later dockerds have changed.
REORDERED = (".HostConfig", ".NetworkSettings")


def misordered(theirs: Any, ours: Any, path: str = "") -> list[str]:
    """Objects whose common keys come in another order: what `docker inspect` prints is what it was sent."""
    if path.removeprefix("[]") in REORDERED:
        return []
    if isinstance(theirs, list) and isinstance(ours, list):
        return [found for a, b in zip(theirs[:1], ours[:1], strict=False) for found in misordered(a, b, path + "[]")]
    if not (isinstance(theirs, dict) and isinstance(ours, dict)):
        return []
    common = [key for key in theirs if key in ours]
    found = [path] if common != [key for key in ours if key in theirs] else []
    return found + [deeper for key in common for deeper in misordered(theirs[key], ours[key], f"{path}.{key}")]


@pytest.mark.parametrize("url", ["/containers/same/json", "/containers/json?all=1", "/version", "/volumes",
                                 "/volumes/kept", "/networks/bridge", "/images/busybox/json", "/images/json"])
def test_order(sockets: tuple[str, str], url: str) -> None:
    theirs, ours = (call(path, "GET", url)[1] for path in sockets)
    assert misordered(theirs, ours) == []


def test_local_logs_are_read_by_the_other(sockets: tuple[str, str]) -> None:
    """The files of the local driver, swapped."""
    def docker(path: str, *arguments: str) -> str:
        return subprocess.run(["docker", "-H", f"unix://{path}", *arguments], capture_output=True, check=True,
                              text=True, timeout=PATIENCE).stdout

    # No line longer than 16 KiB: dockerd 20.10 forgets the end of those.
    text = "one\n\ntwo\nend"
    files = []
    for path in sockets:
        said = docker(path, "run", "--name", "local", "--log-driver", "local", "busybox", "sh", "-c",
                      "echo one; echo; echo two; printf end")
        assert said == text
        (file,) = Path(path).parent.glob("data/containers/*/local-logs/container.log")
        files.append((file, file.read_bytes()))
    for (file, _), (_, content) in zip(files, reversed(files), strict=True):
        file.write_bytes(content)
    assert [docker(path, "logs", "local") for path in sockets] == [text, text]
    for path in sockets:
        docker(path, "rm", "local")
