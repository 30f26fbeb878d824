"""The engine's end of the name keeper: who is called what, and the name server's sockets inside the containers.

Containers ask 127.0.0.11:53. The sockets are on other ports, and rules in the container's own namespace lead there:
a container may run a name server of its own on all its addresses, and would find port 53 taken else.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import socket
from collections.abc import Iterable
from typing import Any

from barque.network.bridge import KernelNetwork
from barque.network.dns import keeper as name_keeper
from barque.network.hosts_files import OWN_SERVER
from barque.network.keeper_client import KeeperProcess
from barque.network.model import Endpoint, Sandbox, by_way_out
from barque.network.networks import Networks
from barque.sys import netns
from barque.sys.nft import Nftables

log = logging.getLogger(__name__)

_PACKET = 256
_BACKLOG = 64
# Ports are written over, not translated: translation would have conntrack follow all that the container sends and
# receives, and fill the host's table. Both directions pass "output", since both ends are inside.
_REDIRECT = """
table ip barque-names {{
    chain output {{
        type route hook output priority -150; policy accept;
        ip daddr {address} udp dport 53 udp dport set {udp}
        ip daddr {address} tcp dport 53 tcp dport set {tcp}
        ip saddr {address} udp sport {udp} udp sport set 53
        ip saddr {address} tcp sport {tcp} tcp sport set 53
    }}
}}
"""
# Not where there is nothing to remove: closing the socket would wait 12 ms for the kernel to have it removed.
_REMOVE = "add table ip barque-names\ndelete table ip barque-names\n"


class Names:
    """Talks to the name keeper at ``path``; only containers on networks with names have anything to do with it."""

    def __init__(self, path: str, networks: Networks) -> None:
        self.process = KeeperProcess(path, os.path.join(os.path.dirname(name_keeper.__file__), "__main__.py"))
        self._networks = networks
        self._served: set[str] = set()

    def open_for(self, sandbox: Sandbox) -> bool:
        """Whether the container asks us for names already."""
        return sandbox.container_id in self._served

    def serves(self, sandbox: Sandbox) -> bool:
        """Whether the container is to ask us for names: it is if one of its networks has them."""
        return any(network.embedded_dns for network in self._of(sandbox))

    def open(self, netns_fd: int, sandbox: Sandbox, *, again: bool = False) -> None:
        """Open the sockets in the container's namespace, lead port 53 to them, and have them served.

        ``again``: there may be rules of earlier sockets, which go.
        """
        if not self.serves(sandbox):
            return
        with netns.entered(netns_fd):
            udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
            tcp = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
            rules = Nftables()
        with udp, tcp, contextlib.closing(rules):
            udp.bind((OWN_SERVER, 0))
            tcp.bind((OWN_SERVER, 0))
            tcp.listen(_BACKLOG)
            rules.apply((_REMOVE if again else "") + _REDIRECT.format(
                address=OWN_SERVER, udp=udp.getsockname()[1], tcp=tcp.getsockname()[1]))
            # A keeper that is started here must not find itself in the container's namespace.
            self._send(self._record(sandbox), [udp.fileno(), tcp.fileno(), netns_fd])
        self._served.add(sandbox.container_id)

    def update(self, sandbox: Sandbox) -> None:
        """The container's networks or names are others now; its sockets stay."""
        self._send(self._record(sandbox), [])

    def drop(self, sandbox: Sandbox) -> None:
        """Forget the container; its namespace can die when the keeper has read this."""
        if sandbox.container_id in self._served and self.process.connected:
            self._served.discard(sandbox.container_id)
            try:
                self.process.send(b"drop " + sandbox.container_id.encode())
            except OSError:
                self.process.close()

    def restore(self, live: Iterable[Sandbox]) -> None:
        """At boot, or after the keeper's death: it serves exactly these containers from now on."""
        served = self._served = self._adopt()
        strays = set(served)
        for sandbox in live:
            if sandbox.container_id in served:
                strays.discard(sandbox.container_id)
                self.update(sandbox)
            if sandbox.container_id in served or not self.serves(sandbox) or sandbox.netns_path is None:
                continue
            try:
                fd = os.open(sandbox.netns_path, os.O_RDONLY | os.O_CLOEXEC)
                try:
                    self.open(fd, sandbox, again=True)
                finally:
                    os.close(fd)
            except OSError as error:
                log.warning("container %s has no name server: %s", sandbox.container_id[:12], error)
        for container_id in strays:
            served.discard(container_id)
            self.process.send(b"drop " + container_id.encode())

    def close(self) -> None:
        self.process.close()

    def _adopt(self) -> set[str]:
        served: set[str] = set()
        if not self.process.connected and not self.process.connect():
            return served
        self.process.send(b"list")
        while not (line := self.process.receive(_PACKET)).startswith(b"."):
            if not line:
                self.process.close()
                return set()
            served.add(line.decode())
        self.process.identify(int(line.split()[1]))
        return served

    def _send(self, record: dict[str, Any], fds: list[int]) -> None:
        message = b"put " + json.dumps(record).encode()
        try:
            self.process.start()
            self.process.send(message, fds)
        except (BrokenPipeError, ConnectionError):
            self.process.close()
            self.process.start()
            self.process.send(message, fds)

    def _of(self, sandbox: Sandbox) -> list[KernelNetwork]:
        ids = {endpoint.network_id for endpoint in sandbox.endpoints}
        return [network for network in self._networks if network.id in ids]

    def _record(self, sandbox: Sandbox) -> dict[str, Any]:
        networks = {network.id: network for network in self._of(sandbox)}
        ordered = by_way_out(sandbox.endpoints)
        host = next((endpoint for endpoint in ordered if endpoint.port and endpoint.leads_out), None)
        return {
            "id": sandbox.container_id,
            "places": [_place(endpoint, networks[endpoint.network_id]) for endpoint in ordered
                       if endpoint.network_id in networks and networks[endpoint.network_id].embedded_dns],
            "host": [address for address in (host.gateway, host.ipv6_gateway) if address] if host else [],
            # Our own address would have us ask ourselves.
            "servers": [server for server in sandbox.resolving.servers if server != OWN_SERVER],
            "ndots": sandbox.resolving.ndots,
            "forward": any(endpoint.leads_out for endpoint in ordered)}


def _place(endpoint: Endpoint, network: KernelNetwork) -> dict[str, Any]:
    return {"network": network.id, "label": network.name, "names": list(endpoint.names), "links": endpoint.links,
            "addresses": endpoint.addresses, "subnets": [str(pool.subnet) for pool in network.pools]}
