"""Network namespaces with their interface, made ahead and configured when a container takes one."""

from __future__ import annotations

import collections
import contextlib
import ipaddress
import os
from dataclasses import dataclass

from barque.network.bridge import Bridge, new_veth_name, write_sysctl
from barque.sys import netns, rtnetlink
from barque.sys.rtnetlink import Netlink

INTERFACE = "eth0"


@dataclass(slots=True)
class Slot:
    """A namespace that nobody but ``fd`` keeps alive yet: closing it makes the namespace and its veth vanish.

    ``interface`` is the index of its interface on a bridge, 0 if it has none but ``lo``; ``port`` is the name of the
    other end, which is the bridge's port.
    """

    fd: int
    netlink: Netlink
    interface: int
    port: str

    def discard(self) -> None:
        self.netlink.close()
        os.close(self.fd)

    def configure(self, mac: str, address: ipaddress.IPv4Interface, gateway: ipaddress.IPv4Address) -> None:
        self.netlink.request(
            rtnetlink.set_link(self.interface, mac=mac),
            rtnetlink.add_address(self.interface, address.ip, address.network.prefixlen),
            rtnetlink.set_link(self.interface, up=True),
            rtnetlink.add_default_route(self.interface, gateway))


def make_slot(host: Netlink, bridge: Bridge | None) -> Slot:
    """A new namespace with ``lo`` up and, given a ``bridge``, an interface on it that is down and has no address."""
    with contextlib.ExitStack() as undo:
        with netns.fresh() as fd:
            undo.callback(os.close, fd)
            inside = undo.enter_context(Netlink())
            loopback = inside.link("lo")
            assert loopback is not None
            inside.request(rtnetlink.set_link(loopback.index, up=True))
            if bridge is not None:
                _interface_settings()
        index, port = 0, new_veth_name()
        if bridge is not None:
            host.request(rtnetlink.new_veth(port, master=bridge.link.index, mtu=bridge.mtu, peer=INTERFACE,
                                            peer_netns=fd),
                         *([] if bridge.rules.icc else [rtnetlink.set_isolated(port)]))
            link = inside.link(INTERFACE)
            assert link is not None
            index = link.index
        undo.pop_all()
        return Slot(fd, inside, index, port)


def _interface_settings() -> None:
    """For the interfaces to come: announce a new address, for neighbours that knew another MAC behind it; and no IPv6
    on a network that has none (``lo`` keeps its ::1)."""
    write_sysctl("net/ipv4/conf/default/arp_notify", "1")
    if os.path.exists("/proc/sys/net/ipv6"):
        write_sysctl("net/ipv6/conf/default/disable_ipv6", "1")


class WarmPool:
    """Up to ``size`` slots on one bridge. Blocking, for one thread."""

    def __init__(self, bridge: Bridge, size: int) -> None:
        self.bridge = bridge
        self._size = size
        self._ready: collections.deque[Slot] = collections.deque()

    def take(self, host: Netlink) -> Slot:
        """A slot, at once if one is ready."""
        return self._ready.popleft() if self._ready else make_slot(host, self.bridge)

    def lacks(self) -> bool:
        return len(self._ready) < self._size

    def add_one(self, host: Netlink) -> None:
        self._ready.append(make_slot(host, self.bridge))

    def clear(self) -> None:
        while self._ready:
            self._ready.pop().discard()
