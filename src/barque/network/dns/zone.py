"""What the containers of one engine are called on their networks, and what each of them may know. Pure."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field
from typing import Any

from barque.network.dns import wire
from barque.network.dns.wire import Query

#: Containers come and go: nobody should remember their addresses for long.
TTL = 5
_HOST_NAMES = ("host.docker.internal", "gateway.docker.internal")


@dataclass(slots=True)
class Place:
    """One network of a container, and the links that only it knows."""

    network: str
    label: str
    names: list[str]
    addresses: dict[int, str]
    subnets: list[str]
    links: dict[str, str]


@dataclass(slots=True)
class Record:
    """A container: see ``barque.network.names`` for where the values come from."""

    id: str
    places: list[Place]
    host: dict[int, str]
    servers: tuple[str, ...]
    forward: bool
    ndots: bool

    @classmethod
    def load(cls, tree: dict[str, Any]) -> Record:
        places = [Place(item["network"], item["label"].lower(), [name.lower() for name in item["names"]],
                        _by_version(item["addresses"]), item["subnets"],
                        {name.lower(): target.lower() for name, target in item["links"].items()})
                  for item in tree["places"]]
        return cls(tree["id"], places, _by_version(tree["host"]), tuple(tree["servers"]), tree["forward"],
                   tree["ndots"])


def _by_version(addresses: list[str]) -> dict[int, str]:
    return {ipaddress.ip_address(address).version: address for address in addresses}


@dataclass(slots=True)
class _Name:
    """Who has a name on a network; ``turn`` moves on with each answer, so that the first one is not always the same."""

    holders: dict[str, dict[int, str]] = field(default_factory=dict)
    turn: int = 0


class Zone:
    def __init__(self) -> None:
        self.records: dict[str, Record] = {}
        self._names: dict[tuple[str, str], _Name] = {}
        self._reverse: dict[tuple[str, str], str] = {}

    def put(self, record: Record) -> None:
        """Add a container, in the place of what was known of it."""
        self.drop(record.id)
        self.records[record.id] = record
        for place in record.places:
            for name in place.names:
                self._names.setdefault((place.network, name), _Name()).holders[record.id] = place.addresses
            if place.names:
                for address in place.addresses.values():
                    self._reverse[place.network, address] = f"{place.names[0]}.{place.label}"

    def drop(self, container: str) -> None:
        record = self.records.pop(container, None)
        for place in record.places if record else ():
            for name in place.names:
                entry = self._names.get((place.network, name))
                if entry is not None:
                    entry.holders.pop(container, None)
                    if not entry.holders:
                        del self._names[place.network, name]
            for address in place.addresses.values():
                self._reverse.pop((place.network, address), None)

    def answer(self, record: Record, query: Query) -> bytes | None:
        """The answer to a question of ``record``'s container, or None: others have to be asked."""
        if query.klass != wire.IN:
            return None
        if query.kind == wire.PTR:
            return self._answer_reverse(record, query)
        found = self._addresses(record, query.name)
        if found is None:
            return None
        version = {wire.A: 4, wire.AAAA: 6}.get(query.kind)
        wanted = [address for addresses in found for number, address in addresses.items()
                  if version == number or query.kind == wire.ANY]
        return wire.answer(query, wire.NOERROR, [
            (wire.AAAA if ":" in address else wire.A, ipaddress.ip_address(address).packed) for address in wanted], TTL)

    def _addresses(self, record: Record, name: str) -> list[dict[int, str]] | None:
        """Addresses of all who are called ``name``, beginning with another one each time; None if nobody is."""
        for place in record.places:
            own = name.removesuffix("." + place.label)
            entry = self._names.get((place.network, place.links.get(name, own)))
            if entry is None and own != name:
                entry = self._names.get((place.network, name))
            if entry is not None:
                holders = list(entry.holders.values())
                entry.turn = (entry.turn + 1) % len(holders)
                return holders[entry.turn:] + holders[:entry.turn]
        if name in _HOST_NAMES and record.host:
            return [record.host]
        return None

    def _answer_reverse(self, record: Record, query: Query) -> bytes | None:
        address = wire.reverse_address(query.name)
        if address is None:
            return None
        for place in record.places:
            name = self._reverse.get((place.network, address))
            if name is not None:
                try:
                    return wire.answer(query, wire.NOERROR, [(wire.PTR, wire.name(name))], TTL)
                except ValueError:
                    return wire.answer(query, wire.NXDOMAIN)  # a name that docker allows and DNS does not
        value = ipaddress.ip_address(address)
        if any(value in ipaddress.ip_network(subnet) for place in record.places for subnet in place.subnets):
            return wire.answer(query, wire.NXDOMAIN)  # an address of ours is no other server's business
        return None
