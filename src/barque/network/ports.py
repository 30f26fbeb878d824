"""Host ports: which are free, reserved by really binding them, and handed to the port keeper.

Like dockerd we bind a socket for each published port although the kernel's address translation serves most of them:
so a port that a program of the host uses is refused, and no program can take one of ours later.
"""

from __future__ import annotations

import contextlib
import ipaddress
import logging
import os
import socket
from collections.abc import Iterable, Iterator, Sequence

from barque.errors import InvalidArgument
from barque.network.errors import PortFailure
from barque.network.firewall import ANY4, ANY6, port_target, serving_endpoint
from barque.network.keeper_client import KeeperClient
from barque.network.model import Endpoint, PortBinding, PublishedPort

log = logging.getLogger(__name__)

_EPHEMERAL = "/proc/sys/net/ipv4/ip_local_port_range"
_SOCKETS = {"tcp": (socket.SOCK_STREAM, socket.IPPROTO_TCP), "udp": (socket.SOCK_DGRAM, socket.IPPROTO_UDP),
            "sctp": (socket.SOCK_STREAM, socket.IPPROTO_SCTP)}
_BACKLOG = 4096

Reservation = tuple[PublishedPort, socket.socket]


class _Taken(Exception):
    """A port that cannot be had; the text is the end of dockerd's message."""


class HostPorts:
    """All host ports of this engine. Blocking, for one thread."""

    def __init__(self, keeper: KeeperClient) -> None:
        self._keeper = keeper
        self._taken: dict[tuple[str, int], set[str]] = {}
        self._next = 0

    def reserve(self, bindings: Iterable[PortBinding], name: str, endpoint_id: str, *, publish_ip: str | None,
                relayed: bool) -> list[Reservation]:
        """Bind a socket for each binding and address family, or for none: raises PortFailure in dockerd's words.

        ``publish_ip`` is for bindings that name no address, None means all; ``relayed``: see PublishedPort.
        """
        with contextlib.ExitStack() as undo:
            reserved: list[Reservation] = []
            for binding in bindings:
                try:
                    part = self._reserve(binding, binding.host_ip or publish_ip, relayed)
                except _Taken as error:
                    raise PortFailure(name=name, endpoint=endpoint_id, reason=error) from error
                undo.callback(self.cancel, part)
                reserved += part
            undo.pop_all()
            return reserved

    def cancel(self, reserved: Iterable[Reservation]) -> None:
        """Undo :meth:`reserve` before :meth:`hand_over`."""
        for port, sock in reserved:
            sock.close()
            self._forget(port)

    def hand_over(self, reserved: Sequence[Reservation], endpoints: Sequence[Endpoint]) -> None:
        """Give the sockets to the keeper, which relays what the kernel cannot translate; closes them here."""
        for port, sock in reserved:
            self._give(sock, port, endpoints)
            sock.close()

    def release(self, ports: Iterable[PublishedPort]) -> None:
        ports = list(ports)
        self._keeper.drop(ports)
        for port in ports:
            self._forget(port)

    def restore(self, live: Iterable[tuple[Sequence[Endpoint], PublishedPort]]) -> list[str]:
        """Take over what a keeper holds, bind again what is missing, drop what is not in ``live``.

        Returns one line for each port that another program has taken meanwhile; translated ports work nevertheless.
        """
        held = {(port.protocol, port.host_ip, port.host_port): port for port in self._keeper.adopt()}
        missing = []
        for endpoints, port in live:
            self._taken.setdefault((port.protocol, port.host_port), set()).add(port.host_ip)
            if held.pop((port.protocol, port.host_ip, port.host_port), None) is None:
                missing.append((endpoints, port))
        lost = self.retake(missing)
        self._keeper.drop(list(held.values()))
        return lost

    def retake(self, ports: Iterable[tuple[Sequence[Endpoint], PublishedPort]]) -> list[str]:
        """Bind ports again that were ours; returns a line for each that another program has taken meanwhile."""
        lost = []
        for endpoints, port in ports:
            self._taken.setdefault((port.protocol, port.host_port), set()).add(port.host_ip)
            try:
                with _bind(port) as sock:
                    self._give(sock, port, endpoints)
            except OSError as error:
                lost.append(f"{port.host_ip}:{port.host_port}/{port.protocol}: {_reason(error)}")
        return lost

    def aim(self, ports: Iterable[PublishedPort], before: Sequence[Endpoint], after: Sequence[Endpoint]) -> None:
        """Let the keeper relay to the endpoints ``after``, where that is another address; connections go on."""
        for port in ports:
            if _relay_target(port, before) == _relay_target(port, after):
                continue
            self._keeper.drop([port])
            try:
                with _bind(port) as sock:
                    self._give(sock, port, after)
            except OSError as error:
                log.warning("published port %s/%s was taken by another program: %s", _pair(port), port.protocol,
                            _reason(error))

    def _give(self, sock: socket.socket, port: PublishedPort, endpoints: Sequence[Endpoint]) -> None:
        target = _relay_target(port, endpoints)
        try:
            self._keeper.give(sock, port, target)
        except (BrokenPipeError, ConnectionError):
            self._keeper.close()
            self._keeper.give(sock, port, target)

    def _reserve(self, binding: PortBinding, host_ip: str | None, relayed: bool) -> list[Reservation]:
        if binding.protocol not in _SOCKETS:
            raise InvalidArgument(f"invalid proto: {binding.protocol}")
        last = max(binding.host_port_start, binding.host_port_end)
        if not (0 < binding.container_port <= 65535 and binding.host_port_start >= 0 and last <= 65535):
            raise InvalidArgument(f"invalid port specification: {binding.host_port_start}-{last}:"
                                  f"{binding.container_port}/{binding.protocol}")
        addresses = self._addresses(host_ip)
        if binding.protocol == "sctp":
            if relayed:
                raise InvalidArgument("cannot publish an SCTP port where published ports obey the host's INPUT rules")
            # The kernel translates between IPv4 addresses; nothing here relays SCTP.
            addresses = [address for address in addresses if ":" not in address]
            if not addresses:
                raise InvalidArgument(f"cannot publish an SCTP port on {host_ip}: IPv4 only")
        if binding.host_port_start == 0:
            reserved = self._first(binding, addresses, self._ephemeral(), relayed)
            self._next = reserved[0][0].host_port + 1
            return reserved
        return self._first(binding, addresses, range(binding.host_port_start, last + 1), relayed)

    def _first(self, binding: PortBinding, addresses: list[str], candidates: Iterable[int], relayed: bool
               ) -> list[Reservation]:
        """Reserve the first candidate that is free at all addresses; raises the last one's failure."""
        last = _Taken("all ports are allocated")
        for host_port in candidates:
            try:
                return self._bind_all(binding, addresses, host_port, relayed)
            except _Taken as error:
                last = error
        raise last

    def _bind_all(self, binding: PortBinding, addresses: list[str], host_port: int, relayed: bool
                  ) -> list[Reservation]:
        reserved: list[Reservation] = []
        for address in addresses:
            port = PublishedPort(container_port=binding.container_port, protocol=binding.protocol, host_ip=address,
                                 host_port=host_port, relayed=relayed)
            try:
                self._check(port)
                reserved.append((port, _bind(port)))
            except _Taken:
                self.cancel(reserved)
                raise
            except OSError as error:
                self.cancel(reserved)
                raise _Taken(f"failed to bind host port {_pair(port)}/{port.protocol}: {_reason(error)}") from error
            self._taken.setdefault((port.protocol, port.host_port), set()).add(address)
        return reserved

    def _check(self, port: PublishedPort) -> None:
        """Is the port ours already? "All addresses" and any one of the same family exclude each other."""
        any_address = ANY6 if ":" in port.host_ip else ANY4
        for other in self._taken.get((port.protocol, port.host_port), ()):
            if other == port.host_ip or other == any_address or (
                    port.host_ip == any_address and (":" in other) == (":" in any_address)):
                raise _Taken(f"Bind for {_pair(port)} failed: port is already allocated")

    def _forget(self, port: PublishedPort) -> None:
        addresses = self._taken.get((port.protocol, port.host_port), set())
        addresses.discard(port.host_ip)
        if not addresses:
            self._taken.pop((port.protocol, port.host_port), None)

    def _addresses(self, host_ip: str | None) -> list[str]:
        if not host_ip:
            return [ANY4, ANY6] if _has_ipv6() else [ANY4]
        try:
            return [str(ipaddress.ip_address(host_ip))]
        except ValueError:
            raise InvalidArgument(f"invalid IP address: {host_ip}") from None

    def _ephemeral(self) -> Iterator[int]:
        """The kernel's range for outgoing connections, as dockerd does, each time from where the last search ended."""
        with open(_EPHEMERAL) as file:
            first, last = map(int, file.read().split())
        start = self._next if first <= self._next <= last else first
        yield from range(start, last + 1)
        yield from range(first, start)


def _relay_target(port: PublishedPort, endpoints: Sequence[Endpoint]) -> str | None:
    """Where the keeper has to relay connections of ``port`` to; None where the kernel translates them all."""
    endpoint = serving_endpoint(endpoints, port)
    if endpoint is None or port.protocol == "sctp" or (
            port_target(endpoints, port) is not None and port.host_ip not in (ANY6, "::1")):
        return None
    return endpoint.addresses[-1 if ":" in port.host_ip else 0]


def _bind(port: PublishedPort) -> socket.socket:
    kind, protocol = _SOCKETS[port.protocol]
    family = socket.AF_INET6 if ":" in port.host_ip else socket.AF_INET
    sock = socket.socket(family, kind | socket.SOCK_CLOEXEC, protocol)
    try:
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if port.protocol != "udp":
            # Connections of an earlier holder in TIME_WAIT are no reason to refuse; listeners still are.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((port.host_ip, port.host_port))
        if port.protocol != "udp":
            sock.listen(_BACKLOG)
    except OSError:
        sock.close()
        raise
    return sock


def _pair(port: PublishedPort) -> str:
    """``ip:port`` as Go prints it."""
    return f"[{port.host_ip}]:{port.host_port}" if ":" in port.host_ip else f"{port.host_ip}:{port.host_port}"


def _reason(error: OSError) -> str:
    """The errno's text as Go has it: in small letters."""
    return os.strerror(error.errno or 0).lower()


def _has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock:
            sock.bind(("::", 0))
        return True
    except OSError:
        return False
