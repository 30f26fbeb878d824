"""One bridge network on this host: its link, addresses and kernel settings, and the veths that hang on it."""

from __future__ import annotations

import ipaddress
import os
import secrets
from collections.abc import Iterable

from barque.network.errors import PoolOverlaps
from barque.network.firewall import FirewalledNetwork
from barque.network.ipam import Addresses, choose_subnet, mac_for
from barque.network.model import AddressPool
from barque.sys import rtnetlink
from barque.sys.rtnetlink import Link, Netlink

_MAIN_TABLE = 254
_DEFAULT_MTU = 1500


class Bridge:
    """A bridge that exists in the kernel, and the addresses of its subnet."""

    def __init__(self, name: str, network_id: str, link: Link, addresses: Addresses, *, mtu: int, icc: bool,
                 masquerade: bool) -> None:
        self.network_name = name
        self.network_id = network_id
        self.link = link
        self.addresses = addresses
        self.mtu = mtu
        self.rules = FirewalledNetwork(link.name, addresses.subnet, icc=icc, masquerade=masquerade)


def ensure_link(netlink: Netlink, name: str, gateway: ipaddress.IPv4Interface, mtu: int) -> Link:
    """The bridge ``name``, up, with ``gateway`` as its only IPv4 address: made, or put right if it is there."""
    link = netlink.link(name)
    made = link is None
    if link is None:
        netlink.request(rtnetlink.new_bridge(name, mac_for(gateway.ip), mtu))
        link = netlink.link(name)
        assert link is not None
    elif link.kind != "bridge":
        raise FileExistsError(17, f"there is a link {name} on this host which is no bridge")
    try:
        _kernel_settings(name)
        present = {(address.address, address.prefix_len) for address in netlink.addresses()
                   if address.index == link.index and address.address.version == 4}
        wanted = (gateway.ip, gateway.network.prefixlen)
        netlink.request(*(rtnetlink.delete_address(link.index, *other) for other in present - {wanted}),
                        *([] if wanted in present else [rtnetlink.add_address(link.index, *wanted)]),
                        rtnetlink.set_link(link.index, up=True, mtu=mtu, mac=mac_for(gateway.ip)))
    except OSError:
        if made:
            netlink.request(rtnetlink.delete_link(link.index))
        raise
    return link


def _kernel_settings(name: str) -> None:
    """What the host's stack must and must not do on a bridge of containers with IPv4.

    route_localnet lets answers to connections of 127.0.0.1 come back in (the firewall guards it). With IPv6 off, no
    container can talk the host into a new IPv6 router (CVE-2020-13401); a kernel without IPv6 needs no telling.
    """
    write_sysctl(f"net/ipv4/conf/{name}/route_localnet", "1")
    if os.path.exists(f"/proc/sys/net/ipv6/conf/{name}"):
        write_sysctl(f"net/ipv6/conf/{name}/accept_ra", "0")
        write_sysctl(f"net/ipv6/conf/{name}/disable_ipv6", "1")


def write_sysctl(path: str, value: str) -> None:
    """Write ``/proc/sys/{path}`` of the calling thread's network namespace."""
    fd = os.open(f"/proc/sys/{path}", os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, value.encode())
    finally:
        os.close(fd)


def check_free(netlink: Netlink, name: str, wanted: ipaddress.IPv4Interface) -> None:
    """Raises PoolOverlaps, naming the clash, if a route of this host, not through bridge ``name``, leads there."""
    link = netlink.link(name)
    for other in host_networks(netlink, link.index if link is not None else -1):
        if other.prefixlen >= 8 and other.overlaps(wanted.network):
            raise PoolOverlaps(subnet=wanted.network, other=other)


def choose_gateway(netlink: Netlink, name: str, pools: Iterable[AddressPool]) -> ipaddress.IPv4Interface:
    """The address of bridge ``name``: the one that it has already, else the first of a free subnet of ``pools``."""
    link = netlink.link(name)
    if link is not None:
        for address in netlink.addresses():
            if address.index == link.index and isinstance(address.address, ipaddress.IPv4Address):
                return ipaddress.IPv4Interface((address.address, address.prefix_len))
    subnet = choose_subnet(pools, host_networks(netlink, -1 if link is None else link.index))
    return ipaddress.IPv4Interface((subnet.network_address + 1, subnet.prefixlen))


def host_networks(netlink: Netlink, without: int) -> list[ipaddress.IPv4Network]:
    """Where this host's routes lead, in all tables (VPNs have their own), except through link ``without``."""
    return [route.destination for route in netlink.routes(4)
            if route.index != without and isinstance(route.destination, ipaddress.IPv4Network)
            and route.destination.prefixlen > 0]


def default_mtu(netlink: Netlink) -> int:
    """The MTU of the link that the default route leaves by, else 1500."""
    for route in netlink.routes(4):
        if route.destination.prefixlen == 0 and route.table == _MAIN_TABLE:
            return next((link.mtu for link in netlink.links() if link.index == route.index), _DEFAULT_MTU)
    return _DEFAULT_MTU


def new_veth_name() -> str:
    """A name for the host's end of a veth; dockerd's own prefix, so that network managers leave it alone."""
    return "veth" + secrets.token_hex(4)
