"""Containers' networks, made, changed and unmade: the blocking half of :mod:`barque.network.stack`, for one thread."""

from __future__ import annotations

import contextlib
import datetime
import ipaddress
import logging
import os
import re
import secrets
import socket
from collections.abc import Collection, Iterable

from msgspec.structs import replace

from barque.errors import BarqueError, InvalidArgument
from barque.network import bridge as bridges
from barque.network.bridge import KernelNetwork
from barque.network.endpoint import Slot, WarmPool, configure, free_name, opened, plug, route, unplug
from barque.network.errors import (
    AddressInUse,
    AlreadyConnected,
    InterfaceTaken,
    NetworkInUse,
    NoSandbox,
    NotConnected,
    PortsOfInternal,
    PortsWithoutNetwork,
    SandboxExists,
    StaticAddressRefused,
    UnknownMode,
)
from barque.network.firewall import ports_endpoint
from barque.network.ipam import mac_for
from barque.network.keeper_client import KeeperClient
from barque.network.model import (
    Attachment,
    Endpoint,
    NetworkSettings,
    NetworkSpec,
    PortBinding,
    PublishedPort,
    Sandbox,
    SandboxRequest,
)
from barque.network.names import Names
from barque.network.networks import Networks
from barque.network.ports import HostPorts, Reservation
from barque.network.rules import Rules
from barque.sys import conntrack, netns, rtnetlink
from barque.sys.nft import Nftables
from barque.sys.rtnetlink import Netlink

log = logging.getLogger(__name__)

_SYSCTL = re.compile(r"net([./][A-Za-z0-9_-]+)+")
_MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}")
_MODES = ("bridge", "none", "host", "networks")


class Sandboxes:
    """All networking state of one engine, in the kernel and in memory."""

    def __init__(self, settings: NetworkSettings) -> None:
        self.settings = settings
        self._pins = os.path.join(settings.exec_root, "netns")
        self._live: dict[str, Sandbox] = {}
        self._severed: list[str] = []
        created = datetime.datetime.now(datetime.UTC).isoformat().replace("+00:00", "Z")
        with contextlib.ExitStack() as undo:
            self._netlink = undo.enter_context(Netlink())
            os.makedirs(self._pins, mode=0o711, exist_ok=True)
            netns.share(self._pins)
            undo.callback(self._unshare)
            # Engines that start or stop together would see the same subnet free, or nobody who needs forwarding.
            with netns.locked():
                nft = undo.enter_context(contextlib.closing(Nftables()))
                self.networks = Networks(settings, self._netlink, nft, created)
                self.rules = Rules(settings, self.networks, nft, self._live)
            self._warm = WarmPool(self.networks.default.mtu, settings.warm)
            self.keeper = KeeperClient(os.path.join(settings.exec_root, "ports.sock"))
            self.names = Names(os.path.join(settings.exec_root, "names.sock"), self.networks)
            self._ports = HostPorts(self.keeper)
            undo.pop_all()

    def setup(self, request: SandboxRequest) -> Sandbox:
        """Make the network of one container, or leave nothing behind."""
        _check(request)
        if request.container_id in self._live:
            raise SandboxExists(id=request.container_id)
        if request.mode == "host":
            sandbox = Sandbox(container_id=request.container_id, mode="host", netns_path=None, name=request.name)
        else:
            with contextlib.ExitStack() as undo:
                sandbox = self._setup(request, undo)
                undo.pop_all()
        self._live[request.container_id] = sandbox
        return sandbox

    def teardown(self, container_ids: Iterable[str]) -> None:
        """Unmake them; does not wait for the namespaces to die. Unknown containers are no error."""
        container_ids = list(container_ids)
        gone = [self._live.pop(container_id) for container_id in container_ids if container_id in self._live]
        self._sever(gone)
        for container_id in container_ids:
            netns.unpin(self._pin(container_id))
        for sandbox in gone:
            self.names.drop(sandbox)
        try:
            self.rules.drop(gone)
        finally:
            self._ports.release([port for sandbox in gone for port in sandbox.ports])
            for sandbox in gone:
                for endpoint in sandbox.endpoints:
                    # TCP ends with the container; what has no end goes on to the address for as long as packets come.
                    self._release(endpoint, used=any(port.protocol != "tcp" for port in sandbox.ports))

    def _sever(self, gone: Iterable[Sandbox]) -> None:
        """Cut containers off. A namespace lives on as long as it has a process (of a container that shares it) or a
        connection with unsent data: what is in there must not go on with addresses that are another's soon, nor without
        the rules against forged ones."""
        endpoints = [(sandbox, endpoint) for sandbox in gone for endpoint in sandbox.endpoints]
        ports = [endpoint.port for _, endpoint in endpoints if endpoint.port]
        with contextlib.suppress(OSError):  # some are gone: the others are down
            self._netlink.request(*map(rtnetlink.set_down, ports))
        self._severed += ports
        for sandbox, endpoint in endpoints:
            if not endpoint.port:
                with contextlib.suppress(OSError), self._opened(sandbox) as slot:
                    slot.netlink.request(rtnetlink.set_down(endpoint.interface))

    def sweep(self) -> None:
        """Delete interfaces of containers that went, where their namespaces have not taken them along."""
        severed, self._severed = self._severed, []
        bridges.delete_links(self._netlink, severed)

    def connect(self, container_id: str, attachment: Attachment) -> Sandbox:
        """Put a running container on one more network; all or nothing. Returns its sandbox as it is then."""
        before = self._running(container_id)
        network = self.networks.get(attachment.network_id)
        if any(endpoint.network_id == network.id for endpoint in before.endpoints):
            raise AlreadyConnected(name=before.name, network=network.name)
        with contextlib.ExitStack() as undo, self._opened(before) as slot:
            endpoint, index = self._plug(slot, network, attachment, {end.interface for end in before.endpoints}, undo)
            undo.callback(unplug, self._netlink, slot, endpoint)
            after = replace(before, endpoints=(*before.endpoints, endpoint))
            self._change(slot, before, after, {endpoint.interface: index}, undo)
            undo.pop_all()
        return after

    def disconnect(self, container_id: str, network_id: str) -> Sandbox:
        """Take a running container off one network; returns its sandbox as it is then."""
        before = self._running(container_id)
        endpoint = next((end for end in before.endpoints if end.network_id == network_id), None)
        if endpoint is None:
            raise NotConnected(id=container_id, network=network_id)
        after = replace(before, endpoints=tuple(end for end in before.endpoints if end is not endpoint))
        with contextlib.ExitStack() as undo, self._opened(before) as slot:
            unplug(self._netlink, slot, endpoint)
            self._change(slot, before, after, {}, undo)
            undo.pop_all()
        self._release(endpoint, used=bool(before.ports))
        return after

    def republish(self, container_id: str, add: Iterable[PortBinding], remove: Iterable[PublishedPort]) -> Sandbox:
        """Publish more ports of a running container and ``remove`` others, in one transaction; all or nothing."""
        before = self._running(container_id)
        gone = set(remove)
        kept = tuple(port for port in before.ports if port not in gone)
        with contextlib.ExitStack() as undo:
            # What goes is free first: the same host port may come back with another container port.
            self._ports.release(gone)
            undo.callback(self._retake, before, gone)
            reserved = self._reserve(add, before.name, before.endpoints)
            undo.callback(self._ports.cancel, reserved)
            after = replace(before, ports=(*kept, *(port for port, _ in reserved)))
            self._publish(before, after, reserved, undo)
            undo.pop_all()
        for endpoint in before.endpoints if gone else ():
            _forget_connections(endpoint)
        self._live[container_id] = after
        return after

    def rename(self, container_id: str, name: str) -> Sandbox | None:
        """A container has another name from now on, on all its networks; None for one that has no network."""
        before = self._live.get(container_id)
        if before is None:
            return None
        endpoints = tuple(replace(end, names=tuple(name if item == before.name else item for item in end.names))
                          for end in before.endpoints)
        after = replace(before, name=name, endpoints=endpoints)
        if self.names.open_for(before):
            self.names.update(after)
        self._live[container_id] = after
        return after

    def create_network(self, spec: NetworkSpec) -> NetworkSpec:
        """Make a network, all of it or nothing; returns what was made of ``spec``."""
        closed = set(self.networks.closed)
        with netns.locked():
            spec = self.networks.create(spec)
            try:
                if closed != self.networks.closed:
                    self.rules.rebuild()
                elif not spec.config_only:
                    self.rules.add_network(self.networks.get(spec.id))
            except OSError:
                self.networks.remove([spec.id])
                raise
        return spec

    def remove_networks(self, network_ids: Collection[str]) -> None:
        """Unmake networks, all at one go; raises NetworkInUse while a container is on one of them, NetworkMissing."""
        used = {endpoint.network_id for sandbox in self._live.values() for endpoint in sandbox.endpoints}
        for network_id in network_ids:
            name = self.networks.name(network_id)
            if network_id in used:
                raise NetworkInUse(name=name, id=network_id)
        self.rules.drop_networks([network for network in self.networks if network.id in network_ids])
        self.networks.remove(network_ids)

    def reconcile(self, live: Iterable[Sandbox], specs: Iterable[NetworkSpec]) -> None:
        """Know exactly these networks and sandboxes from now on: rules, ports, addresses and pins of others go."""
        self._live.clear()
        self._live.update((sandbox.container_id, sandbox) for sandbox in live)
        with netns.locked():
            self.networks.restore(specs)
            self.rules.rebuild()
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
        self._restore_ports()
        self.names.restore(self._live.values())

    def restart_keeper(self) -> None:
        """The port keeper died: start another one with all ports."""
        self.keeper.close()
        self._restore_ports()

    def restart_names(self) -> None:
        """The name keeper died: start another one."""
        self.names.close()
        self.names.restore(self._live.values())

    def warm_up(self) -> bool:
        """Add one slot if one is missing; returns whether another one is."""
        if self._warm.lacks():
            self._warm.add_one(self._netlink)
        return self._warm.lacks()

    def close(self, remove: bool) -> None:
        """Let go of everything; with ``remove`` also unmake what the kernel holds, running containers included."""
        self._warm.clear()
        if remove:
            self.teardown(list(self._live))
            for name in os.listdir(self._pins):
                netns.unpin(os.path.join(self._pins, name))
            with netns.locked():
                self.rules.remove()
            self.networks.unmake_all()
        self.sweep()
        self._unshare()
        self.keeper.finish(empty=not any(sandbox.ports for sandbox in self._live.values()))
        self.names.process.finish(empty=not self._live)
        self._netlink.close()
        self.rules.close()

    def _unshare(self) -> None:
        if not os.listdir(self._pins):
            netns.unmount(self._pins)

    def _pin(self, container_id: str) -> str:
        return os.path.join(self._pins, container_id[:12])

    def _running(self, container_id: str) -> Sandbox:
        sandbox = self._live.get(container_id)
        if sandbox is None or sandbox.netns_path is None:
            raise NoSandbox(id=container_id)
        return sandbox

    def _opened(self, sandbox: Sandbox) -> contextlib.AbstractContextManager[Slot]:
        assert sandbox.netns_path is not None
        return opened(sandbox.netns_path)

    def _setup(self, request: SandboxRequest, undo: contextlib.ExitStack) -> Sandbox:
        attachments = request.attachments
        if request.mode == "bridge" and not attachments:
            attachments = (Attachment(network_id=self.networks.default.id, mac=request.mac),)
        networks = [self.networks.get(attachment.network_id) for attachment in attachments]
        slot = self._warm.take(self._netlink, networks[0] if networks else None)
        with contextlib.ExitStack() as handle:
            # The slot's own handle goes in any case: from the pin on, the path keeps the namespace.
            handle.callback(slot.discard)
            endpoints: tuple[Endpoint, ...] = ()
            known = {}
            spoken_for = {attachment.interface for attachment in attachments if attachment.interface}
            for network, attachment in zip(networks, attachments, strict=True):
                taken = {end.interface for end in endpoints} | (spoken_for if not attachment.interface else set())
                endpoint, index = self._plug(slot, network, attachment, taken, undo)
                endpoints += (endpoint,)
                known[endpoint.interface] = index
            route(slot, (), endpoints, known)
            reserved = self._reserve(request.ports, request.name, endpoints)
            undo.callback(self._ports.cancel, reserved)
            if request.sysctls:
                with netns.entered(slot.fd):
                    for key, value in request.sysctls.items():
                        bridges.write_sysctl(key.replace(".", "/"), value)
            path = self._pin(request.container_id)
            netns.pin(slot.fd, path)
            undo.callback(netns.unpin, path)
            sandbox = Sandbox(container_id=request.container_id, mode=request.mode, netns_path=path, name=request.name,
                              endpoints=endpoints, ports=tuple(port for port, _ in reserved),
                              resolving=request.resolving)
            self._publish(None, sandbox, reserved, undo)
            self.names.open(slot.fd, sandbox)
        return sandbox

    def _plug(self, slot: Slot, network: KernelNetwork, attachment: Attachment, taken: Collection[str],
              undo: contextlib.ExitStack) -> tuple[Endpoint, int]:
        """An interface in the slot with addresses on the network, up; returns also its index. No routes yet.

        ``taken`` are names that it cannot have."""
        self._check_attachment(network, attachment)
        name = attachment.interface or free_name(taken)
        if name in taken or name == "lo":
            raise InterfaceTaken(interface=name)
        four, six = network.take(attachment, undo)
        interface = plug(self._netlink, slot, network, name)
        gateway, gateway6 = network.gateways()
        first = four or six
        assert first is not None
        endpoint = Endpoint(
            network_name=network.name, network_id=network.id, endpoint_id=secrets.token_hex(32), interface=name,
            mac="" if network.driver == "ipvlan" else attachment.mac or mac_for(first), ipv4=str(four or ""),
            prefix_len=network.addresses.subnet.prefixlen if network.addresses else 0, gateway=gateway,
            ipv6=str(six) if six else None,
            ipv6_prefix_len=network.addresses6.subnet.prefixlen if network.addresses6 else 0, ipv6_gateway=gateway6,
            port=interface.port, gw_priority=attachment.gw_priority, names=attachment.names, links=attachment.links,
            link_local=attachment.link_local, routed=network.routed)
        configure(slot, interface, endpoint, attachment.sysctls)
        return endpoint, interface.index

    def _check_attachment(self, network: KernelNetwork, attachment: Attachment) -> None:
        if attachment.ipv4 and not network.embedded_dns:
            raise StaticAddressRefused()
        _check_mac(attachment.mac)
        if attachment.mac and network.driver == "ipvlan":
            raise InvalidArgument("ipvlan interfaces do not support custom mac address assignment")
        if attachment.link_local and any(
                endpoint.network_id == network.id and not set(attachment.link_local).isdisjoint(endpoint.link_local)
                for sandbox in self._live.values() for endpoint in sandbox.endpoints):
            raise AddressInUse()

    def _reserve(self, bindings: Iterable[PortBinding], name: str, endpoints: tuple[Endpoint, ...]
                 ) -> list[Reservation]:
        bindings = tuple(bindings)
        if not bindings or not endpoints:
            return []  # A container that was taken off all its networks has nothing to publish.
        endpoint = ports_endpoint(endpoints)
        if endpoint is None:
            raise PortsWithoutNetwork(mode=endpoints[0].network_name)
        network = self.networks.get(endpoint.network_id)
        outside = [item.host_ip for item in bindings if item.host_ip and not _is_loopback(item.host_ip)]
        if network.internal and outside:
            raise PortsOfInternal(network=network.name, address=outside[0])
        if not endpoint.ipv4 and any(item.protocol == "sctp" for item in bindings):
            raise InvalidArgument("cannot publish an SCTP port of a container without IPv4")
        return self._ports.reserve(bindings, name, endpoint.endpoint_id, publish_ip=network.publish_ip,
                                   relayed=network.obey_input)

    def _publish(self, before: Sandbox | None, after: Sandbox, reserved: list[Reservation],
                 undo: contextlib.ExitStack) -> None:
        """Rules and sockets for the ports of ``after``; those of ``reserved`` are new."""
        endpoint = ports_endpoint(after.endpoints)
        if after.ports and endpoint is not None:
            # Where br_netfilter is on (another engine may load it any time), addresses are translated inside the
            # bridge, and a container that calls its own published port would get its packets thrown away.
            self._netlink.request(rtnetlink.set_hairpin(endpoint.port))
        self.rules.swap(before, after)
        undo.callback(self.rules.swap, after, before)
        for udp_port in {port.host_port for port, _ in reserved if port.protocol == "udp"}:
            # A client that was sending before the port was published is known as one of the host itself.
            _forget_port(socket.IPPROTO_UDP, udp_port)
        undo.callback(self._ports.release, [port for port, _ in reserved])
        self._ports.hand_over(reserved, after.endpoints)

    def _change(self, slot: Slot, before: Sandbox, after: Sandbox, known: dict[str, int],
                undo: contextlib.ExitStack) -> None:
        """Routes, rules, relays and names after an endpoint came or went."""
        route(slot, before.endpoints, after.endpoints, known)
        undo.callback(route, slot, after.endpoints, before.endpoints, known)
        self._publish(before, after, [], undo)
        self._ports.aim(after.ports, before.endpoints, after.endpoints)
        if self.names.open_for(before):
            self.names.update(after)
        else:
            self.names.open(slot.fd, after)
        self._live[after.container_id] = after

    def _release(self, endpoint: Endpoint, *, used: bool) -> None:
        """Give an endpoint's addresses back; ``used``: connections from outside may have been translated to them."""
        if used:
            _forget_connections(endpoint)
        with contextlib.suppress(BarqueError):
            self.networks.get(endpoint.network_id).give_back(endpoint)

    def _reclaim(self, sandbox: Sandbox, endpoint: Endpoint) -> None:
        try:
            self.networks.get(endpoint.network_id).reclaim(endpoint)
        except BarqueError as error:
            log.warning("container %s keeps address %s, which does not fit: %s", sandbox.container_id[:12],
                        ", ".join(endpoint.addresses), error)

    def _retake(self, sandbox: Sandbox, ports: Iterable[PublishedPort]) -> None:
        for line in self._ports.retake((sandbox.endpoints, port) for port in ports):
            log.warning("cannot reserve a published port again: %s", line)

    def _restore_ports(self) -> None:
        for line in self._ports.restore((sandbox.endpoints, port) for sandbox in self._live.values()
                                        for port in sandbox.ports):
            log.warning("cannot reserve a published port again: %s", line)


def _forget_connections(endpoint: Endpoint) -> None:
    """Connections to an endpoint are no more its own. Without ctnetlink in the kernel they go on until they end."""
    try:
        for address in endpoint.addresses:
            conntrack.forget_answers_from(ipaddress.ip_address(address))
    except OSError as error:
        log.warning("connections to %s are not forgotten: %s", ", ".join(endpoint.addresses), error)


def _forget_port(protocol: int, port: int) -> None:
    try:
        conntrack.forget_port(protocol, port)
    except OSError as error:
        log.warning("connections to port %d are not forgotten: %s", port, error)


def _is_loopback(text: str) -> bool:
    try:
        return ipaddress.ip_address(text).is_loopback
    except ValueError:
        return False


def _check_mac(mac: str | None) -> None:
    if mac and not _MAC.fullmatch(mac):
        raise InvalidArgument(f"invalid MAC address: {mac}")
    if mac and (int(mac[:2], 16) & 1 or not int(mac.replace(":", ""), 16)):
        raise InvalidArgument(f"invalid MAC address: {mac}: no single interface can have it")


def _check(request: SandboxRequest) -> None:
    if request.mode not in _MODES:
        raise UnknownMode(mode=request.mode)
    if request.mode in ("host", "none") and request.ports:
        raise PortsWithoutNetwork(mode=request.mode)
    if request.ipv4:
        raise StaticAddressRefused()
    _check_mac(request.mac)
    for key in request.sysctls:
        if not _SYSCTL.fullmatch(key):
            raise InvalidArgument(f"sysctl '{key}' is not of the network namespace")
        if request.mode == "host":
            raise InvalidArgument(f"sysctl '{key}' cannot be set with the host's network")
