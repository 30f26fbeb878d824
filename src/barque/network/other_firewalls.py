"""Other firewalls of this host: which of them drop by default what we count on. They are read and never changed.

What nftables and iptables-nft keep is seen through nftables; the older iptables has tables of its own.
"""

from __future__ import annotations

import logging
from typing import Any

from barque.network.model import TABLE_PREFIX, Blockers
from barque.sys import iptables
from barque.sys.nft import Nftables, NftablesError

log = logging.getLogger(__name__)

_FAMILIES = ("ip", "ip6", "inet")
_DEPTH = 8  # of jumps from chain to chain


def find_blockers(nft: Nftables) -> Blockers:
    """The chains that drop, or reject, what none of their rules is about."""
    found = {hook: [*_nftables(nft, hook), *_iptables(hook)] for hook in iptables.HOOKS}
    return Blockers(forward=tuple(found["forward"]), input=tuple(found["input"]))


def base_chains(nft: Nftables, hook: str) -> list[dict[str, Any]]:
    """The chains of all tables, ours too, that packets come by at ``hook``, as libnftables-json(5) has them."""
    try:
        return [item["chain"] for item in nft.list("chains") if item.get("chain", {}).get("hook") == hook]
    except NftablesError as error:
        log.warning("cannot look for other firewalls: %s", error)
        return []


def _nftables(nft: Nftables, hook: str) -> list[str]:
    return [f"{chain['family']} {chain['table']} {chain['name']}" for chain in base_chains(nft, hook)
            if chain["family"] in _FAMILIES and not chain["table"].startswith(TABLE_PREFIX)
            and (_end(nft, chain["family"], chain["table"], chain["name"], _DEPTH) or chain["policy"]) == "drop"]


def _end(nft: Nftables, family: str, table: str, chain: str, depth: int) -> str | None:
    """What a chain does, on its way through chains that it always jumps to, with every packet: accept, drop or neither.

    Rules with conditions are left out: they may be about our packets or not.
    """
    try:
        rules = [item["rule"] for item in nft.list(f"chain {family} {table} {chain}") if "rule" in item]
    except NftablesError:
        return None  # It went meanwhile.
    for rule in rules:
        effects = [item for item in rule["expr"] if not item.keys() & {"counter", "log"}]
        if len(effects) != 1:
            continue
        ((kind, detail),) = effects[0].items()
        if kind in ("drop", "reject"):
            return "drop"
        if kind == "accept":
            return "accept"
        if kind == "return":
            return None
        if kind in ("jump", "goto") and depth:
            end = _end(nft, family, table, detail["target"], depth - 1)
            if end is not None or kind == "goto":
                return end
    return None


def _iptables(hook: str) -> list[str]:
    found = []
    for version in iptables.VERSIONS:
        try:
            if iptables.drops_by_default(version, hook):
                found.append(f"{version.name} (legacy) filter {hook.upper()}")
        except OSError as error:
            log.warning("cannot read the tables of %s: %s", version.name, error)
    return found
