"""All networks of one engine as they stand in the kernel: made, taken over at boot, removed. Blocking, one thread."""

from __future__ import annotations

import contextlib
import hashlib
import ipaddress
import logging
import os
from collections.abc import Collection, Iterable, Iterator

import msgspec

from barque.errors import BarqueError, InvalidArgument
from barque.network import bridge as bridges
from barque.network import forwarding
from barque.network.bridge import KernelNetwork
from barque.network.errors import DriverUnsupported, GatewayTaken, InvalidPool, LinkTaken, NetworkMissing
from barque.network.host_view import HostView
from barque.network.ipam import Addresses, IPAddress, IPNetwork, Taken, choose_subnet, subnets, ula_subnets
from barque.network.model import NetworkInfo, NetworkSettings, NetworkSpec, Subnet
from barque.network.parents import parent_link
from barque.sys import rtnetlink
from barque.sys.nft import Nftables
from barque.sys.rtnetlink import Netlink

log = logging.getLogger(__name__)

_LOOPBACK = "127.0.0.1"
_MACHINE_ID = "/etc/machine-id"


class Networks:
    """The default bridge and the networks that users made. Rules and containers are the caller's business."""

    def __init__(self, settings: NetworkSettings, netlink: Netlink, nft: Nftables, created: str) -> None:
        self.settings = settings
        self._netlink = netlink
        self._nft = nft
        self._created = created
        self._specs: dict[str, NetworkSpec] = {}
        self._made: dict[str, KernelNetwork] = {}
        self.closed: set[int] = set()
        if settings.ip_forward:
            self._forward(4)
        self.default = self._default_bridge()

    def forwarding_marker(self, version: int) -> str:
        """The file that remembers, over restarts of the engine, that it was us who turned forwarding on."""
        return os.path.join(self.settings.exec_root, "forwarding" if version == 4 else "forwarding6")

    def _forward(self, version: int) -> None:
        if forwarding.ensure_forwarding(version, self.forwarding_marker(version), self._nft, self.settings.table):
            self.closed.add(version)

    def network_id(self, name: str) -> str:
        """64 hex digits that stay the same as long as the engine has its exec root."""
        return hashlib.sha256(f"{self.settings.exec_root}\0{name}".encode()).hexdigest()

    def infos(self) -> list[NetworkInfo]:
        """The default bridge, host and none, and all others in the order of their making."""
        settings, addresses = self.settings, self.default.addresses
        assert addresses is not None
        return [
            NetworkInfo(id=self.default.id, name="bridge", driver="bridge", created=self._created,
                        bridge=self.default.link.name, subnet=str(addresses.subnet),
                        ip_range=settings.fixed_cidr or "", gateway=str(addresses.gateway), mtu=self.default.mtu,
                        icc=settings.icc, masquerade=settings.masquerade, publish_ip=settings.publish_ip or "0.0.0.0"),
            NetworkInfo(id=self.network_id("host"), name="host", driver="host", created=self._created),
            NetworkInfo(id=self.network_id("none"), name="none", driver="null", created=self._created),
            *(NetworkInfo(id=spec.id, name=spec.name, driver=spec.driver, created=spec.created, spec=spec,
                          bridge=spec.bridge, mtu=spec.mtu) for spec in self._specs.values())]

    def __iter__(self) -> Iterator[KernelNetwork]:
        yield self.default
        yield from self._made.values()

    def get(self, network_id: str) -> KernelNetwork:
        """Raises NetworkMissing."""
        if network_id == self.default.id:
            return self.default
        try:
            return self._made[network_id]
        except KeyError:
            raise NetworkMissing(id=network_id) from None

    def name(self, network_id: str) -> str:
        """Raises NetworkMissing."""
        spec = self._specs.get(network_id)
        if spec is None:
            raise NetworkMissing(id=network_id)
        return spec.name

    def create(self, spec: NetworkSpec) -> NetworkSpec:
        """Make the network; returns ``spec`` with everything filled in that was left open. All or nothing.

        Raises BarqueErrors that name what is in the way.
        """
        if spec.config_only:
            self._specs[spec.id] = spec
            return spec
        if spec.driver not in ("bridge", "macvlan", "ipvlan"):
            raise DriverUnsupported(driver=spec.driver, reason="this engine has bridge, macvlan, ipvlan, host and none")
        spec = self._complete(spec)
        self._make(spec)
        return spec

    def remove(self, network_ids: Collection[str]) -> None:
        """Unmake networks that no container is on; those that are not there are left out."""
        self._unmake([self._made[network_id] for network_id in network_ids if network_id in self._made])
        for network_id in network_ids:
            self._made.pop(network_id, None)
            self._specs.pop(network_id, None)

    def restore(self, specs: Iterable[NetworkSpec]) -> None:
        """At boot: take over or make again what is stored, and remove links that an earlier engine left over.

        A network that cannot be made (its parent is gone, say) is logged; containers on it cannot start.
        """
        for spec in specs:
            if spec.config_only:
                self._specs[spec.id] = spec
                continue
            try:
                self._make(spec)
            except (BarqueError, OSError) as error:
                log.error("network %s cannot be restored: %s", spec.name, error)
                self._specs[spec.id] = spec
        known = {network.link.name for network in self}
        for link in self._netlink.links():
            if link.alias.startswith(self.settings.owner) and link.name not in known:
                log.info("removing link %s, which belongs to no network", link.name)
                self._netlink.request(rtnetlink.delete_link(link.index))

    def unmake_all(self) -> None:
        self._unmake(list(self))

    def _unmake(self, networks: Iterable[KernelNetwork]) -> None:
        """Delete the links that are ours, at one go; those of others only lose the addresses that they had from us."""
        doomed = []
        for network in networks:
            if network.owned:
                doomed.append(network.link.name)
            elif network.driver == "bridge":
                for pool in network.pools:
                    if pool.gateway is not None:
                        with contextlib.suppress(OSError):
                            self._netlink.request(rtnetlink.delete_address(network.link.index, pool.gateway,
                                                                           pool.subnet.prefixlen))
        bridges.delete_links(self._netlink, doomed)

    def _default_bridge(self) -> KernelNetwork:
        settings = self.settings
        name = settings.bridge_name
        around = HostView(self._netlink)
        mtu = settings.mtu or around.mtu()
        bip, within = _addresses_of(settings)
        network_id = self.network_id("bridge")
        taken = Taken(around.networks(without=name))
        if bip is not None:
            taken.check(bip.network)
        gateway = bip or bridges.choose_gateway(self._netlink, name, settings.pools, taken)
        link = bridges.ensure_link(self._netlink, name, [gateway], mtu, settings.owner + network_id)
        addresses = Addresses("bridge", network_id, gateway.network, gateway.ip, within=within)
        return KernelNetwork(name="bridge", id=network_id, driver="bridge", link=link, addresses=addresses, mtu=mtu,
                             icc=settings.icc, masquerade=settings.masquerade, embedded_dns=False,
                             publish_ip=settings.publish_ip, obey_input=settings.obey_input)

    def _complete(self, spec: NetworkSpec) -> NetworkSpec:
        """Choose subnets, gateways and names where ``spec`` leaves them open; raises where it cannot be had."""
        bridged = spec.driver == "bridge"
        around = HostView(self._netlink)
        host = around.networks(without=spec.bridge) if bridged else []
        used = [(pool.subnet, f"network {network.name}") for network in self for pool in network.pools]
        # The routes by our own bridges are networks of ours: those names say more.
        ours = {subnet for subnet, _ in used}
        taken = Taken([*(item for item in host if item[0] not in ours), *used])
        four = _completed(spec.ipv4, subnets(self.settings.pools), taken, gateway=bridged) if spec.enable_ipv4 else None
        six = _completed(spec.ipv6, ula_subnets(self._ula_seed()), taken, gateway=bridged) if spec.enable_ipv6 else None
        mtu = spec.mtu
        if not mtu and not bridged and (parent := self._netlink.link(spec.parent)) is not None:
            mtu = parent.mtu
        return msgspec.structs.replace(
            spec, ipv4=four, ipv6=six, bridge=(spec.bridge or "bq-" + spec.id[:12]) if bridged else "",
            mtu=mtu or self.settings.mtu or around.mtu())

    def _ula_seed(self) -> str:
        """Differs between machines and between engines of one machine, so that joined networks do not clash."""
        machine = ""
        with contextlib.suppress(OSError), open(_MACHINE_ID) as file:
            machine = file.read().strip()
        return f"{machine}\0{self.settings.exec_root}"

    def _make(self, spec: NetworkSpec) -> None:
        four, six = (_pool(spec, subnet) if subnet else None for subnet in (spec.ipv4, spec.ipv6))
        alias = self.settings.owner + spec.id
        if spec.driver == "bridge":
            self._check_name(spec)
            if spec.ipv6 is not None:
                self._forward(6)
            link = bridges.ensure_link(
                self._netlink, spec.bridge,
                [ipaddress.ip_interface((pool.gateway, pool.subnet.prefixlen)) for pool in (four, six)
                 if pool and pool.gateway], spec.mtu, alias)
        else:
            link = parent_link(self._netlink, spec, alias, self)
        self._made[spec.id] = KernelNetwork(
            name=spec.name, id=spec.id, driver=spec.driver, link=link, addresses=four, addresses6=six, mtu=spec.mtu,
            icc=spec.icc, masquerade=spec.masquerade, internal=spec.internal, trusted=spec.trusted,
            owned=link.alias == alias, macvlan_mode=spec.macvlan_mode, ipvlan_mode=spec.ipvlan_mode,
            ipvlan_flag=spec.ipvlan_flag,
            publish_ip=_LOOPBACK if spec.internal else spec.publish_ip or self.settings.publish_ip,
            obey_input=spec.obey_input or self.settings.obey_input)
        self._specs[spec.id] = spec

    def _check_name(self, spec: NetworkSpec) -> None:
        other = next((network for network in self if network.link.name == spec.bridge and network.id != spec.id), None)
        if other is not None:
            raise LinkTaken(name=spec.name, link=spec.bridge, reason=f"it is the bridge of network {other.name}")


def _pool(spec: NetworkSpec, subnet: Subnet) -> Addresses:
    network = ipaddress.ip_network(subnet.subnet)
    return Addresses(spec.name, spec.id, network, ipaddress.ip_address(subnet.gateway) if subnet.gateway else None,
                     within=ipaddress.ip_network(subnet.ip_range) if subnet.ip_range else None,
                     reserved=[ipaddress.ip_address(address) for address in subnet.aux.values()])


def _completed(asked: Subnet | None, candidates: Iterable[IPNetwork], taken: Taken, *, gateway: bool) -> Subnet:
    """``asked`` with its subnet and gateway, checked; a network that nobody asked details for out of ``candidates``.

    A gateway that is not ours (``gateway`` False) is the first address too, as dockerd has it.
    """
    asked = asked or Subnet(subnet="")
    if asked.subnet:
        network = _network(asked.subnet, "subnet")
        taken.check(network)
    else:
        network = choose_subnet(candidates, taken)
    within = _network(asked.ip_range, "ip-range") if asked.ip_range else None
    if within is not None and (within.version != network.version or not within.subnet_of(network)):  # type: ignore[arg-type]
        raise InvalidPool(reason=f"invalid ip-range {within}: it is not inside the subnet {network}")
    if network.num_addresses < (4 if gateway else 2):
        raise InvalidPool(reason=f"invalid subnet {network}: it has no room for a gateway and a container")
    chosen = _inside(asked.gateway, network, "gateway") if asked.gateway else network[1]
    if gateway and chosen in (network[0], network[-1]) and (chosen == network[0] or network.version == 4):
        raise GatewayTaken(address=chosen)
    for address in asked.aux.values():
        if _inside(address, network, "auxiliary address") == chosen:
            raise InvalidPool(reason=f"auxiliary address {address} is the gateway's")
    return Subnet(subnet=str(network), gateway=str(chosen), ip_range=str(within) if within else "", aux=asked.aux)


def _network(text: str, what: str) -> IPNetwork:
    try:
        network = ipaddress.ip_network(text, strict=False)
    except ValueError:
        raise InvalidPool(reason=f"invalid {what} {text}: invalid CIDR block notation") from None
    if "/" not in text:
        raise InvalidPool(reason=f"invalid {what} {text}: invalid CIDR block notation")
    if str(network) != str(ipaddress.ip_interface(text)):
        raise InvalidPool(reason=f"invalid {what} {text}: it should be {network}")
    return network


def _inside(text: str, network: IPNetwork, what: str) -> IPAddress:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        raise InvalidPool(reason=f"invalid {what} {text}: invalid address") from None
    if address not in network:
        raise InvalidPool(reason=f"invalid {what} {text}: parent subnet {network} doesn't contain this address")
    return address


def _addresses_of(settings: NetworkSettings) -> tuple[ipaddress.IPv4Interface | None, ipaddress.IPv4Network | None]:
    """``bip`` and ``fixed_cidr``, parsed; raises InvalidArgument."""
    try:
        bip = ipaddress.IPv4Interface(settings.bip) if settings.bip else None
        within = ipaddress.IPv4Network(settings.fixed_cidr) if settings.fixed_cidr else None
    except ValueError as error:
        raise InvalidArgument(f"invalid address of the default bridge: {error}") from error
    if within is not None and (bip is None or not within.subnet_of(bip.network)):
        raise InvalidArgument(f"fixed-cidr {within} is not inside the subnet of bip {settings.bip}")
    return bip, within
