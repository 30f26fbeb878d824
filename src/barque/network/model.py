"""What the engine asks of the network and gets back: values that it can store and hand in again after a restart."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import msgspec

DEFAULT_EXEC_ROOT = "/run/barque"
#: How the names of all engines' nftables tables begin.
TABLE_PREFIX = "barque"


class AddressPool(msgspec.Struct, frozen=True):
    """Subnets of ``size`` prefix bits are cut out of ``base`` (dockerd's default-address-pools)."""

    base: str
    size: int


#: dockerd's own defaults, in its order, and room for four thousand more.
DEFAULT_POOLS = (
    AddressPool("172.17.0.0/16", 16), AddressPool("172.18.0.0/16", 16), AddressPool("172.19.0.0/16", 16),
    AddressPool("172.20.0.0/14", 16), AddressPool("172.24.0.0/14", 16), AddressPool("172.28.0.0/14", 16),
    AddressPool("192.168.0.0/16", 20), AddressPool("10.192.0.0/12", 24),
)


class NetworkSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Set-up of one engine's network; all names of links, tables and files follow from ``exec_root``.

    ``bip`` is the bridge's own address with its prefix ("172.30.0.1/16"), None takes a subnet out of ``pools``.
    ``mtu`` 0 means that of the link with the default route. ``publish_ip`` None publishes on all IPv4 and all IPv6
    addresses ("0.0.0.0" means IPv4 alone). ``obey_input``: published ports are relayed, not translated, so that the
    host's INPUT rules decide about them. ``api_ports`` are TCP ports of this host that containers must not reach.
    ``warm`` namespaces are kept ready for the next containers.
    """

    exec_root: str
    bridge: str | None = None
    bip: str | None = None
    fixed_cidr: str | None = None
    mtu: int = 0
    pools: tuple[AddressPool, ...] = DEFAULT_POOLS
    publish_ip: str | None = None
    icc: bool = True
    masquerade: bool = True
    ip_forward: bool = True
    obey_input: bool = False
    api_ports: tuple[int, ...] = ()
    warm: int = 2

    @property
    def suffix(self) -> str:
        """Empty for the default exec root, else six digits that tell this engine's links and tables from others'."""
        if self.exec_root == DEFAULT_EXEC_ROOT:
            return ""
        return hashlib.sha256(self.exec_root.encode()).hexdigest()[:6]

    @property
    def bridge_name(self) -> str:
        return self.bridge or ("brq-" + self.suffix if self.suffix else "barque0")

    @property
    def owner(self) -> str:
        """What is written on links of this engine, with the network's id behind it (ip-link(8)'s alias)."""
        return f"{self.table} network "

    @property
    def table(self) -> str:
        return f"{TABLE_PREFIX}-{self.suffix}" if self.suffix else TABLE_PREFIX


class Subnet(msgspec.Struct, frozen=True, kw_only=True):
    """One subnet of a network. ``aux`` are addresses that somebody else on the network has: never given out."""

    subnet: str
    gateway: str = ""
    ip_range: str = ""
    aux: dict[str, str] = {}


class NetworkSpec(msgspec.Struct, frozen=True, kw_only=True):
    """A network that somebody made: what the engine stores, and hands to ``Network.reconcile`` at its next boot.

    ``driver`` is "bridge", "macvlan" or "ipvlan". ``bridge`` is the link's name on the host; ``parent`` the link that
    macvlan and ipvlan interfaces hang on, one of our own where it is empty; the modes are those of ip-link(8). Subnets
    are empty or partial only when it is asked for; ``Network.create`` returns them complete. ``trusted``: containers
    may use addresses that they were not given. ``obey_input``: published ports are relayed, not translated, so that the
    host's INPUT rules decide about them. ``options``, ``ipam_options`` and ``labels`` are what the client wrote.
    ``config_only``: nothing but settings for other networks, which name it as ``config_from``.
    """

    id: str
    name: str
    driver: str
    created: str
    ipv4: Subnet | None = None
    ipv6: Subnet | None = None
    enable_ipv4: bool = True
    enable_ipv6: bool = False
    internal: bool = False
    attachable: bool = False
    bridge: str = ""
    parent: str = ""
    macvlan_mode: str = "bridge"
    ipvlan_mode: str = "l2"
    ipvlan_flag: str = "bridge"
    mtu: int = 0
    icc: bool = True
    masquerade: bool = True
    trusted: bool = False
    obey_input: bool = False
    publish_ip: str | None = None
    options: dict[str, str] = {}
    ipam_options: dict[str, str] | None = None
    labels: dict[str, str] = {}
    config_only: bool = False
    config_from: str = ""

    @property
    def subnets(self) -> list[Subnet]:
        return [subnet for subnet in (self.ipv4, self.ipv6) if subnet is not None]


class NetworkInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A network as clients see it. ``spec`` is None for the three that every engine has; ``bridge`` and what follows
    only where there is a bridge."""

    id: str
    name: str
    driver: str
    created: str
    spec: NetworkSpec | None = None
    bridge: str = ""
    subnet: str = ""
    ip_range: str = ""
    gateway: str = ""
    mtu: int = 0
    icc: bool = True
    masquerade: bool = True
    publish_ip: str = ""


class Blockers(msgspec.Struct, frozen=True, kw_only=True):
    """Chains of other firewalls that drop by default what is forwarded, and what is for this host itself."""

    forward: tuple[str, ...] = ()
    input: tuple[str, ...] = ()


class PortBinding(msgspec.Struct, frozen=True, kw_only=True):
    """One port to publish. ``host_ip`` None or "" means the engine's publish address, else every IPv4 and IPv6 address.

    ``host_port_start`` 0 takes a free port out of the ephemeral range, start < end the first free one of that range.
    """

    container_port: int
    protocol: str = "tcp"
    host_ip: str | None = None
    host_port_start: int = 0
    host_port_end: int = 0


class PublishedPort(msgspec.Struct, frozen=True, kw_only=True):
    """A host port that leads to a container port; one per address family.

    ``relayed``: not translated on the way in, so that it is the host's INPUT rules that decide about it.
    """

    container_port: int
    protocol: str
    host_ip: str
    host_port: int
    relayed: bool = False


class Endpoint(msgspec.Struct, frozen=True, kw_only=True):
    """One interface of a sandbox on one network.

    ``ipv4`` is empty on a network without IPv4, the gateways are on one without a way out. ``link_local`` are more
    addresses, good on the network alone. ``port`` is the other end of a veth, on the host's bridge.
    ``names`` are what the others on the network may call the container; ``links`` are names that only the container
    itself knows, each with the name that it stands for. ``routed``: the interface itself is the way out.
    """

    network_name: str
    network_id: str
    endpoint_id: str
    interface: str
    mac: str
    ipv4: str
    prefix_len: int
    gateway: str
    ipv6: str | None = None
    ipv6_prefix_len: int = 0
    ipv6_gateway: str | None = None
    port: str = ""
    gw_priority: int = 0
    names: tuple[str, ...] = ()
    links: dict[str, str] = {}
    link_local: tuple[str, ...] = ()
    routed: bool = False

    @property
    def leads_out(self) -> bool:
        return bool(self.gateway or self.ipv6_gateway or self.routed)

    @property
    def addresses(self) -> list[str]:
        """Its own addresses on the network."""
        return [address for address in (self.ipv4, self.ipv6) if address]


def by_way_out(endpoints: Iterable[Endpoint]) -> list[Endpoint]:
    """Endpoints in the order in which they may carry the default route: those with a gateway, by falling priority,
    then by their network's name, as dockerd has it; then the others."""
    return sorted(endpoints, key=lambda end: (not end.leads_out, -end.gw_priority, end.network_name))


class Attachment(msgspec.Struct, frozen=True, kw_only=True):
    """One network that a container shall be on; the fields are those of :class:`Endpoint`, None lets us choose.

    ``sysctls`` are settings of the interface (``net.ipv4.conf.IFNAME.log_martians``), whatever its name will be.
    """

    network_id: str
    interface: str | None = None
    mac: str | None = None
    ipv4: str | None = None
    ipv6: str | None = None
    gw_priority: int = 0
    names: tuple[str, ...] = ()
    links: dict[str, str] = {}
    link_local: tuple[str, ...] = ()
    sysctls: dict[str, str] = {}


class Resolving(msgspec.Struct, frozen=True, kw_only=True):
    """How a container's names are looked up beyond its networks: ``servers`` instead of the host's; ``ndots``: its
    resolver adds search domains by itself, so that a name without a dot is no other server's business."""

    servers: tuple[str, ...] = ()
    ndots: bool = False


class SandboxRequest(msgspec.Struct, frozen=True, kw_only=True):
    """``name`` is the container's name as error texts show it; ``sysctls`` are the container's ``net.*`` settings.

    ``mode`` is "none", "host", "bridge" or "networks"; ``attachments`` are the networks of the last two ("bridge"
    without any means the default one, with ``mac`` and ``ipv4``).
    """

    container_id: str
    mode: str
    name: str = ""
    hostname: str = ""
    aliases: tuple[str, ...] = ()
    mac: str | None = None
    ipv4: str | None = None
    ports: tuple[PortBinding, ...] = ()
    sysctls: dict[str, str] = {}
    attachments: tuple[Attachment, ...] = ()
    resolving: Resolving = Resolving()


class Sandbox(msgspec.Struct, frozen=True, kw_only=True):
    """A container's network as it stands: stored by the engine, handed to ``Network.reconcile`` at its next boot."""

    container_id: str
    mode: str
    netns_path: str | None
    name: str = ""
    endpoints: tuple[Endpoint, ...] = ()
    ports: tuple[PublishedPort, ...] = ()
    resolving: Resolving = Resolving()
