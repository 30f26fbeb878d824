"""Containers' networks, made and unmade: the blocking half of :mod:`barque.network.stack`, for its one thread."""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import ipaddress
import logging
import os
import re
import secrets
import socket
from collections.abc import Iterable

from barque.errors import BarqueError, InvalidArgument
from barque.network import bridge as bridges
from barque.network import firewall, forwarding
from barque.network.bridge import Bridge
from barque.network.endpoint import INTERFACE, Slot, WarmPool, make_slot
from barque.network.errors import PortsWithoutNetwork, SandboxExists, StaticAddressRefused, UnknownMode
from barque.network.ipam import Addresses, mac_for
from barque.network.keeper_client import KeeperClient
from barque.network.model import Endpoint, NetworkInfo, NetworkSettings, Sandbox, SandboxRequest
from barque.network.ports import HostPorts
from barque.sys import conntrack, netns, rtnetlink
from barque.sys.nft import Nftables, NftablesError
from barque.sys.rtnetlink import Netlink

log = logging.getLogger(__name__)

_SYSCTL = re.compile(r"net([./][A-Za-z0-9_-]+)+")
_MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}")
_MODES = ("bridge", "none", "host")


class Sandboxes:
    """All networking state of one engine, in the kernel and in memory."""

    def __init__(self, settings: NetworkSettings) -> None:
        self.settings = settings
        self._pins = os.path.join(settings.exec_root, "netns")
        self._live: dict[str, Sandbox] = {}
        self._created = datetime.datetime.now(datetime.UTC).isoformat().replace("+00:00", "Z")
        with contextlib.ExitStack() as undo:
            self._nft = Nftables()
            undo.callback(self._nft.close)
            self._netlink = undo.enter_context(Netlink())
            os.makedirs(self._pins, mode=0o711, exist_ok=True)
            netns.share(self._pins)
            undo.callback(self._unshare)
            self.bridge = self._default_bridge()
            self._closed = settings.ip_forward and forwarding.ensure_forwarding(
                os.path.join(settings.exec_root, "forwarding"))
            if not self._table_exists():
                # An existing one may carry ports of running containers; reconcile replaces it in one go.
                self._nft.apply(self._script(()))
            self._warm = WarmPool(self.bridge, settings.warm)
            self.keeper = KeeperClient(os.path.join(settings.exec_root, "ports.sock"))
            self._ports = HostPorts(self.keeper, settings.publish_ip)
            undo.pop_all()

    def network_id(self, name: str) -> str:
        """64 hex digits that stay the same as long as the engine has its exec root."""
        return hashlib.sha256(f"{self.settings.exec_root}\0{name}".encode()).hexdigest()

    def networks(self) -> list[NetworkInfo]:
        """The default bridge, host and none."""
        settings, addresses = self.settings, self.bridge.addresses
        return [
            NetworkInfo(id=self.bridge.network_id, name="bridge", driver="bridge", created=self._created,
                        bridge=self.bridge.link.name, subnet=str(addresses.subnet), ip_range=settings.fixed_cidr or "",
                        gateway=str(addresses.gateway), mtu=self.bridge.mtu, icc=settings.icc,
                        masquerade=settings.masquerade, publish_ip=settings.publish_ip or firewall.ANY4),
            NetworkInfo(id=self.network_id("host"), name="host", driver="host", created=self._created),
            NetworkInfo(id=self.network_id("none"), name="none", driver="null", created=self._created),
        ]

    def blockers(self) -> list[str]:
        return forwarding.blocking_chains(self._nft, self.settings.table)

    def setup(self, request: SandboxRequest) -> Sandbox:
        """Make the network of one container, or leave nothing behind."""
        _check(request)
        if request.container_id in self._live:
            raise SandboxExists(id=request.container_id)
        if request.mode == "host":
            sandbox = Sandbox(container_id=request.container_id, mode="host", netns_path=None)
        else:
            with contextlib.ExitStack() as undo:
                sandbox = self._setup(request, undo)
                undo.pop_all()
        self._live[request.container_id] = sandbox
        return sandbox

    def teardown(self, container_id: str) -> None:
        """Unmake it; does not wait for the namespace to die. An unknown container is no error."""
        netns.unpin(self._pin(container_id))
        sandbox = self._live.pop(container_id, None)
        if sandbox is None:
            return
        lines = firewall.port_elements("delete", self.settings.table, sandbox.endpoints, sandbox.ports)
        if lines:
            try:
                self._nft.apply("\n".join(lines))
            except NftablesError as error:
                self._put_back(error)
        self._ports.release(sandbox.ports)
        for endpoint in sandbox.endpoints:
            address = ipaddress.IPv4Address(endpoint.ipv4)
            if sandbox.ports:
                conntrack.forget_answers_from(address)
            self.bridge.addresses.release(address)

    def reconcile(self, live: Iterable[Sandbox]) -> None:
        """Know exactly the sandboxes ``live`` from now on: rules, ports, addresses and pins of all others go."""
        self._live = {sandbox.container_id: sandbox for sandbox in live}
        keep = {container_id[:12] for container_id, sandbox in self._live.items() if sandbox.netns_path}
        for name in os.listdir(self._pins):
            if name not in keep:
                netns.unpin(os.path.join(self._pins, name))
        for sandbox in self._live.values():
            if sandbox.netns_path and not netns.is_pinned(sandbox.netns_path):
                log.warning("the network namespace of container %s is gone from %s", sandbox.container_id[:12],
                            sandbox.netns_path)
            for endpoint in sandbox.endpoints:
                self._reclaim(sandbox, endpoint)
        self._nft.apply(self._script(self._live.values()))
        for line in self._ports.restore((sandbox.endpoints, port) for sandbox in self._live.values()
                                        for port in sandbox.ports):
            log.warning("cannot reserve a published port again: %s", line)

    def restart_keeper(self) -> None:
        """The keeper died: start another one with all ports."""
        self.keeper.close()
        for line in self._ports.restore((sandbox.endpoints, port) for sandbox in self._live.values()
                                        for port in sandbox.ports):
            log.warning("cannot reserve a published port again: %s", line)

    def warm_up(self) -> bool:
        """Add one slot if one is missing; returns whether another one is."""
        if self._warm.lacks():
            self._warm.add_one(self._netlink)
        return self._warm.lacks()

    def close(self, remove: bool) -> None:
        """Let go of everything; with ``remove`` also unmake what the kernel holds, running containers included."""
        self._warm.clear()
        if remove:
            for container_id in list(self._live):
                self.teardown(container_id)
            for name in os.listdir(self._pins):
                netns.unpin(os.path.join(self._pins, name))
            self._nft.apply(firewall.removal(self.settings.table))
            self._netlink.request(rtnetlink.delete_link(self.bridge.link.index))
        self._unshare()
        self.keeper.finish(empty=not any(sandbox.ports for sandbox in self._live.values()))
        self._netlink.close()
        self._nft.close()

    def _unshare(self) -> None:
        if not os.listdir(self._pins):
            netns.unmount(self._pins)

    def _default_bridge(self) -> Bridge:
        settings = self.settings
        name = settings.bridge_name
        mtu = settings.mtu or bridges.default_mtu(self._netlink)
        bip, within = _addresses_of(settings)
        with netns.locked():
            # Two engines that start together would see the same subnet free.
            gateway = bip or bridges.choose_gateway(self._netlink, name, settings.pools)
            if bip is not None:
                bridges.check_free(self._netlink, name, bip)
            link = bridges.ensure_link(self._netlink, name, gateway, mtu)
        network_id = self.network_id("bridge")
        addresses = Addresses("bridge", network_id, gateway.network, gateway.ip, within=within)
        return Bridge("bridge", network_id, link, addresses, mtu=mtu, icc=settings.icc, masquerade=settings.masquerade)

    def _script(self, sandboxes: Iterable[Sandbox]) -> str:
        return firewall.script(self.settings.table, [self.bridge.rules], sandboxes, closed=self._closed)

    def _put_back(self, refused: NftablesError) -> None:
        """If a change was refused since somebody flushed our table, make it anew for the live sandboxes."""
        if self._table_exists():
            raise refused
        log.warning("the nftables table inet %s was removed by another program: putting it back", self.settings.table)
        self._nft.apply(self._script(self._live.values()))

    def _table_exists(self) -> bool:
        return any(item.get("table", {}).get("name") == self.settings.table for item in self._nft.list("tables"))

    def _pin(self, container_id: str) -> str:
        return os.path.join(self._pins, container_id[:12])

    def _setup(self, request: SandboxRequest, undo: contextlib.ExitStack) -> Sandbox:
        bridged = request.mode == "bridge"
        endpoint_id = secrets.token_hex(32)
        reserved = self._ports.reserve(request.ports, request.name, endpoint_id)
        undo.callback(self._ports.cancel, reserved)
        slot = self._warm.take(self._netlink) if bridged else make_slot(self._netlink, None)
        with contextlib.ExitStack() as handle:
            # The slot's own handle goes in any case: from the pin on, the path keeps the namespace.
            handle.callback(slot.discard)
            endpoints = (self._connect(slot, request, endpoint_id, undo),) if bridged else ()
            if request.sysctls:
                with netns.entered(slot.fd):
                    for key, value in request.sysctls.items():
                        bridges.write_sysctl(key.replace(".", "/"), value)
            path = self._pin(request.container_id)
            netns.pin(slot.fd, path)
            undo.callback(netns.unpin, path)
        ports = tuple(port for port, _ in reserved)
        lines = firewall.port_elements("add", self.settings.table, endpoints, ports)
        if lines:
            try:
                self._nft.apply("\n".join(lines))
            except NftablesError as error:
                self._put_back(error)
                self._nft.apply("\n".join(lines))
            undo.callback(self._nft.apply, "\n".join(
                firewall.port_elements("delete", self.settings.table, endpoints, ports)))
            for udp_port in {port.host_port for port in ports if port.protocol == "udp"}:
                # A client that was sending before the port was published is known as one of the host itself.
                conntrack.forget_port(socket.IPPROTO_UDP, udp_port)
        undo.callback(self._ports.release, ports)
        self._ports.hand_over(reserved, endpoints)
        return Sandbox(container_id=request.container_id, mode=request.mode, netns_path=path, endpoints=endpoints,
                       ports=ports)

    def _connect(self, slot: Slot, request: SandboxRequest, endpoint_id: str, undo: contextlib.ExitStack) -> Endpoint:
        addresses = self.bridge.addresses
        address = addresses.allocate()
        undo.callback(addresses.release, address)
        mac = request.mac or mac_for(address)
        slot.configure(mac, ipaddress.IPv4Interface((address, addresses.subnet.prefixlen)), addresses.gateway)
        if request.ports:
            # Where br_netfilter is on (another engine may load it any time), addresses are translated inside the
            # bridge, and a container that calls its own published port would get its packets thrown away.
            self._netlink.request(rtnetlink.set_hairpin(slot.port))
        return Endpoint(network_name=self.bridge.network_name, network_id=self.bridge.network_id,
                        endpoint_id=endpoint_id, interface=INTERFACE, mac=mac, ipv4=str(address),
                        prefix_len=addresses.subnet.prefixlen, gateway=str(addresses.gateway))

    def _reclaim(self, sandbox: Sandbox, endpoint: Endpoint) -> None:
        try:
            self.bridge.addresses.claim(ipaddress.IPv4Address(endpoint.ipv4))
        except BarqueError as error:
            log.warning("container %s keeps address %s, which does not fit: %s", sandbox.container_id[:12],
                        endpoint.ipv4, error)


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


def _check(request: SandboxRequest) -> None:
    if request.mode not in _MODES:
        raise UnknownMode(mode=request.mode)
    if request.mode != "bridge" and request.ports:
        raise PortsWithoutNetwork(mode=request.mode)
    if request.ipv4:
        raise StaticAddressRefused()
    if request.mac and not _MAC.fullmatch(request.mac):
        raise InvalidArgument(f"invalid MAC address: {request.mac}")
    for key in request.sysctls:
        if not _SYSCTL.fullmatch(key):
            raise InvalidArgument(f"sysctl '{key}' is not of the network namespace")
        if request.mode == "host":
            raise InvalidArgument(f"sysctl '{key}' cannot be set with the host's network")
