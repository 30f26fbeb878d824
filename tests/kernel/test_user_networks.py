"""Networks that users make, on the real kernel: addresses, isolation, changes while containers run, restarts."""

from __future__ import annotations

import ipaddress
import json
import os
import select
import socket
import subprocess
from pathlib import Path

import pytest

from barque.errors import InvalidArgument
from barque.network.errors import (
    AddressInUse,
    AlreadyConnected,
    InvalidPool,
    LinkTaken,
    NetworkInUse,
    NetworkMissing,
    ParentMissing,
    PoolOverlaps,
    PoolsExhausted,
    PortsOfInternal,
)
from barque.network.model import AddressPool, Attachment, NetworkSettings, Sandbox, Subnet
from barque.network.stack import Network
from tests.kernel.network_world import (
    PATIENCE,
    SILENCE,
    Servers,
    ask,
    cut_off,
    engine,
    inside,
    links,
    on,
    publish,
    reaches,
    request,
    run,
    set_up,
    spec,
    to,
)


async def test_dual_stack_network_with_addresses_of_its_own_choice(network: Network) -> None:
    made = await network.create_network(spec("web", enable_ipv6=True))
    assert made.ipv4 is not None and made.ipv6 is not None
    six = ipaddress.IPv6Network(made.ipv6.subnet)
    assert six.prefixlen == 64 and six.subnet_of(ipaddress.IPv6Network("fd00::/8")) and made.ipv6.gateway == str(six[1])
    one, two = await on(network, 1, to(made)), await on(network, 2, to(made))
    end = two.endpoints[0]
    assert reaches(one, end.ipv4) and end.ipv6 is not None and reaches(one, end.ipv6)
    assert made.bridge in links() and json.loads(run("ip", "-j", "link", "show", made.bridge))[0]["ifalias"].endswith(
        made.id)
    assert {"dst": "default", "gateway": str(six[1])}.items() <= json.loads(
        inside(one, "ip", "-6", "-j", "route", "show", "default"))[0].items()
    again = await network.create_network(spec("web2", 2, enable_ipv6=True))
    assert again.ipv6 is not None and again.ipv6.subnet != made.ipv6.subnet


async def test_asked_subnets_ranges_and_addresses(network: Network) -> None:
    subnet = Subnet(subnet="10.77.0.0/24", ip_range="10.77.0.128/30", aux={"printer": "10.77.0.129"})
    made = await network.create_network(spec("lan", ipv4=subnet, bridge="mybridge", mtu=1300))
    assert made.ipv4 is not None and made.ipv4.gateway == "10.77.0.128" and "mybridge" in links()
    chosen = {(await on(network, number, to(made))).endpoints[0].ipv4 for number in range(2)}
    assert chosen == {"10.77.0.130", "10.77.0.131"}
    fixed = await on(network, 7, to(made, ipv4="10.77.0.9", mac="02:00:00:00:00:09"))
    shown = json.loads(inside(fixed, "ip", "-j", "addr", "show", "eth0"))[0]
    assert (shown["address"], shown["mtu"], shown["addr_info"][0]["local"]) == ("02:00:00:00:00:09", 1300, "10.77.0.9")
    with pytest.raises(AddressInUse):
        await on(network, 8, to(made, ipv4="10.77.0.129"))
    with pytest.raises(NetworkInUse, match="has active endpoints"):
        await network.remove_networks([made.id])


@pytest.mark.parametrize(("four", "text"), [
    (Subnet(subnet="10.77.0.1/24"), r"invalid subnet 10\.77\.0\.1/24: it should be 10\.77\.0\.0/24"),
    (Subnet(subnet="10.77.0.0/24", gateway="10.78.0.1"), r"parent subnet 10\.77\.0\.0/24 doesn't contain this address"),
    (Subnet(subnet="10.77.0.0/24", ip_range="10.78.0.0/30"), "it is not inside the subnet"),
    (Subnet(subnet="10.77.0.0/24", aux={"a": "1.2.3.4"}), r"invalid auxiliary address 1\.2\.3\.4"),
    (Subnet(subnet="10.77.0.0/31"), "no room"), (Subnet(subnet="x"), "invalid CIDR block notation")])
async def test_nonsense_is_refused(network: Network, four: Subnet, text: str) -> None:
    with pytest.raises(InvalidPool, match=text):
        await network.create_network(spec("bad", ipv4=four))
    assert len(network.networks()) == 3


async def test_clashes_are_named_and_nothing_is_left_of_them(network: Network) -> None:
    made = await network.create_network(spec("a", ipv4=Subnet(subnet="10.80.0.0/16")))
    run("ip", "link", "add", "vpn0", "type", "veth", "peer", "vpn1")
    try:
        run("ip", "link", "set", "vpn0", "up")
        run("ip", "route", "add", "10.90.0.0/16", "dev", "vpn0", "table", "77")
        with pytest.raises(PoolOverlaps, match=r"10\.80\.1\.0/24 overlaps 10\.80\.0\.0/16 of network a"):
            await network.create_network(spec("b", 2, ipv4=Subnet(subnet="10.80.1.0/24")))
        with pytest.raises(PoolOverlaps, match=r"overlaps 10\.90\.0\.0/16 of this host's route by vpn0"):
            await network.create_network(spec("b", 2, ipv4=Subnet(subnet="10.90.1.0/24")))
        with pytest.raises(LinkTaken, match="it is the bridge of network a"):
            await network.create_network(spec("b", 2, bridge=made.bridge))
        with pytest.raises(LinkTaken, match="it is no bridge"):
            await network.create_network(spec("b", 2, bridge="vpn0"))
    finally:
        run("ip", "link", "delete", "vpn0")
    with pytest.raises(NetworkMissing):
        await network.remove_networks(["02" * 32])


async def test_hundreds_of_networks_out_of_pools_that_say_when_they_are_empty(tmp_path: Path) -> None:
    pools = (AddressPool("10.60.0.0/17", 24),)
    async with engine(tmp_path / "exec", pools=pools, bip="10.61.0.1/24") as network:
        made = [await network.create_network(spec(f"n{number}", number)) for number in range(128)]
        assert len({item.ipv4.subnet for item in made if item.ipv4}) == 128
        with pytest.raises(PoolsExhausted, match=r"10\.60\.0\.0/24 of network n0 covers 10\.60\.0\.0/24"):
            await network.create_network(spec("more", 300))
        one, two = await on(network, 1, to(made[0])), await on(network, 2, to(made[127]))
        assert cut_off(one, two.endpoints[0].ipv4)
        assert reaches(one, one.endpoints[0].gateway)


async def test_a_bridge_that_somebody_else_made_is_used_and_stays(network: Network) -> None:
    run("ip", "link", "add", "theirs", "type", "bridge")
    try:
        run("ip", "addr", "add", "10.5.5.1/24", "dev", "theirs")
        made = await network.create_network(spec("t", ipv4=Subnet(subnet="10.6.6.0/24"), bridge="theirs"))
        assert {"10.5.5.1", "10.6.6.1"} <= {item["local"] for item in json.loads(
            run("ip", "-j", "addr", "show", "theirs"))[0]["addr_info"]}
        await network.remove_networks([made.id])
        shown = run("ip", "addr", "show", "theirs")
        assert "10.5.5.1" in shown and "10.6.6.1" not in shown
    finally:
        run("ip", "link", "delete", "theirs")


async def test_networks_do_not_reach_each_other_and_internal_ones_nothing_else(network: Network, servers: Servers
                                                                               ) -> None:
    a = await network.create_network(spec("a", 1))
    b = await network.create_network(spec("b", 2))
    closed = await network.create_network(spec("closed", 3, internal=True))
    on_a, on_b, shut = await on(network, 1, to(a)), await on(network, 2, to(b)), await on(network, 3, to(closed))
    peer = await on(network, 4, to(closed))
    assert cut_off(on_a, on_b.endpoints[0].ipv4) and cut_off(on_a, shut.endpoints[0].ipv4)
    assert shut.endpoints[0].gateway == "" and reaches(shut, peer.endpoints[0].ipv4)
    # Even a container that sets routes itself gets nowhere: not to other networks, not to the host's other addresses.
    assert closed.ipv4 is not None and a.ipv4 is not None
    inside(shut, "ip", "route", "add", "default", "via", closed.ipv4.gateway)
    assert cut_off(shut, on_a.endpoints[0].ipv4) and cut_off(shut, a.ipv4.gateway)
    # A published port of another network is no way out either, though the others get in by it.
    served = await on(network, 5, to(b), ports=(publish(80, 8099),))
    servers.start(served, "tcp", 80)
    assert ask("tcp", a.ipv4.gateway, 8099, within=on_a).startswith("hello from")
    with pytest.raises(subprocess.CalledProcessError):
        ask("tcp", closed.ipv4.gateway, 8099, within=shut, timeout=SILENCE)


async def test_ports_of_an_internal_network_are_for_this_host_alone(network: Network, servers: Servers) -> None:
    shut = await network.create_network(spec("shut", internal=True))
    other = await network.create_network(spec("other", 2))
    sandbox = await on(network, 1, to(shut), ports=(publish(80, 8044),))
    servers.start(sandbox, "tcp", 80)
    assert [port.host_ip for port in sandbox.ports] == ["127.0.0.1"]
    assert ask("tcp", "127.0.0.1", 8044).startswith("hello from")
    with pytest.raises(PortsOfInternal):
        await on(network, 2, to(shut), ports=(publish(80, 8045, host_ip="0.0.0.0"),))
    # One that loses its way out is not reached from outside any more: not through the kernel, nor by a relay.
    both = await on(network, 3, to(shut), to(other), ports=(publish(80, 8046),))
    asker = await on(network, 4, to(other))
    servers.start(both, "tcp", 80)
    gateway = asker.endpoints[0].gateway
    assert ask("tcp", gateway, 8046, within=asker).startswith("hello") and ask("tcp", "::1", 8046).startswith("hello")
    await network.disconnect(both.container_id, other.id)
    for source, address in ((asker, gateway), (None, "::1")):
        with pytest.raises(subprocess.CalledProcessError):
            ask("tcp", address, 8046, within=source, timeout=SILENCE)


async def test_icc_off_keeps_neighbours_apart(network: Network) -> None:
    made = await network.create_network(spec("quiet", icc=False))
    one, two = await on(network, 1, to(made)), await on(network, 2, to(made))
    assert cut_off(one, two.endpoints[0].ipv4) and reaches(one, one.endpoints[0].gateway)


async def test_several_networks_connected_and_disconnected_while_it_runs(network: Network, servers: Servers) -> None:
    a = await network.create_network(spec("a", 1))
    b = await network.create_network(spec("b", 2))
    on_a, on_b = await on(network, 1, to(a)), await on(network, 2, to(b))
    both = await on(network, 3, to(a), to(b, gw_priority=7), ports=(publish(80, 8070),))
    servers.start(both, "tcp", 80)
    assert [end.interface for end in both.endpoints] == ["eth0", "eth1"]

    def way_out(sandbox: Sandbox) -> str:
        return str(json.loads(inside(sandbox, "ip", "-j", "route", "show", "default"))[0]["gateway"])

    assert b.ipv4 is not None and a.ipv4 is not None and way_out(both) == b.ipv4.gateway
    assert reaches(both, on_a.endpoints[0].ipv4) and reaches(both, on_b.endpoints[0].ipv4)
    assert ask("tcp", "127.0.0.1", 8070).startswith("hello from") and ask("tcp", "::1", 8070).startswith("hello from")
    with pytest.raises(AlreadyConnected):
        await network.connect(both.container_id, to(a))
    # The network with the way out goes: routes, published ports and relays turn to the other one.
    after = await network.disconnect(both.container_id, b.id)
    assert way_out(after) == a.ipv4.gateway and cut_off(after, on_b.endpoints[0].ipv4)
    assert ask("tcp", "127.0.0.1", 8070).startswith("hello from") and ask("tcp", "::1", 8070).startswith("hello from")
    again = await network.connect(both.container_id, to(b, ipv4=str(ipaddress.ip_network(b.ipv4.subnet)[77])))
    assert again.endpoints[1].interface == "eth1" and way_out(again) == a.ipv4.gateway
    assert reaches(again, on_b.endpoints[0].ipv4) and reaches(on_b, again.endpoints[1].ipv4)
    with pytest.raises(AddressInUse):
        await network.connect(on_a.container_id, to(b, ipv4=again.endpoints[1].ipv4))
    assert "eth1" not in inside(on_a, "ip", "-o", "link")


async def test_ports_of_a_running_container_change(network: Network, servers: Servers) -> None:
    made = await network.create_network(spec("a"))
    sandbox = await on(network, 1, to(made), ports=(publish(80, 8061),))
    servers.start(sandbox, "tcp", 80)
    assert ask("tcp", "127.0.0.1", 8061).startswith("hello from")
    changed = await network.republish(sandbox.container_id, [publish(80, 8062)], sandbox.ports)
    assert ask("tcp", "127.0.0.1", 8062).startswith("hello from") and ask("tcp", "::1", 8062).startswith("hello from")
    assert {port.host_port for port in changed.ports} == {8062}
    with socket.create_server(("127.0.0.1", 8061)), pytest.raises(ConnectionRefusedError):
        socket.create_connection(("::1", 8061))
    # One that is taken leaves everything as it was.
    with socket.create_server(("", 8063)), pytest.raises(Exception, match="address already in use"):
        await network.republish(sandbox.container_id, [publish(80, 8063)], changed.ports)
    assert ask("tcp", "127.0.0.1", 8062).startswith("hello from")
    # The same host port for another container port: taken off and put on in one go.
    servers.start(sandbox, "tcp", 81)
    moved = await network.republish(sandbox.container_id, [publish(81, 8062)], changed.ports)
    assert {port.container_port for port in moved.ports} == {81}
    assert ask("tcp", "127.0.0.1", 8062).startswith("hello from")


async def test_ports_can_obey_the_hosts_input_rules(network: Network, servers: Servers) -> None:
    made = await network.create_network(spec("careful", obey_input=True))
    outsider = await on(network, 2, to(await network.create_network(spec("other", 2))))
    sandbox = await on(network, 1, to(made), ports=(publish(80, 8051),))
    servers.start(sandbox, "tcp", 80)
    gateway = outsider.endpoints[0].gateway
    assert ask("tcp", gateway, 8051, within=outsider).startswith("hello from")
    run("nft", "table inet foreign { chain input { type filter hook input priority 0; tcp dport 8051 drop; }; }")
    try:
        with pytest.raises(subprocess.CalledProcessError):
            ask("tcp", gateway, 8051, within=outsider, timeout=SILENCE)
    finally:
        run("nft", "delete table inet foreign")


async def test_containers_do_not_reach_the_engines_api(tmp_path: Path, servers: Servers) -> None:
    async with engine(tmp_path / "exec", api_ports=(2375,)) as network:
        made = await network.create_network(spec("a"))
        for sandbox in (await on(network, 1, to(made)), await network.setup(request(2))):
            servers.start(None, "tcp", 2376)
            assert ask("tcp", sandbox.endpoints[0].gateway, 2376, within=sandbox).startswith("hello")
            servers.start(None, "tcp", 2375)
            assert ask("tcp", "127.0.0.1", 2375).startswith("hello")
            with pytest.raises(subprocess.CalledProcessError):
                ask("tcp", sandbox.endpoints[0].gateway, 2375, within=sandbox, timeout=SILENCE)
            servers.stop()


async def test_macvlan_interfaces_on_a_link_of_the_host(network: Network) -> None:
    run("ip", "link", "add", "nic0", "type", "veth", "peer", "lan0")
    try:
        set_up("nic0", "lan0")
        run("ip", "addr", "add", "192.0.2.1/24", "dev", "lan0")
        four = Subnet(subnet="192.0.2.0/24", gateway="192.0.2.1", ip_range="192.0.2.64/28")
        made = await network.create_network(spec("lan", driver="macvlan", parent="nic0", ipv4=four))
        one, two = await on(network, 1, to(made)), await on(network, 2, to(made))
        assert reaches(one, "192.0.2.1") and reaches(one, two.endpoints[0].ipv4)
        detail = json.loads(inside(one, "ip", "-d", "-j", "link", "show", "eth0"))[0]["linkinfo"]
        assert detail["info_kind"] == "macvlan" and detail["info_data"]["mode"] == "bridge"
        with pytest.raises(InvalidArgument):
            await on(network, 3, to(made), ports=(publish(80, 8040),))
        both = await network.connect(one.container_id, Attachment(network_id=network.networks()[0].id))
        assert reaches(both, both.endpoints[1].gateway)
        await network.disconnect(one.container_id, made.id)
        await network.teardown(two.container_id)
        await network.remove_networks([made.id])
        assert "nic0" in links()
        with pytest.raises(ParentMissing, match="nosuch0"):
            await network.create_network(spec("lan", 2, driver="macvlan", parent="nosuch0", ipv4=four))
    finally:
        run("ip", "link", "delete", "nic0")


async def test_a_new_engine_takes_over_networks_and_their_containers(tmp_path: Path, servers: Servers) -> None:
    root = tmp_path / "exec"
    network = await Network.open(NetworkSettings(exec_root=str(root)))
    await network.reconcile([])
    made = [await network.create_network(spec(f"n{number}", number, internal=number == 3)) for number in (1, 2, 3)]
    forgotten = await network.create_network(spec("row was never written", 4))
    kept = await on(network, 1, to(made[0]), to(made[1]), ports=(publish(80, 8031),))
    await on(network, 2, to(made[2]))
    servers.start(kept, "tcp", 80)
    await network.close()
    again = await Network.open(NetworkSettings(exec_root=str(root)))
    try:
        await again.reconcile([kept], made)
        assert forgotten.bridge not in links() and all(item.bridge in links() for item in made)
        assert ask("tcp", "127.0.0.1", 8031).startswith("hello from")
        fresh = await on(again, 3, to(made[0]))
        assert fresh.endpoints[0].ipv4 != kept.endpoints[0].ipv4 and reaches(fresh, kept.endpoints[0].ipv4)
        changed = await again.disconnect(kept.container_id, made[0].id)
        assert [end.network_name for end in changed.endpoints] == ["n2"]
        rules = run("nft", "list", "table", "bridge", again.settings.table)
        assert kept.endpoints[1].port in rules and kept.endpoints[0].port not in rules
    finally:
        await again.close(remove=True)


async def test_keepers_keep_nothing_of_whoever_started_the_engine(network: Network) -> None:
    """Else a pipe that the engine was started with would have no end, a lock no release, before the last port goes."""
    reading, writing = os.pipe()
    try:
        os.set_inheritable(writing, True)
        lan = await network.create_network(spec("lan"))
        await on(network, 1, to(lan, "one"), ports=(publish(80),))
    finally:
        os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        assert select.select([pipe], [], [], PATIENCE)[0] and pipe.read() == b""
