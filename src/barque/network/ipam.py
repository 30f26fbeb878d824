"""Which subnet a network gets and which address a container gets: pure, the caller knows the host's routes."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator

from barque.network.errors import AddressesExhausted, AddressInUse, AddressOutside, PoolsExhausted
from barque.network.model import AddressPool

IPv4Address = ipaddress.IPv4Address
IPv4Network = ipaddress.IPv4Network

#: VPNs route "everything" as two halves or eighths; a route that wide is a default route, not a network in use.
_WIDEST_NETWORK = 8


def mac_for(address: IPv4Address) -> str:
    """The MAC that dockerd gives an address, locally administered: neighbours' ARP caches hold across restarts."""
    return "02:42:" + address.packed.hex(":")


def subnets(pools: Iterable[AddressPool]) -> Iterator[IPv4Network]:
    """All subnets of the pools, in order."""
    for pool in pools:
        yield from ipaddress.IPv4Network(pool.base).subnets(new_prefix=pool.size)


def choose_subnet(pools: Iterable[AddressPool], taken: Iterable[IPv4Network]) -> IPv4Network:
    """The first subnet of the pools that overlaps none of ``taken`` (routes of the host, other networks).

    Raises PoolsExhausted, which names what stands in the way.
    """
    narrow = [network for network in taken if network.prefixlen >= _WIDEST_NETWORK]
    blockers: dict[IPv4Network, IPv4Network] = {}
    for subnet in subnets(pools):
        blocker = next((network for network in narrow if network.overlaps(subnet)), None)
        if blocker is None:
            return subnet
        blockers.setdefault(blocker, subnet)
    reason = ", ".join(f"{network} of this host covers {subnet}" for network, subnet in list(blockers.items())[:8])
    raise PoolsExhausted(reason=reason or "there are no pools")


class Addresses:
    """The addresses of one network: gateway, network and broadcast address are never given out.

    ``range`` (inside ``subnet``) limits what is chosen; a requested address may lie anywhere in the subnet. Addresses
    are chosen in turn and not again at once: the interface that had one last may take a moment to die, and would answer
    ARP for its heir.
    """

    def __init__(self, name: str, network_id: str, subnet: IPv4Network, gateway: IPv4Address, *,
                 within: IPv4Network | None = None) -> None:
        self.subnet = subnet
        self.gateway = gateway
        self._name, self._id = name, network_id
        self._range = within or subnet
        self._used = {int(gateway)}
        self._fixed = frozenset(self._used)
        if subnet.prefixlen < 31:
            edge = {int(subnet.network_address), int(subnet.broadcast_address)}
            self._used |= edge
            self._fixed |= edge
        self._next = 0

    def allocate(self) -> IPv4Address:
        """The next free address; raises AddressesExhausted."""
        base, size = int(self._range.network_address), self._range.num_addresses
        for step in range(size):
            offset = (self._next + step) % size
            if base + offset not in self._used:
                self._next = (offset + 1) % size
                self._used.add(base + offset)
                return IPv4Address(base + offset)
        raise AddressesExhausted(name=self._name, id=self._id)

    def claim(self, address: IPv4Address) -> IPv4Address:
        """Take this very address; raises AddressOutside or AddressInUse."""
        if address not in self.subnet:
            raise AddressOutside(address=address)
        if int(address) in self._used:
            raise AddressInUse()
        self._used.add(int(address))
        return address

    def release(self, address: IPv4Address) -> None:
        """Give an address back; what was not taken, or is not for containers, stays as it is."""
        if int(address) not in self._fixed:
            self._used.discard(int(address))
