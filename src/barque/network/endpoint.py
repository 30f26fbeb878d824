"""A container's network namespace and the interfaces in it; namespaces with one are made ahead."""

from __future__ import annotations

import collections
import contextlib
import ipaddress
import os
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass

from barque.errors import InvalidArgument
from barque.network.bridge import KernelNetwork, new_veth_name, write_sysctl
from barque.network.model import Endpoint, by_way_out
from barque.sys import netns, rtnetlink
from barque.sys.rtnetlink import Netlink

_FIRST = "eth0"
#: Prefix lengths of link-local networks (RFC 3927, 4291).
_LINK_LOCAL = {4: 16, 6: 64}


@dataclass(slots=True)
class Interface:
    """``index`` inside the namespace; ``port`` is the name of the other end, on a bridge of the host, else empty."""

    index: int
    name: str
    port: str


@dataclass(slots=True)
class Slot:
    """A namespace that nobody but ``fd`` keeps alive yet: closing it makes the namespace and its veths vanish."""

    fd: int
    netlink: Netlink
    ready: Interface | None = None

    def discard(self) -> None:
        self.netlink.close()
        os.close(self.fd)


@contextlib.contextmanager
def opened(path: str) -> Iterator[Slot]:
    """The namespace that is pinned at ``path``; the block itself runs where it was."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        with netns.entered(fd):
            inside = Netlink()
        with inside:
            yield Slot(fd, inside)
    finally:
        os.close(fd)


def make_slot(host: Netlink, mtu: int | None) -> Slot:
    """A new namespace with ``lo`` up and, given an ``mtu``, a veth that is down and on no bridge yet."""
    with contextlib.ExitStack() as undo:
        with netns.fresh() as fd:
            undo.callback(os.close, fd)
            inside = undo.enter_context(Netlink())
            loopback = inside.link("lo")
            assert loopback is not None
            inside.request(rtnetlink.set_link(loopback.index, up=True))
            _interface_settings()
        slot = Slot(fd, inside)
        if mtu is not None:
            slot.ready = _veth(host, slot, _FIRST, mtu)
        undo.pop_all()
        return slot


def _interface_settings() -> None:
    """For the interfaces to come: announce a new address, for neighbours that knew another MAC behind it; and no IPv6
    on a network that has none (``lo`` keeps its ::1)."""
    write_sysctl("net/ipv4/conf/default/arp_notify", "1")
    if os.path.exists("/proc/sys/net/ipv6"):
        write_sysctl("net/ipv6/conf/default/disable_ipv6", "1")
        write_sysctl("net/ipv6/conf/default/accept_ra", "0")


def _veth(host: Netlink, slot: Slot, name: str, mtu: int) -> Interface:
    port = new_veth_name()
    host.request(rtnetlink.new_veth(port, mtu=mtu, peer=name, peer_netns=slot.fd))
    return _found(slot, name, port)


def _found(slot: Slot, name: str, port: str) -> Interface:
    link = slot.netlink.link(name)
    assert link is not None
    return Interface(link.index, name, port)


def plug(host: Netlink, slot: Slot, network: KernelNetwork, name: str) -> Interface:
    """An interface ``name`` on ``network``, down, without addresses; the slot's own veth if it has one ready."""
    if network.driver == "macvlan":
        host.request(rtnetlink.new_macvlan(name, parent=network.link.index, mode=network.macvlan_mode, netns=slot.fd,
                                           mtu=network.mtu))
        return _found(slot, name, "")
    if network.driver == "ipvlan":
        host.request(rtnetlink.new_ipvlan(name, parent=network.link.index, mode=network.ipvlan_mode,
                                          flag=network.ipvlan_flag, netns=slot.fd, mtu=network.mtu))
        return _found(slot, name, "")
    interface, slot.ready = slot.ready or _veth(host, slot, name, network.mtu), None
    if interface.name != name:
        slot.netlink.request(rtnetlink.set_name(interface.index, name))
        interface.name = name
    host.request(rtnetlink.set_port(interface.port, network.link.index),
                 *([] if network.icc else [rtnetlink.set_isolated(interface.port)]))
    return interface


def unplug(host: Netlink, slot: Slot, endpoint: Endpoint) -> None:
    """Take an interface away, with its addresses and routes. It may be gone already, by the container's own doing."""
    link = slot.netlink.link(endpoint.interface)
    if link is not None:
        slot.netlink.request(rtnetlink.delete_link(link.index))
    elif endpoint.port and (other := host.link(endpoint.port)) is not None:
        host.request(rtnetlink.delete_link(other.index))


def configure(slot: Slot, interface: Interface, endpoint: Endpoint, sysctls: Mapping[str, str]) -> None:
    """Give an interface its MAC (if ``endpoint`` has one), addresses and settings, and set it up. Routes:
    :func:`route`. Raises InvalidArgument for a setting that the kernel does not take."""
    addresses = [ipaddress.ip_interface(text) for text in (
        *([f"{endpoint.ipv4}/{endpoint.prefix_len}"] if endpoint.ipv4 else []),
        *([f"{endpoint.ipv6}/{endpoint.ipv6_prefix_len}"] if endpoint.ipv6 else []),
        *(f"{address}/{_LINK_LOCAL[6 if ':' in address else 4]}" for address in endpoint.link_local))]
    if any(address.version == 6 for address in addresses):
        with netns.entered(slot.fd):
            write_sysctl(f"net/ipv6/conf/{interface.name}/disable_ipv6", "0")
    requests = [rtnetlink.set_link(interface.index, mac=endpoint.mac)] if endpoint.mac else []
    requests += [rtnetlink.add_address(interface.index, item.ip, item.network.prefixlen) for item in addresses]
    if sysctls:
        slot.netlink.request(*requests)
        requests.clear()
        with netns.entered(slot.fd):
            _settings(interface.name, sysctls)
    slot.netlink.request(*requests, rtnetlink.set_link(interface.index, up=True))


def _settings(interface: str, sysctls: Mapping[str, str]) -> None:
    for key, value in sysctls.items():
        parts = key.split(".")
        parts[3] = interface
        try:
            write_sysctl("/".join(parts), value)
        except OSError as error:
            raise InvalidArgument(f"cannot set sysctl {key} to {value!r}: {os.strerror(error.errno or 0)}") from error


def route(slot: Slot, before: Iterable[Endpoint], after: Iterable[Endpoint], known: dict[str, int]) -> None:
    """Make the default routes those that ``after`` wants, where ``before`` wanted others.

    ``known`` are indexes of interfaces by name, as far as they are known; the others are looked up.
    """
    old, new = _ways_out(before), _ways_out(after)
    for version, way in new.items():
        if old.get(version) == way:
            continue
        index = known.get(way[0])
        if index is None:
            link = slot.netlink.link(way[0])
            if link is None:
                continue  # The container took its interface away: it minds its routes itself.
            index = link.index
        gateway = ipaddress.ip_address(way[1]) if way[1] else None
        slot.netlink.request(rtnetlink.set_default_route(index, version, gateway))


def _ways_out(endpoints: Iterable[Endpoint]) -> dict[int, tuple[str, str]]:
    """Interface and gateway of the default route (empty: there is none on the way), by IP version."""
    found: dict[int, tuple[str, str]] = {}
    for endpoint in by_way_out(endpoints):
        for version, address, gateway in ((4, endpoint.ipv4, endpoint.gateway),
                                          (6, endpoint.ipv6, endpoint.ipv6_gateway)):
            if gateway or (endpoint.routed and address):
                found.setdefault(version, (endpoint.interface, gateway or ""))
    return found


def free_name(taken: Collection[str]) -> str:
    """``eth0``, or the first such name that is not ``taken``."""
    return next(name for name in (f"eth{number}" for number in range(len(taken) + 1)) if name not in taken)


class WarmPool:
    """Up to ``size`` slots for networks with one ``mtu``. Blocking, for one thread."""

    def __init__(self, mtu: int, size: int) -> None:
        self._mtu = mtu
        self._size = size
        self._ready: collections.deque[Slot] = collections.deque()

    def take(self, host: Netlink, network: KernelNetwork | None) -> Slot:
        """A slot for a container whose first network is ``network``, at once if one is ready."""
        if network is None or network.driver != "bridge" or network.mtu != self._mtu:
            return make_slot(host, None)
        return self._ready.popleft() if self._ready else make_slot(host, self._mtu)

    def lacks(self) -> bool:
        return len(self._ready) < self._size

    def add_one(self, host: Netlink) -> None:
        self._ready.append(make_slot(host, self._mtu))

    def clear(self) -> None:
        while self._ready:
            self._ready.pop().discard()
