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
from barque.network.ipam import Addresses, IPAddress, Taken, choose_subnet, mac_for, subnets
from barque.network.model import AddressPool, Attachment, Endpoint
from barque.sys import rtnetlink
from barque.sys.rtnetlink import Link, Netlink

#: Links that are deleted together are in a group of this number and the index of one of them: nobody else's.
_LINK_GROUP = 0x62000000
#: A bridge takes the kernel 18 ms to delete, and nobody can change links meanwhile; alone it would take twice as long.
_LINKS_AT_ONCE = 16
IPInterface = ipaddress.IPv4Interface | ipaddress.IPv6Interface


@dataclass(kw_only=True)
class KernelNetwork:
    """What all networks have in common. ``link`` is the bridge, or the parent of macvlan and ipvlan interfaces.

    ``embedded_dns``: names of its containers are looked up by the engine. ``owned``: the link goes with the network.
    """

    name: str
    id: str
    driver: str
    link: Link
    addresses: Addresses | None
    addresses6: Addresses | None = None
    mtu: int
    icc: bool = True
    masquerade: bool = True
    internal: bool = False
    trusted: bool = False
    owned: bool = True
    embedded_dns: bool = True
    macvlan_mode: str = ""
    ipvlan_mode: str = ""
    ipvlan_flag: str = ""
    publish_ip: str | None = None
    obey_input: bool = False

    @property
    def rules(self) -> FirewalledNetwork | None:
        """For the firewall; macvlan interfaces do not come by it."""
        if self.driver != "bridge":
            return None
        subnet, subnet6 = (pool.subnet if pool else None for pool in (self.addresses, self.addresses6))
        assert not isinstance(subnet, ipaddress.IPv6Network) and not isinstance(subnet6, ipaddress.IPv4Network)
        return FirewalledNetwork(self.link.name, subnet, subnet6, icc=self.icc, masquerade=self.masquerade,
                                 internal=self.internal)

    @property
    def pools(self) -> list[Addresses]:
        return [pool for pool in (self.addresses, self.addresses6) if pool is not None]

    def take(self, attachment: Attachment, undo: contextlib.ExitStack) -> tuple[IPAddress | None, IPAddress | None]:
        """Addresses for a container: those that are asked for, else free ones. Raises what Addresses raises."""
        return _take(self.addresses, attachment.ipv4, undo), _take(self.addresses6, attachment.ipv6, undo)

    def reclaim(self, endpoint: Endpoint) -> None:
        """Note that ``endpoint`` has its addresses. Raises what Addresses raises."""
        for pool, address in ((self.addresses, endpoint.ipv4), (self.addresses6, endpoint.ipv6)):
            if pool is not None and address:
                pool.claim(ipaddress.ip_address(address))

    def give_back(self, endpoint: Endpoint) -> None:
        for pool, address in ((self.addresses, endpoint.ipv4), (self.addresses6, endpoint.ipv6)):
            if pool is not None and address:
                pool.release(ipaddress.ip_address(address))

    @property
    def routed(self) -> bool:
        """Whether containers send everything out by the interface itself: ipvlan of layer 3 knows no neighbours."""
        return self.driver == "ipvlan" and self.ipvlan_mode != "l2" and not self.internal

    def gateways(self) -> tuple[str, str | None]:
        """What containers have as their gateways: nothing on a network without a way out."""
        if self.internal or self.routed:
            return "", None
        four, six = (str(pool.gateway) if pool and pool.gateway else "" for pool in (self.addresses, self.addresses6))
        return four, six or None


def _take(addresses: Addresses | None, asked: str | None, undo: contextlib.ExitStack) -> IPAddress | None:
    if addresses is None:
        if asked:
            raise AddressOutside(address=asked)
        return None
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
        present = set() if made else {
            (address.address, address.prefix_len) for address in netlink.addresses()
            if address.index == link.index and not address.address.is_link_local}
        netlink.request(*(rtnetlink.delete_address(link.index, *other) for other in present - wanted if ours),
                        *(rtnetlink.add_address(link.index, *address) for address in wanted - present),
                        rtnetlink.set_link(link.index, up=True, mtu=mtu, mac=mac if ours else None))
    except OSError:
        if made:
            netlink.request(rtnetlink.delete_link(link.index))
        raise
    return link


def ensure_parent(netlink: Netlink, name: str, make: rtnetlink.Message, alias: str) -> Link:
    """The link ``name`` for macvlan and ipvlan interfaces, up: made by ``make``, or the one that is there."""
    link = netlink.link(name)
    if link is None:
        netlink.request(make, rtnetlink.set_alias(name, alias))
        link = netlink.link(name)
        assert link is not None
        _no_ipv6(name)
    netlink.request(rtnetlink.set_link(link.index, up=True))
    return link


def _no_ipv6(name: str) -> None:
    if os.path.exists(f"/proc/sys/net/ipv6/conf/{name}"):
        write_sysctl(f"net/ipv6/conf/{name}/disable_ipv6", "1")


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


def delete_links(netlink: Netlink, names: Iterable[str]) -> None:
    """Delete what is still there of these links, several at one go."""
    links = [link for name in names if (link := netlink.link(name)) is not None]
    for start in range(0, len(links), _LINKS_AT_ONCE):
        batch = links[start:start + _LINKS_AT_ONCE]
        group = _LINK_GROUP | batch[0].index
        with contextlib.suppress(OSError):  # one went meanwhile: the others go
            netlink.request(*(rtnetlink.set_group(link.index, group) for link in batch), rtnetlink.delete_group(group))


def new_veth_name() -> str:
    """A name for the host's end of a veth; dockerd's own prefix, so that network managers leave it alone."""
    return "veth" + secrets.token_hex(4)
