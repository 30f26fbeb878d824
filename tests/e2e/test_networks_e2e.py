"""Networks with docker's own command line: names, connect, ports of running containers, kill -9 of the daemon."""

from __future__ import annotations

import contextlib
import http.client
import json
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.parse
from collections.abc import Iterator, Sequence

import pytest

from tests.e2e.engine_world import PATIENCE, EngineWorld, engine_world
from tests.e2e.test_bad_input import wait_until


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
    command = ["nsenter", "-n", "-t", world.inspect(source, "{{.State.Pid}}"), "curl", "-sS", "--retry", "60",
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
    with socket.create_connection(("127.0.0.1", port), PATIENCE) as client:
        return answer(client)


def wait_for_page(port: int, text: bytes) -> None:
    deadline = time.monotonic() + PATIENCE
    while True:
        with contextlib.suppress(ConnectionError):
            if page(port).endswith(text):
                return
        assert time.monotonic() < deadline, f"port {port} does not answer"


def answer(client: socket.socket) -> bytes:
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
    wait_for_page(8088, b"plain\n")
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


def test_users_without_rights_may_ping_and_have_low_ports(world: EngineWorld) -> None:
    """As dockerd sets it up, in every network of a container's own."""
    show = ("sh", "-c", "cat /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/sys/net/ipv4/ping_group_range")
    world.ok("network", "create", "low")
    for network in ("bridge", "none", "low"):
        assert world.ok("run", "--rm", "--network", network, "busybox", *show).split() == ["0", "0", "2147483647"]
    mine = world.ok("run", "--rm", "--sysctl", "net.ipv4.ip_unprivileged_port_start=80", "busybox", *show)
    assert mine.split()[0] == "80"
    world.ok("run", "--rm", "--user", "1000", "--network", "low", "--cap-drop", "ALL", "busybox", "httpd", "-p", "80")


def test_all_exposed_ports_and_the_first_free_one_of_a_range(world: EngineWorld) -> None:
    serve(world, "exposing", "--expose", "80", "--expose", "8000-8001/udp", "-P")
    ports = dict(line.split(" -> ") for line in world.ok("port", "exposing").splitlines() if "0.0.0.0" in line)
    assert set(ports) == {"80/tcp", "8000/udp", "8001/udp"}
    wait_for_page(int(ports["80/tcp"].rpartition(":")[2]), b"exposing\n")
    with socket.create_server(("0.0.0.0", 8130)):
        serve(world, "ranged", "-p", "8130-8132:80")
    assert world.ok("port", "ranged", "80/tcp").splitlines()[0] == "0.0.0.0:8131"
    wait_for_page(8131, b"ranged\n")


def test_a_linked_container_is_found_after_its_restart(world: EngineWorld) -> None:
    world.ok("run", "-d", "--name", "target", "busybox", "sleep", "600")
    world.ok("run", "-d", "--name", "looker", "--link", "target:it", "busybox", "sleep", "600")
    before = world.inspect("target", "{{.NetworkSettings.Networks.bridge.IPAddress}}")
    world.ok("restart", "-t", "0", "target")
    after = world.inspect("target", "{{.NetworkSettings.Networks.bridge.IPAddress}}")
    lines = [line.split() for line in world.ok("exec", "looker", "cat", "/etc/hosts").splitlines()]
    assert before != after and [line[0] for line in lines if "it" in line] == [after]
    assert ["127.0.0.1", "localhost"] in lines and world.ok("exec", "looker", "ping", "-c1", "-W5", "it")
    # One that is not linked, or does not run, is left alone; a link to what is gone harms nobody.
    world.ok("rm", "-f", "looker")
    world.ok("restart", "-t", "0", "target")


def test_interfaces_as_the_endpoint_asks(world: EngineWorld) -> None:
    world.ok("network", "create", "fine")
    option = "driver-opt=com.docker.network.endpoint"
    world.ok("run", "-d", "--name", "named", "--network", f"name=fine,{option}.ifname=lan7,{option}.sysctls="
             "net.ipv4.conf.IFNAME.log_martians=1,link-local-ip=169.254.8.8", "busybox", "sleep", "600")
    assert world.ok("exec", "named", "ls", "/sys/class/net").split() == ["lan7", "lo"]
    assert world.ok("exec", "named", "cat", "/proc/sys/net/ipv4/conf/lan7/log_martians") == "1"
    assert "169.254.8.8/16" in world.ok("exec", "named", "ip", "addr", "show", "lan7")
    shown = json.loads(world.ok("inspect", "named"))[0]["NetworkSettings"]["Networks"]["fine"]
    assert shown["IPAMConfig"]["LinkLocalIPs"] == ["169.254.8.8"]
    assert shown["DriverOpts"]["com.docker.network.endpoint.ifname"] == "lan7"
    world.ok("network", "create", "finer")
    done = world.docker("network", "connect", "--driver-opt", "com.docker.network.colour=red", "finer", "named")
    assert done.code == 1 and "unknown driver option 'com.docker.network.colour'" in done.err
    world.ok("network", "connect", "--driver-opt", "com.docker.network.endpoint.ifname=lan8", "--link-local-ip",
             "169.254.8.9", "finer", "named")
    assert world.ok("exec", "named", "ls", "/sys/class/net").split() == ["lan7", "lan8", "lo"]
    world.ok("restart", "-t", "0", "named")
    assert world.ok("exec", "named", "ls", "/sys/class/net").split() == ["lan7", "lan8", "lo"]


def test_networks_without_ipv4_and_from_a_configuration(world: EngineWorld) -> None:
    world.ok("network", "create", "--ipv4=false", "--ipv6", "six")
    serve(world, "onsix", "--network", "six", "-p", "8085:80")
    shown = json.loads(world.ok("network", "inspect", "six"))[0]
    assert not shown["EnableIPv4"] and [pool["Subnet"][:2] for pool in shown["IPAM"]["Config"]] == ["fd"]
    mine = json.loads(world.ok("inspect", "onsix"))[0]["NetworkSettings"]["Networks"]["six"]
    assert mine["IPAddress"] == "" and mine["GlobalIPv6Address"] and mine["IPPrefixLen"] == 0
    hosts = world.ok("exec", "onsix", "cat", "/etc/hosts")
    assert mine["GlobalIPv6Address"] in hosts and "inet " not in world.ok("exec", "onsix", "ip", "addr", "show", "eth0")
    wait_for_page(8085, b"onsix\n")
    world.ok("network", "create", "--config-only", "--subnet", "10.124.0.0/24", "--label", "from=conf", "conf")
    assert own_cli(world, "network", "create", "--config-from", "conf", "real")
    world.ok("run", "-d", "--name", "onreal", "--network", "real", "busybox", "sleep", "600")
    assert world.inspect("onreal", "{{.NetworkSettings.Networks.real.IPAddress}}").startswith("10.124.0.")
    assert world.ok("network", "ls", "-q", "-f", "label=from=conf", "-f", "driver=bridge")
    done = world.docker("network", "rm", "conf")
    assert done.code == 1 and 'configuration network "conf" is in use' in done.err
    done = world.docker("run", "--rm", "--network", "conf", "busybox", "true")
    assert "cannot create endpoint on configuration-only network" in done.err


class Traffic:
    """Asks for a page again and again, and has a connection by each way that stays open; counts what fails."""

    def __init__(self, port: int, relayed: str) -> None:
        self.asked, self.failed = 0, 0
        self._port = port
        self._end = threading.Event()
        self._open = [socket.create_connection((host, port), PATIENCE) for host in ("127.0.0.1", relayed)]
        self._thread = threading.Thread(target=self._run, args=(("127.0.0.1", relayed),))
        self._thread.start()

    def _run(self, hosts: Sequence[str]) -> None:
        while not self._end.is_set():
            for host in hosts:
                try:
                    self.asked += 1
                    with socket.create_connection((host, self._port), PATIENCE) as client:
                        assert answer(client).endswith(b"steady\n")
                except (OSError, AssertionError):
                    self.failed += 1

    def finish(self) -> None:
        """Asserts that the connections from before are alive too."""
        self._end.set()
        self._thread.join(2 * PATIENCE)
        assert not self._thread.is_alive()
        for client in self._open:
            with client:
                assert answer(client).endswith(b"steady\n")


def kernel_state(world: EngineWorld) -> list[str]:
    """All rules and elements of all tables, and the links with their addresses, but for spare interfaces."""
    rules = subprocess.run(["nft", "-s", "list", "ruleset"], check=True, capture_output=True, text=True).stdout
    links = json.loads(subprocess.run(["ip", "-j", "addr"], check=True, capture_output=True, text=True).stdout)
    return sorted([*rules.splitlines(), *(str((link["ifname"], [item["local"] for item in link["addr_info"]
                                                               if item["scope"] == "global"]))
                                          for link in links if link.get("master"))])


def test_traffic_goes_on_while_the_daemon_is_killed_and_comes_back(world: EngineWorld) -> None:
    world.ok("network", "create", "calm")
    serve(world, "steady", "--network", "calm", "-p", "8095:80")
    assert fetch(world, "steady", "steady") == "steady"
    before = kernel_state(world)
    traffic = Traffic(8095, "::1")
    world.end(signal.SIGKILL)
    world.start()
    wait_until(lambda: traffic.asked > 100)
    traffic.finish()
    assert traffic.failed == 0
    wait_until(lambda: kernel_state(world) == before)  # neither doubled nor leaked
    with pytest.raises(OSError, match="Address already in use"):
        socket.create_server(("0.0.0.0", 8095))
    world.ok("rm", "-f", "steady")
    socket.create_server(("0.0.0.0", 8095)).close()


@pytest.mark.parametrize(("arguments", "text"), [
    (["run", "--rm", "--network", "nosuch", "busybox", "true"], "network nosuch not found"),
    (["run", "--rm", "--ip", "172.31.99.7", "busybox", "true"], "user specified IP address is supported on user "
                                                               "defined networks only"),
    (["network", "create", "bridge"], "operation is not permitted on predefined bridge network"),
    (["network", "create", "default"], "operation is not permitted on predefined default network"),
    (["network", "create", "--subnet", "10.52.0.0/24", "--gateway", "10.52.0.255", "x"],
     "failed to allocate gateway (10.52.0.255): Address already in use"),
    (["network", "create", "-d", "macvlan", "-o", "parent=lo", "x"], "loopback interface is not a valid macvlan"),
    (["network", "ls", "-f", "dangling=x"], "invalid value for filter 'dangling', must be"),
    *((["run", "--rm", "--network", mode, "--mac-address", "02:42:00:00:00:01", "busybox", "true"],
       "conflicting options: mac-address and the network mode") for mode in ("host", "none", "container:x")),
    (["network", "create", "-d", "overlay", "x"], "overlay driver is not supported"),
    (["network", "create", "--ipv4=false", "x"], "IPv4 or IPv6 must be enabled"),
    (["network", "create", "--subnet", "172.31.99.0/28", "x"], "Pool overlaps with other one on this address space"),
    (["run", "--rm", "--mac-address", "03:42:00:00:00:01", "busybox", "true"], "invalid MAC address: 03:42:"),
    (["network", "rm", "host"], "host is a pre-defined network and cannot be removed")])
def test_refusals(world: EngineWorld, arguments: list[str], text: str) -> None:
    done = world.docker(*arguments)
    assert done.code != 0 and text in done.err


def test_a_link_to_a_container_that_is_elsewhere(world: EngineWorld) -> None:
    world.ok("network", "create", "elsewhere")
    world.ok("run", "-d", "--name", "far", "--network", "elsewhere", "busybox", "sleep", "1000")
    done = world.docker("run", "--rm", "--link", "far", "busybox", "true")
    assert done.code != 0 and "Cannot link to /far, as it does not belong to the default network" in done.err
    world.ok("rm", "-f", "far")


def test_without_a_bridge_there_are_no_ports_but_a_network(world: EngineWorld) -> None:
    for mode in ("host", "none"):
        world.ok("run", "-d", "--name", f"on-{mode}", "--network", mode, "--expose", "81", "busybox", "sleep", "1000")
        assert world.inspect(f"on-{mode}", "{{json .NetworkSettings.Ports}}") == "{}"
        assert world.ok("ps", "-f", f"name=on-{mode}", "--format", "{{.Ports}}") == ""
        shown = json.loads(world.inspect(f"on-{mode}", "{{json .NetworkSettings.Networks}}"))[mode]
        listed = json.loads(world.ok("network", "inspect", "-f", "{{json .Containers}}", mode))
        assert shown["NetworkID"] == world.ok("network", "inspect", "-f", "{{.Id}}", mode)
        assert [item["EndpointID"] for item in listed.values() if item["Name"] == f"on-{mode}"] == [
            shown["EndpointID"]]
        world.ok("stop", "-t", "0", f"on-{mode}")
        stopped = json.loads(world.inspect(f"on-{mode}", "{{json .NetworkSettings.Networks}}"))[mode]
        assert (stopped["NetworkID"], stopped["EndpointID"]) == (shown["NetworkID"], "")
        world.ok("rm", f"on-{mode}")


def test_events_tell_of_networks(world: EngineWorld) -> None:
    world.ok("network", "create", "told")
    world.ok("run", "--rm", "--network", "told", "busybox", "true")
    world.ok("network", "rm", "told")
    wanted = urllib.parse.quote(json.dumps({"network": ["told"]}))
    status, shown = api(world, "GET", f"/events?since=0&until={time.time():.9f}&filters={wanted}", None)
    assert status == 200 and [json.loads(line)["Action"] for line in shown.splitlines()] == [
        "create", "connect", "disconnect", "destroy"]
