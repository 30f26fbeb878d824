"""This engine's firewall as it stands in the kernel, and put back when another program flushed it."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence

from barque.network import firewall, forwarding
from barque.network.bridge import KernelNetwork
from barque.network.model import Blockers, NetworkSettings, Sandbox
from barque.network.networks import Networks
from barque.network.other_firewalls import find_blockers
from barque.sys.nft import Nftables, NftablesError

log = logging.getLogger(__name__)


class Rules:
    """Rules for ``networks`` and the sandboxes of ``live``, which the caller keeps. Blocking, for one thread."""

    def __init__(self, settings: NetworkSettings, networks: Networks, nft: Nftables, live: Mapping[str, Sandbox]
                 ) -> None:
        self._table = settings.table
        self._api_ports = settings.api_ports
        self._networks = networks
        self._live = live
        self._nft = nft
        self._spoofing = self._knows_bridges()
        if not self._standing():
            # Existing ones may carry ports of running containers; rebuild() replaces them in one go.
            self.rebuild()

    def close(self) -> None:
        self._nft.close()

    def rebuild(self) -> None:
        """Make all rules and elements anew, in one transaction."""
        networks = list(self._networks)
        self._nft.apply(firewall.script(
            self._table, [rules for network in networks if (rules := network.rules) is not None], self._live.values(),
            closed=sorted(self._networks.closed), api_ports=self._api_ports, spoofing=self._spoofing,
            trusted={network.id for network in networks if network.trusted}))

    def put_back(self) -> bool:
        """Make the tables anew if another program removed them; returns whether it did."""
        if self._standing():
            return False
        log.warning("the nftables tables %s were removed by another program: putting them back", self._table)
        self.rebuild()
        return True

    def remove(self) -> None:
        """Take our tables away, and with them the right to have this host forward for us."""
        self._nft.apply(firewall.removal(self._table, spoofing=self._spoofing))
        for version in sorted(self._networks.closed):
            forwarding.give_back(version, self._networks.forwarding_marker(version), self._nft)

    def blockers(self) -> Blockers:
        return find_blockers(self._nft)

    def add_network(self, network: KernelNetwork) -> None:
        if network.rules is not None:
            self._change(firewall.network_elements("add", self._table, network.rules), adds=True)

    def drop_networks(self, networks: Iterable[KernelNetwork]) -> None:
        self._change([line for network in networks if (rules := network.rules) is not None
                      for line in firewall.network_elements("delete", self._table, rules)], adds=False)

    def drop(self, gone: Iterable[Sandbox]) -> None:
        """Containers went, all in one transaction; ``live`` has them no more."""
        self._change([line for sandbox in gone for line in self._elements("delete", sandbox)], adds=False)

    def swap(self, before: Sandbox | None, after: Sandbox | None) -> None:
        """A container's ports and endpoints are ``after`` from now on, in one transaction. ``live`` has ``before``."""
        old, new = self._elements("delete", before), self._elements("add", after)
        same = {line.partition(" ")[2] for line in old} & {line.partition(" ")[2] for line in new}
        self._change([line for line in (*old, *new) if line.partition(" ")[2] not in same], adds=after is not None)

    def _elements(self, verb: str, sandbox: Sandbox | None) -> list[str]:
        if sandbox is None:
            return []
        lines = firewall.port_elements(verb, self._table, sandbox.endpoints, sandbox.ports)
        for endpoint in sandbox.endpoints:
            if self._spoofing and not self._trusted(endpoint.network_id):
                lines += firewall.endpoint_elements(verb, self._table, endpoint)
        return lines

    def _trusted(self, network_id: str) -> bool:
        return any(network.id == network_id and network.trusted for network in self._networks)

    def _change(self, lines: Sequence[str], *, adds: bool) -> None:
        """Apply ``lines``; if that fails since somebody flushed our tables, put everything back first."""
        if not lines:
            return
        try:
            self._nft.apply("\n".join(lines))
        except NftablesError:
            if not self.put_back():
                raise
            if adds:
                self._nft.apply("\n".join(lines))

    def _standing(self) -> bool:
        tables = {(item["table"]["family"], item["table"]["name"]) for item in self._listed("tables")}
        return {("inet", self._table), *([("bridge", self._table)] if self._spoofing else [])} <= tables

    def _knows_bridges(self) -> bool:
        """Has the kernel rules for bridges (CONFIG_NF_TABLES_BRIDGE)? Else forged addresses cannot be dropped."""
        probe = f"{self._table}-probe"
        try:
            self._nft.apply(f"add table bridge {probe}\nadd chain bridge {probe} c {{ type filter hook prerouting "
                            f"priority -300; }}\ndelete table bridge {probe}")
        except NftablesError as error:
            log.warning("containers can send under addresses of others: this kernel has no firewall rules for "
                        "bridges: %s", error)
            return False
        return True

    def _listed(self, what: str) -> Iterable[dict[str, dict[str, str]]]:
        return (item for item in self._nft.list(what) if "table" in item)
