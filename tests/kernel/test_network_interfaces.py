"""Interfaces of containers beyond the ordinary: IPv6 alone, names and settings of their own, links for macvlan."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import threading
from pathlib import Path

import pytest

from barque.errors import InvalidArgument
from barque.network.errors import (
    AddressInUse,
    DriverUnsupported,
    InterfaceTaken,
    ParentMissing,
    ParentTaken,
    PortFailure,
)
from barque.network.model import NetworkSettings, NetworkSpec, Subnet
from barque.network.stack import Network
from barque.sys import netns
from tests.kernel.network_world import (
    Servers,
    ask,
    cut_off,
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

_ETH_P_ALL, _ETHERNET_HEADER, _SO_RCVBUFFORCE = 3, 14, 33
_BULK = 4 << 20


def addresses(sandbox: object, interface: str) -> set[str]:
    shown = json.loads(inside(sandbox, "ip", "-j", "addr", "show", interface))[0]["addr_info"]
    return {f"{item['local']}/{item['prefixlen']} {item['scope']}" for item in shown}


async def test_a_network_of_ipv6_alone(network: Network, servers: Servers) -> None:
    made = await network.create_network(spec("six", enable_ipv4=False, enable_ipv6=True))
    assert made.ipv4 is None and made.ipv6 is not None
    one, two = await on(network, 1, to(made), ports=(publish(80, 8066),)), await on(network, 2, to(made))
    end = one.endpoints[0]
    assert end.ipv4 == "" and end.gateway == "" and end.ipv6 and end.ipv6_gateway == made.ipv6.gateway
    assert inside(one, "ip", "-4", "addr", "show", "eth0") == "" and inside(one, "ip", "-4", "route") == ""
    assert end.mac != two.endpoints[0].mac and reaches(two, end.ipv6)
    servers.start(one, "tcp6", 80)
    # The kernel translates IPv6; what comes by IPv4, or for ::1, is relayed.
    for address in ("127.0.0.1", "::1", made.ipv6.gateway):
        assert ask("tcp", address, 8066).startswith("hello from fd"), address
    with pytest.raises(InvalidArgument, match="SCTP"):
        await on(network, 3, to(made), ports=(publish(80, 8067, "sctp"),))
    # IPv4 comes and goes with another network, and the published port's path with it.
    four = await network.create_network(spec("four", 2))
    both = await network.connect(one.container_id, to(four))
    assert both.endpoints[1].ipv4 and "default" in inside(both, "ip", "-4", "route")
    await network.disconnect(one.container_id, four.id)
    assert "default" not in inside(both, "ip", "-4", "route")


async def test_a_new_engine_takes_ipv6_alone_over(tmp_path: Path) -> None:
    settings = NetworkSettings(exec_root=str(tmp_path))
    first = await Network.open(settings)
    await first.reconcile([])
    made = await first.create_network(spec("six", enable_ipv4=False, enable_ipv6=True))
    kept = await on(first, 1, to(made))
    await first.close()
    again = await Network.open(settings)
    try:
        await again.reconcile([kept], [made])
        fresh = await on(again, 2, to(made))
        assert fresh.endpoints[0].ipv6 != kept.endpoints[0].ipv6 and reaches(fresh, kept.endpoints[0].ipv6 or "")
    finally:
        await again.close(remove=True)


async def test_names_and_settings_of_interfaces(network: Network) -> None:
    made, other = await network.create_network(spec("a")), await network.create_network(spec("b", 2))
    setting = {"net.ipv4.conf.IFNAME.log_martians": "1", "net.ipv6.conf.ifname.dad_transmits": "7"}
    # The first is made ahead as eth0 and renamed; the second must not take the name that was asked for.
    one = await on(network, 1, to(made, interface="lan0", sysctls=setting), to(other, interface="eth0"))
    assert [end.interface for end in one.endpoints] == ["lan0", "eth0"]
    assert json.loads(inside(one, "ip", "-j", "route", "show", "default"))[0]["dev"] == "lan0"
    for key in ("ipv4/conf/lan0/log_martians", "ipv6/conf/lan0/dad_transmits"):
        assert inside(one, "cat", f"/proc/sys/net/{key}").strip() == ("1" if "log" in key else "7")
    assert inside(one, "cat", "/proc/sys/net/ipv4/conf/eth0/log_martians").strip() == "0"
    with pytest.raises(InterfaceTaken, match="lan0"):
        await on(network, 2, to(made, interface="lan0"), to(other, interface="lan0"))
    mixed = await on(network, 2, to(made), to(other, interface="eth0"))
    assert [end.interface for end in mixed.endpoints] == ["eth1", "eth0"]
    with pytest.raises(InterfaceTaken):
        await network.connect((await on(network, 3, to(made))).container_id, to(other, interface="eth0"))
    before = links()
    with pytest.raises(InvalidArgument, match=r"cannot set sysctl net\.ipv4\.conf\.IFNAME\.nonsense to '1': No such"):
        await on(network, 4, to(made, sysctls={"net.ipv4.conf.IFNAME.nonsense": "1"}))
    assert {name for name in links() - before if not name.startswith("veth")} == set()


async def test_link_local_addresses(network: Network) -> None:
    made = await network.create_network(spec("a"))
    asked = ("169.254.7.8", "fe80::7:8")
    one = await on(network, 1, to(made, link_local=asked))
    two = await on(network, 2, to(made, link_local=("169.254.7.9",)))
    assert {"169.254.7.8/16 link", "fe80::7:8/64 link"} <= addresses(one, "eth0")
    assert reaches(two, "169.254.7.8") and one.endpoints[0].link_local == asked
    with pytest.raises(AddressInUse):
        await on(network, 3, to(made, link_local=("169.254.7.8",)))
    await network.teardown(one.container_id)
    assert (await on(network, 3, to(made, link_local=("169.254.7.8",)))).endpoints[0].link_local


async def test_a_port_of_a_protocol_that_the_kernel_lacks(network: Network) -> None:
    try:
        socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_SCTP).close()
    except OSError:
        with pytest.raises(PortFailure, match="8067/sctp: protocol not supported"):
            await network.setup(request(1, ports=(publish(80, 8067, "sctp"),)))
        return
    sandbox = await network.setup(request(1, ports=(publish(80, 8067, "sctp"),)))
    assert [(port.host_ip, port.host_port) for port in sandbox.ports] == [("0.0.0.0", 8067)]


async def test_parents_of_macvlan(network: Network) -> None:
    run("ip", "link", "add", "nic0", "type", "veth", "peer", "lan0")
    try:
        four = Subnet(subnet="192.0.2.0/24")
        made = await network.create_network(spec("lan", driver="macvlan", parent="nic0", ipv4=four))
        with pytest.raises(ParentTaken, match="network lan is already using parent interface nic0"):
            await network.create_network(spec("lan2", 2, driver="macvlan", parent="nic0"))
        for parent, text in (("nosuch0.7", "nosuch0.7"), ("nic0.4095", "between 1 and 4094"), ("nic0.x", "4094")):
            with pytest.raises(ParentMissing, match=text):
                await network.create_network(spec("lan2", 2, driver="macvlan", parent=parent))
        await network.remove_networks([made.id])
        assert "nic0" in links()
    finally:
        run("ip", "link", "delete", "nic0")


def kernel_has(kind: str, *words: str) -> bool:
    run("ip", "link", "add", "probe0", "type", "bridge")
    try:
        command = ["ip", "link", "add", "link", "probe0", "name", "probe1", "type", kind, *words]
        return subprocess.run(command, check=False, capture_output=True).returncode == 0
    finally:
        run("ip", "link", "delete", "probe0")


async def test_macvlan_without_a_parent_is_an_island_or_refused_by_name(network: Network) -> None:
    if not kernel_has("dummy"):
        with pytest.raises(DriverUnsupported, match="has no dummy interfaces, and no parent is given"):
            await network.create_network(spec("island", driver="macvlan"))
        return
    run("ip", "link", "delete", "probe1")
    made = await network.create_network(spec("island", driver="macvlan"))
    name = "dm-" + made.id[:12]
    assert name in links()
    one, two = await on(network, 1, to(made)), await on(network, 2, to(made))
    assert made.ipv4 is not None and reaches(one, two.endpoints[0].ipv4) and cut_off(one, made.ipv4.gateway)
    await network.reconcile([one, two], [made])
    assert name in links()
    for sandbox in (one, two):
        await network.teardown(sandbox.container_id)
    await network.remove_networks([made.id])
    assert name not in links()


async def test_vlan_of_a_parent_is_made_and_removed_or_refused_by_name(network: Network) -> None:
    run("ip", "link", "add", "nic0", "type", "veth", "peer", "lan0")
    vlan: NetworkSpec = spec("tagged", driver="macvlan", parent="nic0.10", ipv4=Subnet(subnet="192.0.2.0/24"))
    try:
        if not kernel_has("vlan", "id", "7"):
            with pytest.raises(DriverUnsupported, match=r"no link nic0\.10.*no VLAN interfaces \(module 8021q\)"):
                await network.create_network(vlan)
            return
        set_up("nic0", "lan0")
        made = await network.create_network(vlan)
        detail = json.loads(run("ip", "-d", "-j", "link", "show", "nic0.10"))[0]
        assert detail["link"] == "nic0" and detail["linkinfo"]["info_data"]["id"] == 10 and "UP" in detail["flags"]
        one, two = await on(network, 1, to(made)), await on(network, 2, to(made))
        assert reaches(one, two.endpoints[0].ipv4)
        await network.reconcile([one, two], [made])
        assert "nic0.10" in links()
        for sandbox in (one, two):
            await network.teardown(sandbox.container_id)
        await network.remove_networks([made.id])
        assert "nic0.10" not in links() and "nic0" in links()
        run("ip", "link", "add", "link", "nic0", "name", "nic0.10", "type", "vlan", "id", "10")
        theirs = await network.create_network(vlan)
        await network.remove_networks([theirs.id])
        assert "nic0.10" in links(), "it was there before"
    finally:
        run("ip", "link", "delete", "nic0")


@pytest.mark.parametrize("mode", ["l2", "l3"])
async def test_ipvlan_where_the_kernel_has_it(network: Network, mode: str) -> None:
    run("ip", "link", "add", "nic0", "type", "veth", "peer", "lan0")
    wanted: NetworkSpec = spec("lan", driver="ipvlan", parent="nic0", ipvlan_mode=mode,
                               ipv4=Subnet(subnet="192.0.2.0/24"))
    try:
        if not kernel_has("ipvlan"):
            with pytest.raises(DriverUnsupported, match="ipvlan driver cannot be used: this kernel has no ipvlan"):
                await network.create_network(wanted)
            return
        set_up("nic0", "lan0")
        made = await network.create_network(wanted)
        one, two = await on(network, 1, to(made)), await on(network, 2, to(made))
        assert reaches(one, two.endpoints[0].ipv4)
        detail = json.loads(inside(one, "ip", "-d", "-j", "link", "show", "eth0"))[0]
        assert detail["linkinfo"]["info_kind"] == "ipvlan" and detail["linkinfo"]["info_data"]["mode"] == mode
        way = json.loads(inside(one, "ip", "-j", "route", "show", "default"))[0]
        assert ("gateway" in way) == (mode == "l2") and way["dev"] == "eth0"
        with pytest.raises(InvalidArgument, match="custom mac address"):
            await network.setup(request(3, "networks", attachments=(to(made, mac="02:00:00:00:00:09"),)))
    finally:
        run("ip", "link", "delete", "nic0")


async def test_bulk_data_by_the_hosts_own_address_is_neither_copied_nor_cut_up(network: Network) -> None:
    """Both ways TCP's own large pieces cross bridge and veth whole, and it is the client's own connection that arrives:
    what makes the published port as fast as the container's address."""
    sandbox = await network.setup(request(ports=(publish(80, 8080),)))
    end = sandbox.endpoints[0]
    assert sandbox.netns_path is not None
    pinned = os.open(sandbox.netns_path, os.O_RDONLY)
    try:
        with netns.entered(pinned):
            listener = socket.create_server((end.ipv4, 80))
            frames = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETH_P_ALL))
            frames.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, 8 * _BULK)
    finally:
        os.close(pinned)
    with listener, frames, socket.create_connection((end.gateway, 8080), timeout=60) as client:
        served, peer = listener.accept()
        with served:
            assert peer == client.getsockname()
            for source, target, outgoing in ((client, served, False), (served, client, True)):
                _move(source, target)
                longest = max(size for size, leaves in _captured(frames) if leaves == outgoing)
                assert longest > 1500 + _ETHERNET_HEADER, f"outgoing: {outgoing}"


def _move(source: socket.socket, target: socket.socket) -> None:
    sender = threading.Thread(target=source.sendall, args=[bytes(_BULK)])
    sender.start()
    missing = _BULK
    while missing:
        missing -= len(target.recv(missing))
    sender.join()


def _captured(frames: socket.socket) -> list[tuple[int, bool]]:
    """Length of each frame since the last call, and whether it left the namespace."""
    found = []
    try:
        while True:
            frame, address = frames.recvfrom(1 << 17, socket.MSG_DONTWAIT)
            found.append((len(frame), address[2] == socket.PACKET_OUTGOING))
    except BlockingIOError:
        return found
