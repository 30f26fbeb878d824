"""Networks as they stand in the kernel: a bridge, or a link that macvlan interfaces hang on; with their addresses."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import secrets
from collections.abc import Iterable
from dataclasses import dataclass

from barque.network.errors import AddressOutside, LinkTaken
from barque.network.firewall import FirewalledNetwork
from barque.network.ipam import Addresses, IPAddress, IPNetwork, Taken, choose_subnet, mac_for, subnets
from barque.network.model import AddressPool, Attachment, Endpoint
from barque.sys import rtnetlink
from barque.sys.rtnetlink import Link, Netlink

_MAIN_TABLE = 254
_DEFAULT_MTU = 1500
IPInterface = ipaddress.IPv4Interface | ipaddress.IPv6Interface


@dataclass(kw_only=True)
class KernelNetwork:
    """What all networks have in common. ``link`` is the bridge, or the parent of macvlan interfaces.

    ``embedded_dns``: names of its containers are looked up by the engine. ``owned``: the link goes with the network.
    """

    name: str
    id: str
    driver: str
    link: Link
    addresses: Addresses
    addresses6: Addresses | None = None
    mtu: int
    icc: bool = True
    masquerade: bool = True
    internal: bool = False
    trusted: bool = False
    owned: bool = True
    embedded_dns: bool = True
    macvlan_mode: str = ""
    publish_ip: str | None = None
    obey_input: bool = False

    @property
    def rules(self) -> FirewalledNetwork | None:
        """For the firewall; macvlan interfaces do not come by it."""
        if self.driver != "bridge":
            return None
        subnet, subnet6 = self.addresses.subnet, self.addresses6.subnet if self.addresses6 else None
        assert isinstance(subnet, ipaddress.IPv4Network) and not isinstance(subnet6, ipaddress.IPv4Network)
        return FirewalledNetwork(self.link.name, subnet, subnet6, icc=self.icc, masquerade=self.masquerade,
                                 internal=self.internal)

    def take(self, attachment: Attachment, undo: contextlib.ExitStack) -> tuple[IPAddress, IPAddress | None]:
        """Addresses for a container: those that are asked for, else free ones. Raises what Addresses raises."""
        four = _take(self.addresses, attachment.ipv4, undo)
        if self.addresses6 is None:
            if attachment.ipv6:
                raise AddressOutside(address=attachment.ipv6)
            return four, None
        return four, _take(self.addresses6, attachment.ipv6, undo)

    def reclaim(self, endpoint: Endpoint) -> None:
        """Note that ``endpoint`` has its addresses. Raises what Addresses raises."""
        self.addresses.claim(ipaddress.ip_address(endpoint.ipv4))
        if endpoint.ipv6 and self.addresses6 is not None:
            self.addresses6.claim(ipaddress.ip_address(endpoint.ipv6))

    def give_back(self, endpoint: Endpoint) -> None:
        self.addresses.release(ipaddress.ip_address(endpoint.ipv4))
        if endpoint.ipv6 and self.addresses6 is not None:
            self.addresses6.release(ipaddress.ip_address(endpoint.ipv6))

    def gateways(self) -> tuple[str, str | None]:
        """What containers have as their gateways: nothing on a network without a way out."""
        four = "" if self.internal or self.addresses.gateway is None else str(self.addresses.gateway)
        six = self.addresses6.gateway if self.addresses6 is not None and not self.internal else None
        return four, str(six) if six else None


def _take(addresses: Addresses, asked: str | None, undo: contextlib.ExitStack) -> IPAddress:
    address = addresses.claim(ipaddress.ip_address(asked)) if asked else addresses.allocate()
    undo.callback(addresses.release, address)
    return address


def ensure_link(netlink: Netlink, name: str, gateways: Iterable[IPInterface], mtu: int, alias: str) -> Link:
    """The bridge ``name``, up, with ``gateways``: made, or put right if it is there.

    A bridge that carries our ``alias`` has no other addresses afterwards; one that somebody else made keeps what it
    has. Raises LinkTaken for a link that is no bridge.
    """
    wanted = {(gateway.ip, gateway.network.prefixlen) for gateway in gateways}
    mac = mac_for(min(wanted, key=lambda pair: pair[0].version)[0])
    link = netlink.link(name)
    made = link is None
    if link is None:
        netlink.request(rtnetlink.new_bridge(name, mac, mtu), rtnetlink.set_alias(name, alias))
        link = netlink.link(name)
        assert link is not None
    elif link.kind != "bridge":
        raise LinkTaken(name=alias, link=name, reason="it is no bridge")
    ours = link.alias == alias
    try:
        _kernel_settings(name, ipv6=any(address.version == 6 for address, _ in wanted))
        present = {(address.address, address.prefix_len) for address in netlink.addresses()
                   if address.index == link.index and not address.address.is_link_local}
        netlink.request(*(rtnetlink.delete_address(link.index, *other) for other in present - wanted if ours),
                        *(rtnetlink.add_address(link.index, *address) for address in wanted - present),
                        rtnetlink.set_link(link.index, up=True, mtu=mtu, mac=mac if ours else None))
    except OSError:
        if made:
            netlink.request(rtnetlink.delete_link(link.index))
        raise
    return link


def _kernel_settings(name: str, *, ipv6: bool) -> None:
    """What the host's stack must and must not do on a bridge of containers.

    route_localnet lets answers to connections of 127.0.0.1 come back in (the firewall guards it). Without router
    advertisements, and with IPv6 off where the network has none, no container can talk the host into a new IPv6 router
    (CVE-2020-13401); a kernel without IPv6 needs no telling.
    """
    write_sysctl(f"net/ipv4/conf/{name}/route_localnet", "1")
    if os.path.exists(f"/proc/sys/net/ipv6/conf/{name}"):
        write_sysctl(f"net/ipv6/conf/{name}/accept_ra", "0")
        write_sysctl(f"net/ipv6/conf/{name}/disable_ipv6", "0" if ipv6 else "1")


def write_sysctl(path: str, value: str) -> None:
    """Write ``/proc/sys/{path}`` of the calling thread's network namespace."""
    fd = os.open(f"/proc/sys/{path}", os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, value.encode())
    finally:
        os.close(fd)


def choose_gateway(netlink: Netlink, name: str, pools: Iterable[AddressPool], taken: Taken) -> ipaddress.IPv4Interface:
    """The address of bridge ``name``: the one that it has already, else the first of a free subnet of ``pools``."""
    link = netlink.link(name)
    if link is not None:
        for address in netlink.addresses():
            if address.index == link.index and isinstance(address.address, ipaddress.IPv4Address):
                return ipaddress.IPv4Interface((address.address, address.prefix_len))
    subnet = choose_subnet(subnets(pools), taken)
    return ipaddress.IPv4Interface((int(subnet.network_address) + 1, subnet.prefixlen))


def host_networks(netlink: Netlink, without: str) -> list[tuple[IPNetwork, str]]:
    """Where this host's routes lead, in all tables (VPNs have their own), except through the link ``without``."""
    names = {link.index: link.name for link in netlink.links()}
    return [(route.destination, f"this host's route by {names.get(route.index, 'no link')}")
            for version in (4, 6) for route in netlink.routes(version)
            if names.get(route.index) != without and route.destination.prefixlen > 0
            and not route.destination.is_link_local and not route.destination.is_multicast]


def default_mtu(netlink: Netlink) -> int:
    """The MTU of the link that the default route leaves by, else 1500."""
    for route in netlink.routes(4):
        if route.destination.prefixlen == 0 and route.table == _MAIN_TABLE:
            return next((link.mtu for link in netlink.links() if link.index == route.index), _DEFAULT_MTU)
    return _DEFAULT_MTU


def new_veth_name() -> str:
    """A name for the host's end of a veth; dockerd's own prefix, so that network managers leave it alone."""
    return "veth" + secrets.token_hex(4)
