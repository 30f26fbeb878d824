"""Links, and a protocol, that not every kernel has, and what is done without ctnetlink and /etc/protocols.

A plain program that test_network_vm.py runs inside the virtual machine.
"""

from __future__ import annotations

import os
import socket
import subprocess

from barque.network.model import Attachment, NetworkSettings, NetworkSpec, PortBinding, Sandbox, SandboxRequest, Subnet
from barque.network.sandboxes import Sandboxes
from barque.sys import netns, rtnetlink
from barque.sys.rtnetlink import Netlink

engine = Sandboxes(NetworkSettings(exec_root="/run/guest", warm=0))
engine.reconcile([], [])
links = Netlink()


def pings(source: Sandbox, target: Sandbox) -> bool:
    """The second try is for a packet that was lost on the way."""
    ping = ["nsenter", f"--net={source.netns_path}", "ping", "-c1"]
    return any(subprocess.run([*ping, wait, target.endpoints[0].ipv4], check=False, capture_output=True, timeout=60)
               .returncode == 0 for wait in ("-W1", "-W30"))


def kind(name: str) -> str:
    link = links.link(name)
    return link.kind if link else ""


def try_network(number: int, kind_of_parent: str, parent: str, **more: str) -> None:
    """Two containers on a network see each other; its parent ``parent`` is there as long as it, and after a restart."""
    spec = engine.create_network(NetworkSpec(**{
        "id": f"{number:02x}" * 32, "name": f"n{number}", "created": "", "parent": parent,
        "ipv4": Subnet(subnet=f"192.0.{number}.0/24")} | more))
    made = [engine.setup(SandboxRequest(container_id=f"{number}{host}".ljust(64, "0"), mode="networks", attachments=(
        Attachment(network_id=spec.id),))) for host in (1, 2)]
    name = parent or "dm-" + spec.id[:12]
    assert pings(*made), name
    engine.reconcile(made, [spec])
    assert kind(name) == kind_of_parent, name
    engine.teardown(sandbox.container_id for sandbox in made)
    engine.remove_networks([spec.id])
    print("good:", spec.driver, name, more, flush=True)


links.request(rtnetlink.new_veth("nic0", mtu=1500, peer="lan0", peer_netns=os.open("/proc/self/ns/net", os.O_RDONLY)))
for end in ("nic0", "lan0"):
    link = links.link(end)
    assert link is not None
    links.request(rtnetlink.set_link(link.index, up=True))
try_network(1, "vlan", "nic0.10", driver="macvlan")
assert kind("nic0.10") == "" and kind("nic0") == "veth", "the VLAN goes with its network, what was there before stays"
try_network(2, "dummy", "", driver="macvlan")
try_network(3, "veth", "nic0", driver="ipvlan", ipvlan_mode="l2")
try_network(4, "veth", "nic0", driver="ipvlan", ipvlan_mode="l3")
bridged = engine.setup(SandboxRequest(container_id="f" * 64, mode="bridge", ports=(
    PortBinding(container_port=80, protocol="sctp", host_port_start=8080),)))
assert bridged.netns_path is not None and [port.protocol for port in bridged.ports] == ["sctp"]
inside = os.open(bridged.netns_path, os.O_RDONLY)
with netns.entered(inside):
    server = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_SCTP)
server.bind(("0.0.0.0", 80))
server.listen()
with socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_SCTP) as client:
    client.settimeout(60)
    client.connect((bridged.endpoints[0].gateway, 8080))
    client.send(b"hello")
    assert server.accept()[0].recv(99) == b"hello"
print("good: SCTP", flush=True)
engine.teardown(["f" * 64])
engine.close(remove=True)
print("all is well", flush=True)
