"""IPv4 forwarding of the host, and other firewalls that would stop containers' traffic."""

from __future__ import annotations

import logging
import os

from barque.network.bridge import write_sysctl
from barque.sys.nft import Nftables, NftablesError

log = logging.getLogger(__name__)

_FORWARD = "/proc/sys/net/ipv4/ip_forward"


def ensure_forwarding(marker: str) -> bool:
    """Turn IPv4 forwarding on if it is off; returns whether it was us, now or before (remembered as file ``marker``).

    Whoever turns it on answers for what else gets forwarded then: see the forward chain in ``firewall``.
    """
    with open(_FORWARD) as file:
        on = file.read().strip() == "1"
    if not on:
        with open(marker, "w"):
            pass
        write_sysctl("net/ipv4/ip_forward", "1")
        log.info("turned on net.ipv4.ip_forward: containers need it; traffic between network cards of this host is "
                 "dropped, as it was not forwarded before")
    return os.path.exists(marker)


def blocking_chains(nft: Nftables, own_table: str) -> list[str]:
    """Base chains of other tables that drop by default what is forwarded: containers are cut off behind them."""
    try:
        chains = [item["chain"] for item in nft.list("chains") if "chain" in item]
    except NftablesError as error:
        log.warning("cannot look for other firewalls: %s", error)
        return []
    return [f"{chain['family']} {chain['table']} {chain['name']}" for chain in chains
            if chain.get("hook") == "forward" and chain.get("policy") == "drop" and chain["table"] != own_table
            and chain["family"] in ("ip", "inet")]
