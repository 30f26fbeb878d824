"""Networks with docker's own command line: names, connect, ports of running containers, kill -9 of the daemon."""

from __future__ import annotations

import contextlib
import http.client
import json
import signal
import socket
import subprocess
import sys
import time
import urllib.parse
from collections.abc import Iterator

import pytest

from tests.e2e.engine_world import EngineWorld, engine_world


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EngineWorld]:
    with engine_world(tmp_path_factory.mktemp("net")) as made:
        yield made
        made.ok("network", "prune", "-f")


def serve(world: EngineWorld, name: str, *flags: str, text: str = "") -> None:
    """A container that answers HTTP on port 80 with ``text``, its name if there is none."""
    world.ok("run", "-d", "--name", name, *flags, "busybox", "sh", "-c",
             f"mkdir -p /w && echo {text or name} >/w/index.html && exec httpd -f -p 80 -h /w")


def lookup(world: EngineWorld, source: str, name: str) -> str:
    """The IPv4 address that the name server of ``source`` gives; empty if it knows none."""
    shown = world.docker("exec", source, "nslookup", "-type=a", name)
    return shown.out.split("Address: ")[-1].strip() if shown.code == 0 else ""


def fetch(world: EngineWorld, source: str, name: str) -> str:
    """The page of ``name`` as ``source`` sees it. (A static busybox can look names up in nslookup alone.)"""
    command = ["nsenter", "-n", "-t", world.inspect(source, "{{.State.Pid}}"), "curl", "-sS", "--retry", "9",
               "--retry-connrefused", "--retry-delay", "1", f"http://{lookup(world, source, name)}/"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


class Connection(http.client.HTTPConnection):
    """HTTP over the daemon's socket."""

    def __init__(self, path: str) -> None:
        super().__init__("docker")
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(self._path)


def api(world: EngineWorld, method: str, path: str, body: object) -> tuple[int, str]:
    with contextlib.closing(Connection(world.socket)) as connection:
        connection.request(method, path, json.dumps(body), {"Content-Type": "application/json"})
        answer = connection.getresponse()
        return answer.status, answer.read().decode()


def page(port: int) -> bytes:
    with socket.create_connection(("127.0.0.1", port), 5) as client:
        client.sendall(b"GET / HTTP/1.0\r\n\r\n")
        return b"".join(iter(lambda: client.recv(4096), b""))


def test_containers_find_each_other_by_name_and_the_rest_does_not(world: EngineWorld) -> None:
    world.ok("network", "create", "--subnet", "10.123.0.0/24", "--ipv6", "--label", "a=b", "front")
    world.ok("network", "create", "back")
    serve(world, "web", "--network", "front", "--ip", "10.123.0.77", "--network-alias", "www")
    serve(world, "db", "--network", "back")
    world.ok("run", "-d", "--name", "client", "--network", "front", "--link", "web:site", "busybox", "sleep", "600")
    for name in ("web", "www", "site", "web.front"):
        assert fetch(world, "client", name) == "web"
    assert lookup(world, "client", "db") == ""
    assert world.ok("exec", "client", "cat", "/etc/resolv.conf").startswith("nameserver 127.0.0.11")
    shown = json.loads(world.ok("network", "inspect", "front"))[0]
    assert {item["Name"] for item in shown["Containers"].values()} == {"web", "client"}
    assert shown["EnableIPv6"] and [pool["Subnet"][:2] for pool in shown["IPAM"]["Config"]] == ["10", "fd"]
    mine = json.loads(world.ok("inspect", "web"))[0]["NetworkSettings"]["Networks"]["front"]
    assert mine["IPAddress"] == "10.123.0.77" and {"web", "www"} <= set(mine["DNSNames"])
    done = world.docker("network", "rm", "front")
    assert done.code == 1 and "network front has active endpoints" in done.err
    world.ok("network", "connect", "--alias", "store", "back", "client")
    assert fetch(world, "client", "db") == "db"
    world.ok("network", "disconnect", "back", "client")
    assert lookup(world, "client", "db") == ""
    assert lookup(world, "client", "host.docker.internal") == "10.123.0.1"


def test_ports_of_a_running_container_and_its_life_after_kill_9(world: EngineWorld) -> None:
    world.ok("network", "create", "edit")
    serve(world, "edited", "--network", "edit", "-p", "8091:80")
    world.ok("run", "-d", "--name", "asker", "--network", "edit", "busybox", "sleep", "600")
    assert fetch(world, "asker", "edited") == "edited" and page(8091).endswith(b"edited\n")
    identity = world.inspect("edited", "{{.Id}}")
    answer = api(world, "POST", f"/containers/{identity}/update", {
        "PublishAdd": {"80/tcp": [{"HostPort": "8092"}]}, "PublishRemove": ["8091"]})
    assert answer[0] == 200, answer
    assert page(8092).endswith(b"edited\n")
    with pytest.raises(OSError):
        page(8091)
    assert world.inspect("edited", '{{(index .HostConfig.PortBindings "80/tcp" 0).HostPort}}') == "8092"
    status, body = api(world, "POST", f"/containers/{identity}/update", {"PublishRemove": ["9999"]})
    assert status == 404 and "does not publish port 9999" in body
    world.end(signal.SIGKILL)
    assert page(8092).endswith(b"edited\n")
    world.start()
    assert page(8092).endswith(b"edited\n") and fetch(world, "asker", "edited") == "edited"
    serve(world, "later", "--network", "edit")
    assert fetch(world, "asker", "later") == "later"
    world.ok("rename", "later", "renamed")
    assert fetch(world, "asker", "renamed") == "later" and lookup(world, "asker", "later") == ""
    world.ok("network", "disconnect", "edit", "edited")
    world.ok("restart", "-t", "0", "edited")
    assert world.ok("exec", "edited", "ls", "/sys/class/net") == "lo"
    world.ok("network", "connect", "edit", "edited")
    world.ok("restart", "-t", "0", "edited")
    assert fetch(world, "asker", "edited") == "edited" and page(8092).endswith(b"edited\n")


def own_cli(world: EngineWorld, *arguments: str) -> str:
    program = "import sys; from barque.cli.main import main; sys.exit(main())"
    done = subprocess.run([sys.executable, "-c", program, "-H", f"unix://{world.socket}", *arguments], check=True,
                          capture_output=True, text=True, env={"HOME": str(world.root), "PATH": "/usr/bin:/bin"})
    return done.stdout


def test_our_own_command_line_changes_ports_and_explains_the_firewall(world: EngineWorld) -> None:
    serve(world, "plain", "-p", "127.0.0.1:8087:80")
    own_cli(world, "update", "--publish-add", "8088:80", "--publish-rm", "8087", "plain")
    assert page(8088).endswith(b"plain\n")
    shown = own_cli(world, "network", "firewall", "bridge")
    assert "0.0.0.0:8088/tcp -> plain:80: for this host, containers of other networks, other machines" in shown
    assert "8087" not in shown


def test_several_networks_and_links_on_the_default_bridge(world: EngineWorld) -> None:
    world.ok("network", "create", "one")
    world.ok("network", "create", "--internal", "two")
    world.ok("run", "-d", "--name", "both", "--network", "name=two", "--network", "name=one,alias=x,gw-priority=3",
             "busybox", "sleep", "600")
    gateway = world.inspect("both", "{{.NetworkSettings.Networks.one.Gateway}}")
    assert gateway in world.ok("exec", "both", "ip", "route", "show", "default")
    assert world.ok("exec", "both", "ls", "/sys/class/net").split() == ["eth0", "eth1", "lo"]
    serve(world, "linked")
    world.ok("run", "-d", "--name", "linking", "--link", "linked:other", "busybox", "sleep", "600")
    address = world.inspect("linked", "{{.NetworkSettings.Networks.bridge.IPAddress}}")
    hosts = world.ok("exec", "linking", "cat", "/etc/hosts")
    assert [address, "other"] in [line.split()[:2] for line in hosts.splitlines()]
    assert "host.docker.internal" in hosts
    world.ok("network", "connect", "one", "linked")
    assert lookup(world, "linked", "x") == world.inspect("both", "{{.NetworkSettings.Networks.one.IPAddress}}")


@pytest.mark.parametrize(("arguments", "text"), [
    (["run", "--rm", "--network", "nosuch", "busybox", "true"], "network nosuch not found"),
    (["run", "--rm", "--ip", "172.31.99.7", "busybox", "true"], "user specified IP address is supported on user "
                                                               "defined networks only"),
    (["network", "create", "bridge"], "operation is not permitted on predefined bridge network"),
    (["network", "create", "-d", "ipvlan", "x"], "ipvlan"),
    (["network", "create", "--subnet", "172.31.99.0/28", "x"], "Pool overlaps with other one on this address space"),
    (["network", "rm", "host"], "host is a pre-defined network and cannot be removed")])
def test_refusals(world: EngineWorld, arguments: list[str], text: str) -> None:
    done = world.docker(*arguments)
    assert done.code != 0 and text in done.err


def test_events_tell_of_networks(world: EngineWorld) -> None:
    world.ok("network", "create", "told")
    world.ok("run", "--rm", "--network", "told", "busybox", "true")
    world.ok("network", "rm", "told")
    wanted = urllib.parse.quote(json.dumps({"network": ["told"]}))
    status, shown = api(world, "GET", f"/events?since=0&until={time.time():.9f}&filters={wanted}", None)
    assert status == 200 and [json.loads(line)["Action"] for line in shown.splitlines()] == [
        "create", "connect", "disconnect", "destroy"]
