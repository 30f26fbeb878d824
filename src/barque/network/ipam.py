"""Which subnet a network gets and which address a container gets: pure, the caller knows the host's routes."""

from __future__ import annotations

import bisect
import hashlib
import ipaddress
from collections.abc import Iterable, Iterator

from barque.network.errors import AddressesExhausted, AddressInUse, AddressOutside, PoolOverlaps, PoolsExhausted
from barque.network.model import AddressPool

IPv4Address = ipaddress.IPv4Address
IPv4Network = ipaddress.IPv4Network
IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
IPNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network

#: VPNs route "everything" as two halves or eighths; a route that wide is a default route, not a network in use.
_WIDEST_NETWORK = {4: 8, 6: 16}


def mac_for(address: IPAddress) -> str:
    """The MAC that dockerd gives an address, locally administered: neighbours' ARP caches hold across restarts."""
    # The last bytes of an IPv6 address alone may be another one's too.
    packed = address.packed if address.version == 4 else hashlib.sha256(address.packed).digest()[:4]
    return "02:42:" + packed.hex(":")


def subnets(pools: Iterable[AddressPool]) -> Iterator[IPv4Network]:
    """All subnets of the pools, in order."""
    for pool in pools:
        yield from ipaddress.IPv4Network(pool.base).subnets(new_prefix=pool.size)


def ula_subnets(seed: str) -> Iterator[ipaddress.IPv6Network]:
    """The /64 subnets of the unique local /48 (RFC 4193) whose forty random bits follow from ``seed``."""
    base = b"\xfd" + hashlib.sha256(seed.encode()).digest()[:5] + bytes(10)
    yield from ipaddress.IPv6Network((base, 48)).subnets(new_prefix=64)


class Taken:
    """Networks that are in use, each with who uses it; routes as wide as a default route are left out."""

    def __init__(self, networks: Iterable[tuple[IPNetwork, str]]) -> None:
        narrow = [(int(network.network_address), int(network.broadcast_address), network, who)
                  for network, who in networks if network.prefixlen >= _WIDEST_NETWORK[network.version]]
        self._ranges = {version: sorted(((first, last, network, who) for first, last, network, who in narrow
                                         if network.version == version), key=lambda item: item[:2])
                        for version in (4, 6)}
        # Ranges of networks nest or are apart: the highest end so far says whether an earlier one reaches this far.
        self._ends: dict[int, list[int]] = {}
        for version, ranges in self._ranges.items():
            highest, ends = -1, []
            for item in ranges:
                highest = max(highest, item[1])
                ends.append(highest)
            self._ends[version] = ends

    def clash(self, subnet: IPNetwork) -> tuple[IPNetwork, str] | None:
        """A network that overlaps ``subnet``, and its user."""
        first, last = int(subnet.network_address), int(subnet.broadcast_address)
        ranges = self._ranges[subnet.version]
        # Whatever overlaps begins before the subnet ends, and some such one ends after it begins.
        index = bisect.bisect_right(ranges, last, key=lambda item: item[0]) - 1
        if index < 0 or self._ends[subnet.version][index] < first:
            return None
        return next((network, who) for low, high, network, who in reversed(ranges[:index + 1]) if high >= first)

    def check(self, subnet: IPNetwork) -> None:
        """Raises PoolOverlaps, naming the clash."""
        found = self.clash(subnet)
        if found is not None:
            raise PoolOverlaps(subnet=subnet, other=f"{found[0]} of {found[1]}")


def choose_subnet(candidates: Iterable[IPNetwork], taken: Taken) -> IPNetwork:
    """The first candidate that overlaps nothing that is taken. Raises PoolsExhausted: it names what is in the way."""
    blockers: dict[tuple[IPNetwork, str], IPNetwork] = {}
    for subnet in candidates:
        clash = taken.clash(subnet)
        if clash is None:
            return subnet
        if len(blockers) < 8:
            blockers.setdefault(clash, subnet)
    reason = ", ".join(f"{network} of {who} covers {subnet}" for (network, who), subnet in blockers.items())
    raise PoolsExhausted(reason=reason or "there are no pools")


class Addresses:
    """The addresses of one subnet: gateway, network and broadcast address are never given out, nor ``reserved`` ones.

    ``within`` (inside ``subnet``) limits what is chosen; a requested address may lie anywhere in the subnet. Addresses
    are chosen in turn and not again at once: the interface that had one last may take a moment to die, and would answer
    ARP for its heir.
    """

    def __init__(self, name: str, network_id: str, subnet: IPNetwork, gateway: IPAddress | None, *,
                 within: IPNetwork | None = None, reserved: Iterable[IPAddress] = ()) -> None:
        self.subnet = subnet
        self.gateway = gateway
        self._name, self._id = name, network_id
        self._range = within or subnet
        fixed = {int(address) for address in reserved}
        if gateway is not None:
            fixed.add(int(gateway))
        if subnet.prefixlen < subnet.max_prefixlen - 1:
            fixed.add(int(subnet.network_address))
            if subnet.version == 4:
                fixed.add(int(subnet.broadcast_address))
        self._used = set(fixed)
        self._fixed = frozenset(fixed)
        self._next = 0

    def allocate(self) -> IPAddress:
        """The next free address; raises AddressesExhausted."""
        base, size = int(self._range.network_address), self._range.num_addresses
        # One more try than there are addresses in use finds a free one, if there is any.
        for step in range(min(size, len(self._used) + 1)):
            offset = (self._next + step) % size
            if base + offset not in self._used:
                self._next = (offset + 1) % size
                self._used.add(base + offset)
                return self._address(base + offset)
        raise AddressesExhausted(version=self.subnet.version, name=self._name, id=self._id)

    def claim(self, address: IPAddress) -> IPAddress:
        """Take this very address; raises AddressOutside or AddressInUse."""
        if address not in self.subnet:
            raise AddressOutside(address=address)
        if int(address) in self._used:
            raise AddressInUse()
        self._used.add(int(address))
        return address

    def release(self, address: IPAddress) -> None:
        """Give an address back; what was not taken, or is not for containers, stays as it is."""
        if int(address) not in self._fixed:
            self._used.discard(int(address))

    def _address(self, number: int) -> IPAddress:
        return IPv4Address(number) if self.subnet.version == 4 else ipaddress.IPv6Address(number)
