"""Where this host's routes lead: what the subnets of networks have to keep clear of."""

from __future__ import annotations

from barque.network.ipam import IPNetwork
from barque.sys.rtnetlink import Netlink

_MAIN_TABLE = 254
_DEFAULT_MTU = 1500


class HostView:
    """Links and routes as they are at the moment of making."""

    def __init__(self, netlink: Netlink) -> None:
        self._links = {link.index: link for link in netlink.links()}
        self._routes = [*netlink.routes(4), *netlink.routes(6)]

    def networks(self, without: str) -> list[tuple[IPNetwork, str]]:
        """All destinations in all tables (VPNs have their own), except through the link ``without``; with their way."""
        names = {index: link.name for index, link in self._links.items()}
        return [(route.destination, f"this host's route by {names.get(route.index, 'no link')}")
                for route in self._routes
                if names.get(route.index) != without and route.destination.prefixlen > 0
                and not route.destination.is_link_local and not route.destination.is_multicast]

    def mtu(self) -> int:
        """That of the link which the default route leaves by (IPv4's, else IPv6's), else 1500."""
        for route in self._routes:
            if route.destination.prefixlen == 0 and route.table == _MAIN_TABLE and route.index in self._links:
                return self._links[route.index].mtu
        return _DEFAULT_MTU
