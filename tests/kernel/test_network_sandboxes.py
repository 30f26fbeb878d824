"""The default bridge, none and host on the real kernel; ip, nft, curl, ping and plain sockets are the oracles."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from barque.errors import InvalidArgument
from barque.network.errors import PoolOverlaps, PortFailure, PortsWithoutNetwork, StaticAddressRefused
from barque.network.model import NetworkSettings, Sandbox
from barque.network.stack import Network
from tests.kernel.network_world import (
    PATIENCE,
    SILENCE,
    Outside,
    Servers,
    ask,
    elements,
    engine,
    inside,
    links,
    publish,
    request,
    run,
    tables,
)


async def test_bridge_sandbox_has_address_route_and_peer(network: Network) -> None:
    one, two = await network.setup(request(1)), await network.setup(request(2))
    endpoint = one.endpoints[0]
    shown = json.loads(inside(one, "ip", "-j", "addr", "show", "eth0"))[0]
    assert shown["address"] == endpoint.mac and endpoint.mac.startswith("02:42:ac:11")
    assert [(a["local"], a["prefixlen"]) for a in shown["addr_info"]] == [(endpoint.ipv4, 16)]
    routes = json.loads(inside(one, "ip", "-j", "route"))
    assert {"dst": "default", "gateway": endpoint.gateway, "dev": "eth0", "flags": []} in routes
    inside(one, "ping", "-c1", f"-W{PATIENCE}", two.endpoints[0].ipv4)
    inside(one, "ping", "-c1", f"-W{PATIENCE}", endpoint.gateway)
    run("ping", "-c1", f"-W{PATIENCE}", endpoint.ipv4)
    inside(one, "ping", "-c1", f"-W{PATIENCE}", "127.0.0.1")


async def test_none_has_loopback_only_and_host_nothing_of_its_own(network: Network) -> None:
    none, host = await network.setup(request(1, "none")), await network.setup(request(2, "host"))
    assert [link["ifname"] for link in json.loads(inside(none, "ip", "-j", "link"))] == ["lo"]
    inside(none, "ping", "-c1", f"-W{PATIENCE}", "127.0.0.1")
    assert none.endpoints == () and host.netns_path is None and host.endpoints == ()


@pytest.mark.parametrize("kind", ["tcp", "udp"])
@pytest.mark.parametrize("host_ip", [None, "127.0.0.1", "::1", "0.0.0.0", "::"])
async def test_published_port_from_the_host(network: Network, servers: Servers, kind: str, host_ip: str | None) -> None:
    sandbox = await network.setup(request(ports=(publish(80, 8080, kind, host_ip),)))
    servers.start(sandbox, kind, 80)
    addresses = {None: ["127.0.0.1", "::1"], "0.0.0.0": ["127.0.0.1"], "::": ["::1"]}.get(host_ip, [host_ip])
    for address in addresses:
        assert ask(kind, address, 8080) == f"hello from {sandbox.endpoints[0].gateway}"
    if host_ip in (None, "0.0.0.0"):
        assert ask(kind, sandbox.endpoints[0].gateway, 8080).startswith("hello from ")


@pytest.mark.parametrize("kind", ["tcp", "udp"])
async def test_published_port_from_containers_and_itself(network: Network, servers: Servers, kind: str) -> None:
    server = await network.setup(request(1, ports=(publish(80, 8080, kind),)))
    other = await network.setup(request(2))
    servers.start(server, kind, 80)
    gateway = server.endpoints[0].gateway
    assert ask(kind, gateway, 8080, within=other).startswith("hello from")
    assert ask(kind, gateway, 8080, within=server).startswith("hello from")
    assert ask(kind, server.endpoints[0].ipv4, 80, within=other) == f"hello from {other.endpoints[0].ipv4}"


async def test_own_and_foreign_conflicts_in_dockerds_words(network: Network) -> None:
    await network.setup(request(1, ports=(publish(80, 8080),)))
    with pytest.raises(PortFailure, match=r"^driver failed programming external connectivity on endpoint c2 "
                       r"\([0-9a-f]{64}\): Bind for 0\.0\.0\.0:8080 failed: port is already allocated$"):
        await network.setup(request(2, ports=(publish(81, 9090), publish(80, 8080))))
    with pytest.raises(PortFailure, match=r"Bind for 127\.0\.0\.1:8080 failed: port is already allocated"):
        await network.setup(request(2, ports=(publish(80, 8080, host_ip="127.0.0.1"),)))
    with socket.create_server(("127.0.0.1", 8081)):
        with pytest.raises(PortFailure, match=r"failed to bind host port 0\.0\.0\.0:8081/tcp: address already in use$"):
            await network.setup(request(2, ports=(publish(80, 8081),)))
    with pytest.raises(PortFailure, match=r"192\.0\.2\.1:8082/tcp: cannot assign requested address"):
        await network.setup(request(2, ports=(publish(80, 8082, host_ip="192.0.2.1"),)))
    both = (publish(80, 9090), publish(80, 8081), publish(53, 8080, "udp"))
    assert len((await network.setup(request(2, ports=both))).ports) == 6


async def test_a_host_program_cannot_take_a_published_port(network: Network) -> None:
    await network.setup(request(ports=(publish(80, 8080),)))
    with pytest.raises(OSError, match="Address already in use"):
        socket.create_server(("127.0.0.1", 8080))
    await network.teardown(request().container_id)
    socket.create_server(("127.0.0.1", 8080)).close()


async def test_ranges_and_random_ports(network: Network) -> None:
    first = await network.setup(request(1, ports=(publish(80, 9000, end=9001),)))
    second = await network.setup(request(2, ports=(publish(80, 9000, end=9001),)))
    assert {port.host_port for port in first.ports} == {9000} and {port.host_port for port in second.ports} == {9001}
    with pytest.raises(PortFailure, match="port is already allocated"):
        await network.setup(request(3, ports=(publish(80, 9000, end=9001),)))
    random = await network.setup(request(3, ports=(publish(80), publish(81))))
    low, high = map(int, Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split())
    chosen = {(port.container_port, port.host_port) for port in random.ports}
    assert len(chosen) == 2 and all(low <= port <= high for _, port in chosen)


async def test_refusals_leave_nothing(network: Network, tmp_path: Path) -> None:
    before = links()
    with pytest.raises(PortsWithoutNetwork):
        await network.setup(request(mode="none", ports=(publish(80, 8080),)))
    with pytest.raises(StaticAddressRefused):
        await network.setup(request(ipv4="172.17.0.9"))
    with pytest.raises(OSError, match="No such file"):
        await network.setup(request(ports=(publish(80, 8080),), sysctls={"net.ipv4.no_such_thing": "1"}))
    assert os.listdir(tmp_path / "exec" / "netns") == []
    assert elements(network, "published4_any") == []
    socket.create_server(("0.0.0.0", 8080)).close()
    assert {name for name in links() - before if not name.startswith("veth")} == set()


async def test_sysctls_apply_inside_only(network: Network) -> None:
    sysctls = {"net.core.somaxconn": "321", "net.ipv4.conf.eth0.log_martians": "1"}
    sandbox = await network.setup(request(sysctls=sysctls))
    assert inside(sandbox, "cat", "/proc/sys/net/core/somaxconn").strip() == "321"
    assert inside(sandbox, "cat", "/proc/sys/net/ipv4/conf/eth0/log_martians").strip() == "1"
    assert Path("/proc/sys/net/core/somaxconn").read_text().strip() != "321"


async def test_teardown_is_idempotent_and_fifty_rounds_leave_nothing(tmp_path: Path) -> None:
    before = links(), tables(), set(os.listdir("/proc/self/fd"))
    async with engine(tmp_path / "exec") as network:
        for number in range(50):
            sandbox = await network.setup(request(number, ports=(publish(80, 8080), publish(53, 53, "udp"))))
            assert sandbox.netns_path is not None and os.path.exists(sandbox.netns_path)
            await network.teardown(sandbox.container_id)
            await network.teardown(sandbox.container_id)
        assert os.listdir(tmp_path / "exec" / "netns") == []
        assert elements(network, "published4") == elements(network, "published4_any") == []
    await vanished(before[0])
    assert tables() == before[1]
    assert set(os.listdir("/proc/self/fd")) == before[2]
    assert str(tmp_path) not in Path("/proc/self/mountinfo").read_text()


async def vanished(expected: set[str]) -> None:
    """Namespaces die in the background; their links are gone once ip monitor would have said so."""
    monitor = await asyncio.create_subprocess_exec("ip", "-o", "monitor", "link", stdout=subprocess.PIPE)
    assert monitor.stdout is not None
    try:
        while links() - expected:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(monitor.stdout.readline(), 1)
    finally:
        monitor.kill()
        await monitor.wait()


async def test_two_engines_side_by_side(tmp_path: Path, servers: Servers) -> None:
    async with engine(tmp_path / "a") as a:
        kept = await a.setup(request(1, ports=(publish(80, 8080),)))
        servers.start(kept, "tcp", 80)
        async with engine(tmp_path / "b") as b:
            assert a.settings.bridge_name != b.settings.bridge_name
            other = await b.setup(request(1, ports=(publish(80, 8081),)))
            assert other.endpoints[0].gateway != kept.endpoints[0].gateway
            servers.start(other, "tcp", 80)
            with pytest.raises(PortFailure, match="address already in use"):
                await b.setup(request(2, ports=(publish(80, 8080),)))
            assert ask("tcp", "127.0.0.1", 8081).startswith("hello")
            with pytest.raises(subprocess.CalledProcessError):
                inside(other, "ping", "-c1", "-W1", kept.endpoints[0].ipv4)
            assert ask("tcp", other.endpoints[0].gateway, 8080, within=other).startswith("hello")
        assert ask("tcp", "127.0.0.1", 8080).startswith("hello")
        assert a.settings.table in tables() and b.settings.table not in tables()


async def test_containers_cannot_reach_the_hosts_loopback(network: Network, servers: Servers) -> None:
    sandbox = await network.setup(request())
    servers.start(None, "tcp", 7777)
    inside(sandbox, "ip", "route", "add", "127.0.0.5/32", "via", sandbox.endpoints[0].gateway, "src",
           sandbox.endpoints[0].ipv4)
    inside(sandbox, "sh", "-c", "echo 1 > /proc/sys/net/ipv4/conf/all/route_localnet; "
           "ip rule add pref 1 to 127.0.0.5 lookup main; ip rule add pref 2 lookup local; ip rule del pref 0")
    with pytest.raises(subprocess.CalledProcessError) as failed:
        ask("tcp", "127.0.0.5", 7777, within=sandbox, timeout=SILENCE)
    assert "timed out" in failed.value.stderr
    run("nft", "flush", "chain", "inet", network.settings.table, "guard")
    assert ask("tcp", "127.0.0.5", 7777, within=sandbox).startswith("hello"), "the attack itself must work"


async def test_three_hundred_containers_out_of_thirteen_addresses(tmp_path: Path) -> None:
    """No address is lost on the way, be it that a start fails or that many go at once."""
    async with engine(tmp_path / "exec", bip="10.77.0.1/28") as network:
        for cycle in range(25):
            made = [await network.setup(request(number)) for number in range(12)]
            assert len({sandbox.endpoints[0].ipv4 for sandbox in made}) == 12
            with pytest.raises(OSError, match="No such file"):
                await network.setup(request(99, sysctls={"net.ipv4.no_such_thing": str(cycle)}))
            await asyncio.gather(*(network.teardown(sandbox.container_id) for sandbox in made))
        assert os.listdir(tmp_path / "exec" / "netns") == []
        left = run("nft", "list", "table", "bridge", network.settings.table)
        assert "elements" not in left and "10.77.0." not in left


async def test_many_that_go_together_go_in_one_transaction(network: Network, servers: Servers) -> None:
    made = [await network.setup(request(number, ports=(publish(80, 8100 + number),))) for number in range(12)]
    stays = await network.setup(request(99, ports=(publish(80, 8199),)))
    servers.start(stays, "tcp", 80)
    monitor = await asyncio.create_subprocess_exec("nft", "monitor", stdout=subprocess.PIPE)
    assert monitor.stdout is not None
    try:
        # A transaction of the test's own, again and again until the monitor has begun to tell of them.
        first = b""
        while not first.startswith(b"# new generation"):
            run("nft", "add table inet marker; delete table inet marker")
            with contextlib.suppress(TimeoutError):
                first = await asyncio.wait_for(monitor.stdout.readline(), 1)
        await asyncio.gather(*(network.teardown(sandbox.container_id) for sandbox in made))
        run("nft", "add table inet finished; delete table inet finished")
        lines = []
        while b"finished" not in (line := await asyncio.wait_for(monitor.stdout.readline(), 60)):
            lines.append(line)
    finally:
        monitor.kill()
        await monitor.wait()
    mine = [line for line in lines if b"delete element" in line or line.startswith(b"# new generation")]
    assert sum(b"delete element" in line for line in mine) >= 24
    generations = [number for number, line in enumerate(mine) if line.startswith(b"# new generation")
                   and number and b"delete element" in mine[number - 1]]
    assert 0 < len(generations) <= 6, "12 containers, in a few transactions"
    assert ask("tcp", "127.0.0.1", 8199).startswith("hello")
    for number in range(12):
        socket.create_server(("0.0.0.0", 8100 + number)).close()


CRASHED = """
import asyncio, os, signal, sys, msgspec
from barque.network.model import *
from barque.network.stack import Network
from tests.kernel.network_world import Servers, ask, elements, engine, inside, links, publish, request, run, tables
async def main():
    network = await Network.open(NetworkSettings(exec_root=sys.argv[1]))
    await network.reconcile([])
    lost = await network.setup(SandboxRequest(container_id="f" * 64, mode="bridge", ports=(
        PortBinding(container_port=80, host_port_start=8081),)))
    kept = await network.setup(SandboxRequest(container_id="e" * 64, mode="bridge", ports=(
        PortBinding(container_port=80, host_port_start=8080),)))
    print(msgspec.json.encode(kept).decode(), flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
asyncio.run(main())
"""


async def test_ports_survive_a_kill_and_the_next_engine_takes_over(tmp_path: Path, servers: Servers) -> None:
    before = links()
    first = await asyncio.create_subprocess_exec(sys.executable, "-c", CRASHED, str(tmp_path), stdout=subprocess.PIPE)
    kept = msgspec.json.decode((await first.communicate())[0], type=Sandbox)
    assert first.returncode == -signal.SIGKILL
    servers.start(kept, "tcp", 80)

    def works() -> None:
        for address in ("127.0.0.1", "::1", kept.endpoints[0].gateway):
            assert ask("tcp", address, 8080).startswith("hello"), address

    works()
    with pytest.raises(OSError, match="Address already in use"):
        socket.create_server(("0.0.0.0", 8080))
    network = await Network.open(NetworkSettings(exec_root=str(tmp_path)))
    try:
        works()
        await network.reconcile([kept])
        works()
        assert os.listdir(tmp_path / "netns") == ["e" * 12]
        assert len(elements(network, "published4_any")) == 1
        with pytest.raises(PortFailure, match="port is already allocated"):
            await network.setup(request(1, ports=(publish(80, 8080),)))
        fresh = await network.setup(request(2, ports=(publish(80, 8081),)))
        assert fresh.endpoints[0].ipv4 != kept.endpoints[0].ipv4
        await network.teardown(kept.container_id)
        socket.create_server(("0.0.0.0", 8080)).close()
    finally:
        servers.stop()
        await network.close(remove=True)
    await vanished(before)


@pytest.fixture
def outside() -> Iterator[Outside]:
    made = Outside(1)
    yield made
    made.close()


async def test_out_by_masquerade_in_by_published_port_only(network: Network, outside: Outside,
                                                           servers: Servers) -> None:
    sandbox = await network.setup(request(ports=(publish(80, 8080), publish(81, 8081, host_ip="127.0.0.1"))))
    servers.start(outside.as_sandbox(), "tcp", 7000)
    assert ask("tcp", outside.address, 7000, within=sandbox) == f"hello from {outside.host}"
    servers.start(sandbox, "tcp", 80)
    servers.start(sandbox, "tcp", 81)
    stranger = outside.as_sandbox()
    assert ask("tcp", outside.host, 8080, within=stranger) == f"hello from {outside.address}", "source address kept"
    inside(stranger, "ip", "route", "add", "default", "via", outside.host)
    for host, port in (outside.host, 8081), (sandbox.endpoints[0].ipv4, 81), (sandbox.endpoints[0].ipv4, 80):
        with pytest.raises(subprocess.CalledProcessError):
            ask("tcp", host, port, within=stranger, timeout=SILENCE)


@pytest.mark.parametrize("others", [False, True], ids=["alone", "beside another firewall"])
async def test_forwarding_is_given_back(tmp_path: Path, others: bool) -> None:
    forwarding = Path("/proc/sys/net/ipv4/ip_forward")
    before = forwarding.read_text()
    forwarding.write_text("0")
    try:
        async with engine(tmp_path):
            assert forwarding.read_text().strip() == "1"
            if others:
                run("nft", "add table ip other; add chain ip other f { type filter hook forward priority 0; }")
        assert forwarding.read_text().strip() == ("1" if others else "0")
    finally:
        forwarding.write_text(before)
        if others:
            run("nft", "delete", "table", "ip", "other")


async def test_the_last_engine_gives_forwarding_back_and_all_before_it_keep_the_guard(tmp_path: Path, servers: Servers
                                                                                      ) -> None:
    forwarding = Path("/proc/sys/net/ipv4/ip_forward")
    before = forwarding.read_text()
    forwarding.write_text("0")
    machines = Outside(1, card=True), Outside(2, card=True)
    one, two = (machine.as_sandbox() for machine in machines)

    def passes(timeout: float = SILENCE) -> bool:
        try:
            return ask("tcp", machines[1].address, 7000, within=one, timeout=timeout).startswith("hello")
        except subprocess.CalledProcessError:
            return False

    try:
        servers.start(two, "tcp", 7000)
        for sandbox, machine in ((one, machines[0]), (two, machines[1])):
            inside(sandbox, "ip", "route", "add", "default", "via", machine.host)
        # The first that came goes first, then the one that came in between; the last turns the light off.
        opened = []
        for name in "abc":
            network = await Network.open(NetworkSettings(exec_root=str(tmp_path / name)))
            await network.reconcile([])
            opened.append(network)
        await opened[0].close(remove=True)
        assert forwarding.read_text().strip() == "1" and not passes()
        await opened[2].close(remove=True)
        assert forwarding.read_text().strip() == "1" and not passes()
        run("nft", "flush", "chain", "inet", opened[1].settings.table, "forward")
        assert passes(PATIENCE), "without the guard it would have been a router"
        await opened[1].close(remove=True)
        assert forwarding.read_text().strip() == "0"
    finally:
        forwarding.write_text(before)
        servers.stop()
        for machine in machines:
            machine.close()


async def test_an_engine_that_found_forwarding_on_leaves_it_on(tmp_path: Path) -> None:
    forwarding = Path("/proc/sys/net/ipv4/ip_forward")
    before = forwarding.read_text()
    forwarding.write_text("1")
    try:
        async with engine(tmp_path / "a") as a, engine(tmp_path / "b"):
            assert "forwarding was off" not in run("nft", "list", "table", "inet", a.settings.table)
        assert forwarding.read_text().strip() == "1"
    finally:
        forwarding.write_text(before)


async def test_turning_forwarding_on_makes_no_router(tmp_path: Path, servers: Servers) -> None:
    forwarding = Path("/proc/sys/net/ipv4/ip_forward")
    before = forwarding.read_text()
    forwarding.write_text("0")
    machines = Outside(1, card=True), Outside(2, card=True)
    one, two = (machine.as_sandbox() for machine in machines)
    try:
        async with engine(tmp_path) as network:
            assert forwarding.read_text().strip() == "1"
            inside(one, "ip", "route", "add", "default", "via", machines[0].host)
            inside(two, "ip", "route", "add", "default", "via", machines[1].host)
            servers.start(two, "tcp", 7000)
            with pytest.raises(subprocess.CalledProcessError):
                ask("tcp", machines[1].address, 7000, within=one, timeout=SILENCE)
            sandbox = await network.setup(request())
            assert ask("tcp", machines[1].address, 7000, within=sandbox).startswith("hello")
            run("nft", "flush", "chain", "inet", network.settings.table, "forward")
            assert ask("tcp", machines[1].address, 7000, within=one).startswith("hello"), "it would have been one"
    finally:
        forwarding.write_text(before)
        servers.stop()
        for machine in machines:
            machine.close()


async def test_subnet_avoids_the_hosts_routes_and_a_clash_is_named(tmp_path: Path) -> None:
    run("ip", "link", "add", "vpn0", "type", "veth", "peer", "name", "vpn1")
    try:
        run("ip", "link", "set", "vpn0", "up", "mtu", "1400")
        run("ip", "route", "add", "172.16.0.0/13", "dev", "vpn0")
        run("ip", "route", "add", "default", "dev", "vpn0")
        async with engine(tmp_path) as network:
            info = network.networks()[0]
            assert (info.subnet, info.mtu) == ("172.24.0.0/16", 1400)
            sandbox = await network.setup(request())
            assert json.loads(inside(sandbox, "ip", "-j", "link", "show", "eth0"))[0]["mtu"] == 1400
        with pytest.raises(PoolOverlaps, match=r"172\.18\.0\.0/24 overlaps 172\.16\.0\.0/13 of this host's route by"):
            await Network.open(NetworkSettings(exec_root=str(tmp_path), bip="172.18.0.1/24"))
        async with engine(tmp_path, bip="10.77.0.9/24", fixed_cidr="10.77.0.128/25") as network:
            endpoint = (await network.setup(request())).endpoints[0]
            assert (endpoint.gateway, endpoint.ipv4) == ("10.77.0.9", "10.77.0.128")
    finally:
        run("ip", "link", "del", "vpn0")


async def test_icc_off_separates_containers_even_by_way_of_the_gateway(tmp_path: Path, servers: Servers) -> None:
    async with engine(tmp_path / ("long" * 40), icc=False) as network:
        one = await network.setup(request(1, ports=(publish(80, 8080),)))
        two = await network.setup(request(2))
        servers.start(one, "tcp", 80)
        inside(two, "ping", "-c1", f"-W{PATIENCE}", two.endpoints[0].gateway)
        run("ping", "-c1", f"-W{PATIENCE}", two.endpoints[0].ipv4)
        with pytest.raises(subprocess.CalledProcessError):
            ask("tcp", one.endpoints[0].ipv4, 80, within=two, timeout=SILENCE)
        inside(two, "ip", "route", "add", one.endpoints[0].ipv4 + "/32", "via", two.endpoints[0].gateway)
        with pytest.raises(subprocess.CalledProcessError):
            ask("tcp", one.endpoints[0].ipv4, 80, within=two, timeout=SILENCE)
        assert network.networks()[0].icc is False


def wait_for_tables(whole: set[str]) -> None:
    deadline = time.monotonic() + PATIENCE
    while tables() != whole:
        assert time.monotonic() < deadline, "the tables do not come back"


async def test_a_flushed_table_is_put_back(network: Network, servers: Servers) -> None:
    """Restarting a firewall service often begins with "flush ruleset"; nothing else need happen for ours to return."""
    first = await network.setup(request(1, ports=(publish(80, 8080),)))
    servers.start(first, "tcp", 80)
    whole = tables()
    for _ in range(3):
        run("nft", "flush", "ruleset")
        await asyncio.to_thread(wait_for_tables, whole)
        assert ask("tcp", "127.0.0.1", 8080).startswith("hello") and len(elements(network, "published4_any")) == 1
    run("nft", "flush", "ruleset")  # and it is no error for who comes before that
    second = await network.setup(request(2, ports=(publish(80, 8081),)))
    run("nft", "flush", "ruleset")
    await network.teardown(second.container_id)
    assert ask("tcp", "127.0.0.1", 8080).startswith("hello") and len(elements(network, "published4_any")) == 1


async def test_two_engines_that_start_together_take_different_subnets(tmp_path: Path) -> None:
    opened = await asyncio.gather(*(Network.open(NetworkSettings(exec_root=str(tmp_path / str(number))))
                                    for number in range(6)))
    try:
        assert len({network.networks()[0].subnet for network in opened}) == 6
        routes = [route["dst"] for route in json.loads(run("ip", "-j", "route")) if route["dev"].startswith("brq-")]
        assert len(routes) == len(set(routes)) == 6
    finally:
        for network in opened:
            await network.close(remove=True)


@pytest.mark.parametrize("wrong", [{"bip": "172.30.0"}, {"bip": "10.1.0.1/16", "fixed_cidr": "10.2.0.0/24"},
                                   {"fixed_cidr": "10.2.0.0/24"}])
async def test_wrong_settings_leave_nothing(tmp_path: Path, wrong: dict[str, str]) -> None:
    before = links(), tables(), set(os.listdir("/proc/self/fd"))
    with pytest.raises(InvalidArgument):
        await Network.open(NetworkSettings(exec_root=str(tmp_path), **wrong))
    assert (links(), tables(), set(os.listdir("/proc/self/fd"))) == before


async def test_a_firewall_in_the_way_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run("nft", "add table ip foreign; "
        "add chain ip foreign FORWARD { type filter hook forward priority 0; policy drop; }")
    try:
        async with engine(tmp_path):
            assert "the firewall chain ip foreign FORWARD drops forwarded packets" in caplog.text
    finally:
        run("nft", "delete table ip foreign")


async def test_a_killed_keeper_is_replaced(network: Network, servers: Servers) -> None:
    sandbox = await network.setup(request(ports=(publish(80, 8080),)))
    servers.start(sandbox, "tcp", 80)
    assert ask("tcp", "::1", 8080).startswith("hello")
    listing = run("ss", "-Hltnp", "sport = :8080")
    old = listing.split("pid=")[1].split(",")[0]
    dead = asyncio.Event()
    pidfd = os.pidfd_open(int(old))
    asyncio.get_running_loop().add_reader(pidfd, dead.set)
    os.kill(int(old), signal.SIGKILL)
    await dead.wait()
    asyncio.get_running_loop().remove_reader(pidfd)
    os.close(pidfd)
    for _ in range(5):
        await asyncio.sleep(0)  # lets the engine see the death as well, and queue its work before ours
    await network.teardown("f" * 64)
    assert f"pid={old}," not in run("ss", "-Hltnp", "sport = :8080")
    for address in ("127.0.0.1", "::1"):
        assert ask("tcp", address, 8080).startswith("hello")
    with pytest.raises(OSError, match="Address already in use"):
        socket.create_server(("127.0.0.1", 8080))


async def test_failure_at_the_last_step_leaves_nothing(network: Network, tmp_path: Path) -> None:
    run("nft", "flush", "chain", "inet", network.settings.table, "publish")
    run("nft", "delete", "map", "inet", network.settings.table, "published4_any")
    with pytest.raises(OSError, match="published4_any"):
        await network.setup(request(ports=(publish(80, 8080),)))
    assert os.listdir(tmp_path / "exec" / "netns") == []
    socket.create_server(("0.0.0.0", 8080)).close()
    assert (await network.setup(request())).endpoints[0].ipv4.endswith(".0.3")


async def test_the_relay_keeps_half_close_and_bulk_whole(network: Network, servers: Servers) -> None:
    sandbox = await network.setup(request(ports=(publish(80, 8080),)))
    servers.start(sandbox, "tcp", 80)
    payload = os.urandom(1 << 20) * 4
    reader, writer = await asyncio.open_connection("::1", 8080)
    writer.write(payload)
    writer.write_eof()
    answer = await reader.read()
    writer.close()
    assert answer == payload + b" from " + sandbox.endpoints[0].gateway.encode()


async def test_a_persistent_udp_client_finds_the_new_container(network: Network, servers: Servers) -> None:
    """Its flow would otherwise stay bound to what the port meant when it began, packet after packet."""
    ports = (publish(53, 5353, "udp", "0.0.0.0"),)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(PATIENCE)
        client.connect((network.networks()[0].gateway, 5353))
        client.send(b"nobody there yet")
        with pytest.raises(ConnectionRefusedError):
            await asyncio.to_thread(client.recv, 2048)
        for number in (1, 2):
            sandbox = await network.setup(request(number, ports=ports))
            servers.start(sandbox, "udp", 53)
            client.send(f"ask {number}".encode())
            assert (await asyncio.to_thread(client.recv, 2048)).startswith(f"ask {number} from".encode())
            servers.stop()
            await network.teardown(sandbox.container_id)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as own:
            own.settimeout(PATIENCE)
            own.bind(("0.0.0.0", 5353))
            client.send(b"for the host's own program")
            assert await asyncio.to_thread(own.recv, 2048) == b"for the host's own program"


async def test_thirty_at_once_share_nothing(network: Network) -> None:
    made = await asyncio.gather(*(network.setup(request(number, ports=(publish(80), publish(53, 0, "udp"))))
                                  for number in range(30)))
    assert len({sandbox.endpoints[0].ipv4 for sandbox in made}) == 30
    ports = [(port.protocol, port.host_ip, port.host_port) for sandbox in made for port in sandbox.ports]
    assert len(ports) == len(set(ports)) == 120
    assert len(elements(network, "published4_any")) == 60
    await asyncio.gather(*(network.teardown(sandbox.container_id) for sandbox in made))
    assert elements(network, "published4_any") == []


async def test_a_cancelled_setup_ends_whole_and_can_be_torn_down(network: Network, tmp_path: Path) -> None:
    task = asyncio.create_task(network.setup(request(ports=(publish(80, 8080),))))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await network.teardown(request().container_id)
    assert os.listdir(tmp_path / "exec" / "netns") == []
    socket.create_server(("0.0.0.0", 8080)).close()
