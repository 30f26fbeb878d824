"""What containers and machines on the wire try; each attack succeeds where the defence is taken away."""

from __future__ import annotations

import ipaddress
import json
import socket
import struct
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import msgspec
import pytest

from barque.network.model import NetworkSettings, NetworkSpec, Sandbox, Subnet
from barque.network.stack import Network
from tests.kernel.network_world import (
    PATIENCE,
    SILENCE,
    Outside,
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

SENDER = """
import socket, sys
s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
s.bind(("eth0", 0))
s.send(bytes.fromhex(sys.argv[1]))
"""
#: Prints whether a frame with the first bytes in it (in hex) came before one with the second.
WATCHER = """
import socket, sys
forged, honest = map(bytes.fromhex, sys.argv[1:])
s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
s.bind(("eth0", 3))
print("ready", flush=True)
seen = False
while honest not in (frame := s.recv(2048)): seen |= forged in frame
print(seen)
"""
#: Prints who sent the first datagram to port 5300, or nothing; looks for it at the end of its input.
LISTENER = """
import socket, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind(("0.0.0.0", 5300))
s.settimeout(float(sys.argv[1]))
print("ready", flush=True)
sys.stdin.read()
try: print(s.recvfrom(99)[1][0])
except TimeoutError: pass
"""
EVERYBODY = "33:33:00:00:00:01"


@pytest.fixture
async def network(tmp_path: Path) -> AsyncIterator[Network]:
    async with engine(tmp_path / "exec", api_ports=(2375,)) as made:
        yield made


def raw(mac: str) -> bytes:
    return bytes.fromhex(mac.replace(":", ""))


def checksum(data: bytes) -> int:
    total = sum(struct.unpack(f">{(len(data) + 1) // 2}H", data + b"\0" * (len(data) % 2)))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def arp(mac: str, sender: str, target: str) -> bytes:
    """A question that says by the way: ``sender`` is at ``mac``."""
    return (b"\xff" * 6 + raw(mac) + bytes.fromhex("08060001080006040001") + raw(mac) + socket.inet_aton(sender)
            + bytes(6) + socket.inet_aton(target))


def datagram(to_mac: str, mac: str, source: str, target: str) -> bytes:
    body = struct.pack(">HHHH", 9, 5300, 8 + 2, 0) + b"hi"
    header = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(body), 1, 0, 64, 17, 0)
    addresses = socket.inet_aton(source) + socket.inet_aton(target)
    return (raw(to_mac) + raw(mac) + b"\x08\0" + header[:10] + struct.pack(">H", checksum(header + addresses))
            + addresses + body)


def icmp6(to_mac: str, mac: str, source: str, target: str, body: bytes) -> bytes:
    addresses = ipaddress.IPv6Address(source).packed + ipaddress.IPv6Address(target).packed
    total = checksum(addresses + struct.pack(">II", len(body), 58) + body)
    body = body[:2] + struct.pack(">H", total) + body[4:]
    header = struct.pack(">IHBB", 0x60000000, len(body), 58, 255)
    return raw(to_mac) + raw(mac) + b"\x86\xdd" + header + addresses + body


def send(source: Sandbox, frame: bytes) -> None:
    inside(source, sys.executable, "-I", "-c", SENDER, frame.hex())


def heard(by: Sandbox, source: Sandbox, frame: bytes, patience: float) -> str:
    """Send a frame, return who a listener says that it came from."""
    with subprocess.Popen(["nsenter", f"--net={by.netns_path}", sys.executable, "-I", "-c", LISTENER, str(patience)],
                          text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as listener:
        assert listener.stdout is not None and listener.stdout.readline() == "ready\n"
        send(source, frame)
        return listener.communicate(timeout=2 * PATIENCE)[0].strip()


def first_seen(by: Sandbox, source: Sandbox, frames: tuple[bytes, bytes], first: bytes, second: bytes) -> bool:
    """Send two frames in turn; whether one with ``first`` in it arrives before one with ``second``."""
    with subprocess.Popen(["nsenter", f"--net={by.netns_path}", sys.executable, "-I", "-c", WATCHER, first.hex(),
                           second.hex()], text=True, stdout=subprocess.PIPE) as watcher:
        try:
            assert watcher.stdout is not None and watcher.stdout.readline() == "ready\n"
            for frame in frames:
                send(source, frame)
            return watcher.communicate(timeout=PATIENCE)[0] == "True\n"
        finally:
            watcher.kill()


@contextmanager
def subprocess_in(sandbox: Sandbox) -> Iterator[Sandbox]:
    """A process that keeps the network namespace of ``sandbox`` alive; yields it under a path that stays."""
    command = ["nsenter", f"--net={sandbox.netns_path}", "sh", "-c", "echo ready; exec sleep 1000"]
    with subprocess.Popen(command, text=True, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        try:
            yield msgspec.structs.replace(sandbox, netns_path=f"/proc/{process.pid}/ns/net")
        finally:
            process.kill()


def neighbour(of: Sandbox, address: str) -> str:
    return next((item.get("lladdr", "") for item in json.loads(inside(of, "ip", "-j", "neigh"))
                 if item["dst"] == address), "")


@pytest.fixture(params=[False, True], ids=["guarded", "trusted"])
async def place(network: Network, request: pytest.FixtureRequest) -> tuple[NetworkSpec, list[Sandbox], bool]:
    """A dual-stack network with three containers on it, and whether it has no defence against forged addresses."""
    made = await network.create_network(spec("web", enable_ipv6=True, trusted=request.param))
    return made, [await on(network, number, to(made)) for number in (1, 2, 3)], request.param


Place = tuple[NetworkSpec, list[Sandbox], bool]


def succeeds(place: Place, frame: bytes, effect: Callable[[], bool]) -> bool:
    """Whether the first container's ``frame`` has its ``effect`` on the third, in one of a few tries."""
    _, (attacker, _, witness), _ = place
    for _ in range(3):
        send(attacker, frame)
        # Whatever it believes, it has dealt with the frame when the next one is answered.
        assert reaches(attacker, witness.endpoints[0].ipv4)
        if effect():
            return True
    return False


async def test_arp_in_the_name_of_a_neighbour_or_of_the_gateway(place: Place) -> None:
    made, (attacker, victim, witness), undefended = place
    own, seen = attacker.endpoints[0], witness.endpoints[0]
    assert made.ipv4 is not None
    # Else a second answer within a second is not heeded, be it forged or not.
    inside(witness, "sh", "-c", "echo 0 >/proc/sys/net/ipv4/neigh/eth0/locktime")
    for name, mac in ((victim.endpoints[0].ipv4, victim.endpoints[0].mac), (made.ipv4.gateway, "")):
        assert reaches(witness, name)
        honest = mac or neighbour(witness, name)
        believed = partial(lambda name: neighbour(witness, name) == own.mac, name)
        assert succeeds(place, arp(own.mac, name, seen.ipv4), believed) == undefended
        assert undefended or neighbour(witness, name) == honest


async def test_ip_packets_from_the_address_of_another(place: Place) -> None:
    _, (attacker, victim, witness), undefended = place
    own, forged, seen = attacker.endpoints[0], victim.endpoints[0], witness.endpoints[0]
    for mac, source, arrives in ((own.mac, own.ipv4, True), (own.mac, forged.ipv4, undefended),
                                 (forged.mac, forged.ipv4, undefended)):
        frame = datagram(seen.mac, mac, source, seen.ipv4)
        assert heard(witness, attacker, frame, PATIENCE if arrives else SILENCE) == (source if arrives else "")


@pytest.mark.parametrize("tag", ["81000005", "88a80005", "8100000081000005"])
async def test_what_a_vlan_tag_hides(place: Place, tag: str) -> None:
    """No rule about addresses looks behind a tag, but whoever has a VLAN interface does."""
    _, (attacker, victim, witness), undefended = place
    ends = witness.endpoints[0].mac, attacker.endpoints[0].mac
    forged, honest = (datagram(*ends, of.endpoints[0].ipv4, witness.endpoints[0].ipv4) for of in (victim, attacker))
    assert reaches(attacker, witness.endpoints[0].ipv4)
    frames = (forged[:12] + bytes.fromhex(tag) + forged[12:], honest)
    # Told apart by their two addresses: what comes behind a datagram may be cut off on the way.
    assert first_seen(witness, attacker, frames, forged[26:34], honest[26:34]) == undefended


async def test_ipv6_neighbours_and_routers_that_are_none(place: Place) -> None:
    made, (attacker, victim, witness), undefended = place
    own, forged, seen = attacker.endpoints[0], victim.endpoints[0], witness.endpoints[0]
    assert forged.ipv6 and seen.ipv6 and own.ipv6 and reaches(witness, forged.ipv6)
    override = struct.pack(">BBHI", 136, 0, 0, 0x20000000) + ipaddress.IPv6Address(forged.ipv6).packed \
        + b"\x02\x01" + raw(own.mac)
    assert succeeds(place, icmp6(seen.mac, own.mac, own.ipv6, seen.ipv6, override),
                    lambda: neighbour(witness, str(forged.ipv6)) == own.mac) == undefended
    spare = str(ipaddress.IPv6Address(int(ipaddress.IPv6Address(seen.ipv6)) + 0x999))
    inside(attacker, "ip", "-6", "addr", "add", spare + "/64", "dev", "eth0", "nodad")
    inside(attacker, "ip", "-6", "route", "add", "fd00:99::/64", "dev", "eth0", "src", spare)
    inside(witness, "ip", "-6", "addr", "add", "fd00:99::1/64", "dev", "eth0", "nodad")
    assert (reaches if undefended else cut_off)(attacker, "fd00:99::1")
    inside(attacker, "ip", "-6", "addr", "del", spare + "/64", "dev", "eth0")
    # A router advertisement to all: to a container that would listen, and to the host, which does not in any case.
    inside(witness, "sh", "-c", "echo 2 >/proc/sys/net/ipv6/conf/eth0/accept_ra")
    shown = json.loads(inside(attacker, "ip", "-6", "-j", "addr", "show", "eth0"))[0]["addr_info"]
    local = next(item["local"] for item in shown if item["scope"] == "link")
    router = struct.pack(">BBHBBHII", 134, 0, 0, 64, 0, 1800, 0, 0)
    assert succeeds(place, icmp6(EVERYBODY, own.mac, local, "ff02::1", router),
                    lambda: local in inside(witness, "ip", "-6", "route", "show", "default")) == undefended
    assert "proto ra" not in run("ip", "-6", "route", "show", "dev", made.bridge)


async def test_what_is_left_of_a_container_has_no_way_out(network: Network) -> None:
    """Another container may share its namespace and live on, with addresses that belong to somebody else by then."""
    made = await network.create_network(spec("web", ipv4=Subnet(subnet="10.9.9.0/24")))
    first, witness = await on(network, 1, to(made, ipv4="10.9.9.77")), await on(network, 2, to(made))
    with subprocess_in(first) as rest:
        assert reaches(rest, witness.endpoints[0].ipv4)
        await network.teardown(first.container_id)
        assert cut_off(rest, witness.endpoints[0].ipv4)
        second = await on(network, 3, to(made, ipv4="10.9.9.77"))
        # The same MAC follows from the same address: what is left must not draw the frames to itself either.
        inside(rest, "ping", "-c1", "-W0.2", witness.endpoints[0].ipv4, check=False)
        assert reaches(witness, "10.9.9.77") and reaches(second, witness.endpoints[0].ipv4)


async def test_interfaces_go_although_a_namespace_stays(tmp_path: Path) -> None:
    network = await Network.open(NetworkSettings(exec_root=str(tmp_path / "exec")))
    await network.reconcile([])
    sandbox = await network.setup(request(1))
    with subprocess_in(sandbox) as rest:
        await network.teardown(sandbox.container_id)
        await network.close(remove=True)
        assert sandbox.endpoints[0].port not in links()
        assert "eth0" not in inside(rest, "ip", "-o", "link")


async def test_what_is_left_of_a_container_on_a_macvlan_has_no_way_out(network: Network) -> None:
    run("ip", "link", "add", "nic0", "type", "veth", "peer", "lan0")
    try:
        set_up("nic0", "lan0")
        lan = await network.create_network(spec("lan", driver="macvlan", parent="nic0"))
        first, witness = await on(network, 1, to(lan)), await on(network, 2, to(lan))
        with subprocess_in(first) as rest:
            assert reaches(rest, witness.endpoints[0].ipv4)
            await network.teardown(first.container_id)
            assert cut_off(rest, witness.endpoints[0].ipv4)
    finally:
        run("ip", "link", "delete", "nic0")


async def test_another_networks_container_directly_at_its_published_port(network: Network, servers: Servers) -> None:
    a, b = await network.create_network(spec("a")), await network.create_network(spec("b", 2))
    attacker, served = await on(network, 1, to(a)), await on(network, 2, to(b), ports=(publish(80, 8077),))
    servers.start(served, "tcp", 80)
    assert ask("tcp", attacker.endpoints[0].gateway, 8077, within=attacker).startswith("hello")
    with pytest.raises(subprocess.CalledProcessError):
        ask("tcp", served.endpoints[0].ipv4, 80, within=attacker, timeout=SILENCE)
    run("nft", "flush", "chain", "inet", network.settings.table, "forward")
    assert ask("tcp", served.endpoints[0].ipv4, 80, within=attacker).startswith("hello"), "the attack itself must work"


async def test_the_engines_api_by_the_gateway(network: Network, servers: Servers) -> None:
    made = await network.create_network(spec("a", enable_ipv6=True))
    attacker = await on(network, 1, to(made))
    end = attacker.endpoints[0]
    servers.start(None, "tcp", 2375)
    with pytest.raises(subprocess.CalledProcessError):
        ask("tcp", end.gateway, 2375, within=attacker, timeout=SILENCE)
    run("nft", "flush", "chain", "inet", network.settings.table, "input")
    assert ask("tcp", end.gateway, 2375, within=attacker).startswith("hello"), "the attack itself must work"
    servers.stop()
    await network.reconcile([attacker], [item.spec for item in network.networks() if item.spec is not None])
    servers.start(None, "tcp6", 2375)
    link_local = next(item["local"] for link in json.loads(run("ip", "-j", "-6", "addr", "show", "dev", made.bridge))
                      for item in link.get("addr_info", ()) if item.get("scope") == "link")
    doors = (str(end.ipv6_gateway), link_local + "%eth0")
    for door in doors:
        assert reaches(attacker, door)
        with pytest.raises(subprocess.CalledProcessError):
            ask("tcp", door, 2375, within=attacker, timeout=SILENCE)
    run("nft", "flush", "chain", "inet", network.settings.table, "input")
    for door in doors:
        assert ask("tcp", door, 2375, within=attacker).startswith("hello"), "the attack itself must work"


async def test_ports_of_this_host_alone_are_not_reached_from_the_wire(network: Network, servers: Servers) -> None:
    """Whoever is on the same wire sends a frame for 127.0.0.1: translated before it is looked at, it would get in."""
    served = await on(network, 1, to(await network.create_network(spec("a"))),
                      ports=(publish(80, 8078, host_ip="127.0.0.1"),))
    servers.start(served, "tcp", 80)
    machine = Outside(3)
    try:
        stranger = machine.as_sandbox()
        inside(stranger, "sh", "-c", "echo 1 >/proc/sys/net/ipv4/conf/all/route_localnet; "
               "ip rule add pref 1 to 127.0.0.1 lookup main; ip rule add pref 2 lookup local; ip rule del pref 0; "
               f"ip route add 127.0.0.1/32 via {machine.host} src {machine.address}")
        assert ask("tcp", "127.0.0.1", 8078).startswith("hello")
        with pytest.raises(subprocess.CalledProcessError):
            ask("tcp", "127.0.0.1", 8078, within=stranger, timeout=SILENCE)
        table = network.settings.table
        first = next(item["rule"] for item in json.loads(run("nft", "-j", "list", "chain", "inet", table, "prerouting"))
                     ["nftables"] if "rule" in item)
        run("nft", "delete", "rule", "inet", table, "prerouting", "handle", str(first["handle"]))
        assert ask("tcp", "127.0.0.1", 8078, within=stranger).startswith("hello"), "the attack itself must work"
    finally:
        machine.close()
