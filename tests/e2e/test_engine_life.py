"""Restart policies, health and the streams of a container, by whichever client."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import pytest

from tests.e2e.engine_world import PATIENCE, EngineWorld, engine_world
from tests.e2e.test_bad_input import wait_until


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EngineWorld]:
    with engine_world(tmp_path_factory.mktemp("life")) as made:
        yield made


def test_on_unhealthy_restarts(world: EngineWorld) -> None:
    """A check that fails ends the container, and the policy brings it back; a stop by hand does not."""
    world.ok("run", "-d", "--name", "sick", "--restart", "on-unhealthy:3", "--stop-timeout", "0", "--health-cmd",
             "test ! -e /tmp/bad", "--health-interval", "50ms", "--health-retries", "1", "--health-start-period", "1h",
             "--health-start-interval", "50ms", "busybox", "sh", "-c", "rm -f /tmp/bad; echo up; exec sleep 1000")
    wait_until(lambda: world.ok("logs", "sick") == "up")
    wait_until(lambda: world.inspect("sick", "{{.State.Health.Status}}") == "healthy")
    world.ok("exec", "sick", "touch", "/tmp/bad")
    wait_until(lambda: world.inspect("sick", "{{.RestartCount}}") != "0")
    wait_until(lambda: world.inspect("sick", "{{.State.Health.Status}}") == "healthy")
    world.ok("stop", "sick")
    assert world.inspect("sick", "{{.State.Status}}") == "exited"
    world.ok("rm", "sick")
    done = world.docker("create", "--restart", "sometimes", "busybox")
    assert "unknown policy 'sometimes'" in done.err


def test_checks_come_sooner_while_the_container_starts(world: EngineWorld) -> None:
    """At their interval none would come within the hour."""
    world.ok("run", "-d", "--name", "slow", "--health-interval", "1h", "--health-start-period", "1h",
             "--health-start-interval", "20ms", "--health-cmd", "echo x >> /checks; test -e /up", "busybox", "sleep",
             "1000")
    wait_until(lambda: world.docker("exec", "slow", "cat", "/checks").out.count("x") > 2)
    assert world.inspect("slow", "{{.State.Health.Status}} {{.State.Health.FailingStreak}}") == "starting 0"
    world.ok("exec", "slow", "touch", "/up")
    wait_until(lambda: world.inspect("slow", "{{.State.Health.Status}}") == "healthy")
    assert world.inspect("slow", "{{.Config.Healthcheck.StartInterval}}") == "20ms"
    world.ok("rm", "-f", "slow")


def test_back_off_survives_the_daemon(world: EngineWorld) -> None:
    world.ok("run", "-d", "--name", "loops", "--restart", "always", "busybox", "false")
    wait_until(lambda: int(world.inspect("loops", "{{.RestartCount}}")) >= 6)
    world.end(signal.SIGKILL)
    world.start()
    count = int(world.inspect("loops", "{{.RestartCount}}"))
    assert count >= 6
    wait_until(lambda: int(world.inspect("loops", "{{.RestartCount}}")) > count)
    started, finished = world.inspect("loops", "{{.State.StartedAt}} {{.State.FinishedAt}}").split()
    assert started > "2000" < finished
    world.ok("rm", "-f", "loops")


class UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("d", timeout=PATIENCE)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(PATIENCE)
        self.sock.connect(self._path)


def call(world: EngineWorld, method: str, path: str, body: object = None) -> tuple[int, bytes]:
    connection = UnixConnection(world.socket)
    try:
        connection.request(method, path, json.dumps(body) if body is not None else None,
                           {"Content-Type": "application/json"})
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


@pytest.mark.parametrize("made_with_tty", [False, True])
@pytest.mark.parametrize("started_with_tty", [False, True])
def test_who_starts_an_exec_says_whether_there_are_frames(world: EngineWorld, made_with_tty: bool,
                                                         started_with_tty: bool) -> None:
    world.ok("run", "-d", "--name", "frames", "busybox", "sleep", "1000")
    _, answer = call(world, "POST", "/v1.45/containers/frames/exec",
                     {"Cmd": ["echo", "out"], "AttachStdout": True, "Tty": made_with_tty})
    exec_id = json.loads(answer)["Id"]
    status, output = call(world, "POST", f"/v1.45/exec/{exec_id}/start", {"Tty": started_with_tty})
    text = b"out\r\n" if made_with_tty else b"out\n"
    assert status == 200
    assert output == (text if started_with_tty else b"\x01\0\0\0" + len(text).to_bytes(4, "big") + text)
    world.ok("rm", "-f", "frames")


@pytest.mark.parametrize(("version", "kind"), [("1.45", aiohttp.WSMsgType.BINARY), ("1.27", aiohttp.WSMsgType.TEXT)])
def test_attach_by_web_socket(world: EngineWorld, version: str, kind: aiohttp.WSMsgType) -> None:
    """What was said before comes first, then what is said now; the end of the container ends the conversation."""
    world.ok("run", "-d", "-i", "--name", "ws", "busybox", "sh", "-c", "echo before; read line; echo $line >&2")
    wait_until(lambda: world.ok("logs", "ws") == "before")
    received: list[tuple[aiohttp.WSMsgType, str | bytes]] = []

    async def talk() -> int | None:
        url = f"http://d/v{version}/containers/ws/attach/ws?logs=1&stream=1&stdin=1&stdout=1&stderr=1"
        async with (aiohttp.ClientSession(connector=aiohttp.UnixConnector(world.socket)) as session,
                    asyncio.timeout(PATIENCE), session.ws_connect(url) as channel):
            first = await channel.receive()
            await channel.send_bytes(b"typed\n")
            async for message in channel:
                received.append((message.type, message.data))
            received.insert(0, (first.type, first.data))
            return channel.close_code

    assert asyncio.run(talk()) == aiohttp.WSCloseCode.OK
    said = ["before\n", "typed\n"] if kind == aiohttp.WSMsgType.TEXT else [b"before\n", b"typed\n"]
    assert received == [(kind, text) for text in said]
    assert call(world, "GET", f"/v{version}/containers/nosuch/attach/ws")[0] == 404
    world.ok("rm", "ws")


def test_default_log_rotates(world: EngineWorld) -> None:
    """Nobody asked for a limit: five files of 20 MB at most, not a full disk."""
    world.ok("run", "--name", "chatty", "busybox", "sh", "-c",
             "yes 0123456789012345678901234567890123456789012345678901234567890123456789012345678 | head -c 40000000")
    path = world.inspect("chatty", "{{.LogPath}}")
    assert os.path.exists(path + ".1")
    assert os.path.getsize(path) <= 20 << 20
    world.ok("rm", "chatty")


def test_swarm_is_answered_as_by_a_node_without_one(world: EngineWorld) -> None:
    for method, path in (("GET", "/swarm"), ("GET", "/services"), ("GET", "/nodes/x"), ("POST", "/services/create"),
                         ("DELETE", "/secrets/x"), ("GET", "/tasks"), ("GET", "/configs")):
        status, answer = call(world, method, "/v1.45" + path)
        assert status == 503
        assert b"This node is not a swarm manager." in answer
    assert call(world, "POST", "/v1.45/swarm/leave?force=1") == (503, b'{"message":"This node is not part of a swarm"}')
    assert json.loads(call(world, "GET", "/v1.45/plugins")[1]) == []


def test_legacy_links(world: EngineWorld) -> None:
    """Names and variables on the default bridge, as tools from before networks expect them."""
    world.ok("run", "-d", "--name", "db", "--expose", "5432", "-e", "VERSION=9", "busybox", "sleep", "1000")
    address = world.inspect("db", "{{.NetworkSettings.IPAddress}}")
    world.ok("run", "-d", "--name", "app", "--link", "db:store", "busybox", "sleep", "1000")
    pid = world.inspect("app", "{{.State.Pid}}")
    with open(f"/proc/{pid}/environ", encoding="ascii") as file:
        variables = file.read().split("\0")
    assert {"STORE_NAME=/app/store", f"STORE_PORT=tcp://{address}:5432", f"STORE_PORT_5432_TCP_ADDR={address}",
            "STORE_ENV_VERSION=9"} <= set(variables)
    assert f"{address}\tstore" in world.ok("exec", "app", "cat", "/etc/hosts")
    world.ok("rm", "--link", "app/store")
    assert world.inspect("app", "{{.HostConfig.Links}}") == "[]"
    assert world.docker("rm", "--link", "app/store").code == 1
    world.ok("rm", "-f", "app", "db")


def test_disk_usage_in_both_shapes(world: EngineWorld) -> None:
    world.ok("run", "--name", "user", "-v", "used:/v", "busybox", "sh", "-c", "head -c 5000 /dev/zero > /f; cp /f /v")
    world.ok("volume", "create", "unused")
    old = json.loads(call(world, "GET", "/v1.51/system/df")[1])
    new = json.loads(call(world, "GET", "/v1.52/system/df")[1])
    assert new["ContainerUsage"] == {"ActiveCount": 0, "TotalCount": 1, "Reclaimable": 5000, "TotalSize": 5000}
    assert new["VolumeUsage"]["ActiveCount"] == 1
    assert new["VolumeUsage"]["TotalCount"] == len(old["Volumes"])
    assert new["ImageUsage"]["TotalSize"] == old["LayersSize"]
    assert new["ImageUsage"]["Reclaimable"] == 0
    verbose = json.loads(call(world, "GET", "/v1.52/system/df?type=volume&verbose=1")[1])
    assert list(verbose) == ["VolumeUsage"]
    assert {item["Name"] for item in verbose["VolumeUsage"]["Items"]} >= {"used", "unused"}
    world.ok("rm", "-v", "user")
    world.ok("volume", "rm", "used", "unused")


def du(directory: Path, kinds: str = "fl") -> int:
    """Bytes of the contents of all files and links, each counted once, as du(1) has them."""
    names = subprocess.run(["find", str(directory), "-type", ",".join(kinds), "-print0"], capture_output=True,
                           check=True).stdout
    total = subprocess.run(["du", "--apparent-size", "-B1", "-c", "--files0-from=-"], input=names, capture_output=True,
                           check=True).stdout
    return int(total.splitlines()[-1].split()[0])


def test_disk_usage_is_what_du_says(world: EngineWorld) -> None:
    world.ok("run", "--name", "heavy", "-v", "weight:/v", "busybox", "sh", "-c",
             "for d in /v /; do head -c 3000000 /dev/urandom > $d/a; ln $d/a $d/b; ln -s a $d/c; mkdir -p $d/e/f; "
             "truncate -s 5M $d/e/f/hole; done")
    found = json.loads(call(world, "GET", "/v1.45/system/df")[1])
    data = world.root / "data"
    upper, layer = json.loads(world.inspect("heavy", "{{json .GraphDriver.Data}}")), data / "snapshots"
    sizes = {item["Names"][0]: item["SizeRw"] for item in found["Containers"]}
    assert sizes["/heavy"] == du(Path(upper["UpperDir"]))
    volumes = {item["Name"]: item["UsageData"]["Size"] for item in found["Volumes"]}
    assert volumes["weight"] == du(data / "volumes" / "weight" / "_data")
    image, = found["Images"]
    lowers = [Path(path) for path in upper["LowerDir"].split(":")]
    assert all(layer in path.parents for path in lowers)
    blobs = du(data / "content" / "blobs", "f")
    assert found["LayersSize"] == image["Size"] == sum(du(path, "f") for path in lowers) + blobs
    world.ok("rm", "heavy")
    world.ok("volume", "rm", "weight")


def reloaded(world: EngineWorld, settings: dict[str, object]) -> str:
    """What the engine says about it, in one line each of what was taken and what was not."""
    assert world.process is not None
    told = world.log.count("reload: ") + world.log.count("reloaded the configuration: ")
    (world.root / "daemon.json").write_text(json.dumps(settings))
    world.process.send_signal(signal.SIGHUP)
    wait_until(lambda: world.log.count("reload: ") + world.log.count("reloaded the configuration: ") > told)
    return world.log


def test_reload(world: EngineWorld) -> None:
    """Settings that can change do so without a restart, and the event says which; a wrong file changes nothing."""
    since = str(time.time())
    before = len(world.log)
    log = reloaded(world, {
        "labels": ["a=b"], "insecure-registries": ["10.9.8.0/24"], "debug": True, "mtu": 1400,
        "max-concurrent-downloads": 1, "max-concurrent-uploads": 2, "max-download-attempts": 7,
        "shutdown-timeout": 9, "runtimes": {"other": {"path": "/bin/sh"}},
        "default-runtime": "other", "default-shm-size": "1m", "default-ipc-mode": "shareable",
        "default-cgroupns-mode": "host", "proxies": {"http-proxy": "http://p:1", "no-proxy": "n"}})[before:]
    taken = re.search("reloaded the configuration: ([^\"]*)", log)
    assert taken, log
    assert taken[1].split(", ") == [
        "debug", "default_cgroupns_mode", "default_ipc_mode", "default_runtime", "default_shm_size", "http_proxy",
        "insecure_registries", "labels", "log_level", "max_concurrent_downloads", "max_concurrent_uploads",
        "max_download_attempts", "no_proxy", "runtimes", "shutdown_timeout"]
    wait_until(lambda: "a restart is needed for: mtu" in world.log)
    info = json.loads(world.ok("info", "-f", "{{json .}}"))
    assert (info["Labels"], info["Debug"], info["DefaultRuntime"]) == (["a=b"], True, "other")
    assert info["Runtimes"]["other"]["path"] == "/bin/sh"
    assert (info["HttpProxy"], info["NoProxy"]) == ("http://p:1", "n")
    assert "10.9.8.0/24" in info["RegistryConfig"]["InsecureRegistryCIDRs"]
    world.ok("create", "--name", "after-reload", "busybox")
    shown = "{{with .HostConfig}}{{.ShmSize}} {{.IpcMode}} {{.CgroupnsMode}} {{.Runtime}}{{end}}"
    assert world.ok("inspect", "-f", shown, "after-reload") == "1048576 shareable host other"
    world.ok("rm", "after-reload")
    assert world.ok("events", "--since", since, "--until", str(time.time()), "--filter", "type=daemon", "--format",
                    "{{.Action}}") == "reload"
    for wrong in ({"labels": ["c=d"], "dns": ["nowhere"]}, {"labels": "c=d"}):
        reloaded(world, dict(wrong))
        assert world.ok("info", "-f", "{{.Labels}}") == "[a=b]"
    assert "reload: dns: 'nowhere' is no IP address" in world.log
    reloaded(world, {})
    assert world.ok("info", "-f", "{{.DefaultRuntime}} {{.Labels}}") == "barque []"


def test_events_are_remembered_over_a_restart(world: EngineWorld) -> None:
    since = str(time.time())
    world.ok("run", "--rm", "--name", "past", "busybox", "true")
    assert world.end() == 0
    world.start()
    until = str(time.time())
    world.ok("run", "--rm", "--name", "later", "busybox", "true")
    told = world.ok("events", "--since", since, "--until", until, "--filter", "type=container", "--format",
                    "{{.Action}} {{.Actor.Attributes.name}}").split("\n")
    assert told == [f"{action} past" for action in ("create", "attach", "start", "die", "destroy")]


def test_debug_dump(world: EngineWorld) -> None:
    assert world.process is not None
    world.process.send_signal(signal.SIGUSR1)
    wait_until(lambda: "stacks are in" in world.log)
    (path,) = (world.root / "run").glob("stacks-*.log")
    assert "task " in path.read_text()
    assert "most recent call first" in path.read_text()
