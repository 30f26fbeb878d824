"""What the engine asks of the network and gets back: values that it can store and hand in again after a restart."""

from __future__ import annotations

import hashlib

import msgspec

DEFAULT_EXEC_ROOT = "/run/barque"


class AddressPool(msgspec.Struct, frozen=True):
    """Subnets of ``size`` prefix bits are cut out of ``base`` (dockerd's default-address-pools)."""

    base: str
    size: int


#: dockerd's own defaults, in its order.
DEFAULT_POOLS = (
    AddressPool("172.17.0.0/16", 16), AddressPool("172.18.0.0/16", 16), AddressPool("172.19.0.0/16", 16),
    AddressPool("172.20.0.0/14", 16), AddressPool("172.24.0.0/14", 16), AddressPool("172.28.0.0/14", 16),
    AddressPool("192.168.0.0/16", 20),
)


class NetworkSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Set-up of one engine's network; all names of links, tables and files follow from ``exec_root``.

    ``bip`` is the bridge's own address with its prefix ("172.30.0.1/16"), None takes a subnet out of ``pools``.
    ``mtu`` 0 means that of the link with the default route. ``publish_ip`` None publishes on all IPv4 and all IPv6
    addresses ("0.0.0.0" means IPv4 alone). ``warm`` namespaces are kept ready for the next containers.
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
    def table(self) -> str:
        return "barque-" + self.suffix if self.suffix else "barque"


class NetworkInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A network as clients see it; ``bridge`` and what follows only where the driver is "bridge"."""

    id: str
    name: str
    driver: str
    created: str
    bridge: str = ""
    subnet: str = ""
    ip_range: str = ""
    gateway: str = ""
    mtu: int = 0
    icc: bool = True
    masquerade: bool = True
    publish_ip: str = ""


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
    """A host port that leads to a container port; one per address family."""

    container_port: int
    protocol: str
    host_ip: str
    host_port: int


class Endpoint(msgspec.Struct, frozen=True, kw_only=True):
    """One interface of a sandbox on one network."""

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


class SandboxRequest(msgspec.Struct, frozen=True, kw_only=True):
    """``name`` is the container's name as error texts show it; ``sysctls`` are the container's ``net.*`` settings."""

    container_id: str
    mode: str
    name: str = ""
    hostname: str = ""
    aliases: tuple[str, ...] = ()
    mac: str | None = None
    ipv4: str | None = None
    ports: tuple[PortBinding, ...] = ()
    sysctls: dict[str, str] = {}


class Sandbox(msgspec.Struct, frozen=True, kw_only=True):
    """A container's network as it stands: stored by the engine, handed to ``Network.reconcile`` at its next boot."""

    container_id: str
    mode: str
    netns_path: str | None
    endpoints: tuple[Endpoint, ...] = ()
    ports: tuple[PublishedPort, ...] = ()
