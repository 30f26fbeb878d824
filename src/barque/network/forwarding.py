"""Forwarding of IPv4 and IPv6 on the host: turned on where it is off, and off again by the last who needs it."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterable

from barque.network.bridge import write_sysctl
from barque.network.firewall import GUARD
from barque.network.model import TABLE_PREFIX
from barque.network.other_firewalls import base_chains
from barque.sys.nft import Nftables

log = logging.getLogger(__name__)

_SWITCH = {4: "net/ipv4/ip_forward", 6: "net/ipv6/conf/all/forwarding"}


def ensure_forwarding(version: int, marker: str, nft: Nftables, own_table: str) -> bool:
    """Turn forwarding on if it is off; returns whether it was an engine of ours, now or before: this one (remembered as
    file ``marker``), or one beside it, from which this one takes over should it go first.

    Whoever turns it on answers for what else gets forwarded then: see the forward chain in ``firewall``.
    """
    if _read(f"/proc/sys/{_SWITCH[version]}") == "1":
        if _guarded_by_another(version, nft, own_table):
            _mark(marker)
    else:
        listening = _listening() if version == 6 else []
        _mark(marker, listening)
        _set_router_advertisements(listening, "1", "2")
        write_sysctl(_SWITCH[version], "1")
        log.info("turned on %s: containers need it; traffic between network cards of this host is dropped, as it was "
                 "not forwarded before", _SWITCH[version].replace("/", "."))
    return os.path.exists(marker)


def _mark(marker: str, listening: Iterable[str] = ()) -> None:
    """Make the file ``marker``, and add the links that this engine made go on ``listening`` to routers."""
    with open(marker, "a") as file:
        file.writelines(f"{name}\n" for name in listening)


def _guarded_by_another(version: int, nft: Nftables, own_table: str) -> bool:
    """Whether another engine's rules keep this host from being a router, as it was none before."""
    names = [item["table"]["name"] for item in nft.list("tables")
             if item.get("table", {}).get("family") == "inet" and item["table"]["name"].startswith(TABLE_PREFIX)]
    return any(item.get("rule", {}).get("comment") == GUARD.format(version=version)
               for name in names if name != own_table for item in nft.list(f"chain inet {name} forward"))


def give_back(version: int, marker: str, nft: Nftables) -> None:
    """Turn off again what :func:`ensure_forwarding` turned on: our rules, which kept this host from being a router, are
    gone. Where somebody else filters forwarded traffic by now, another engine of ours too, they count on it: it stays.
    """
    if not os.path.exists(marker):
        return
    families = ("inet", "ip" if version == 4 else "ip6")
    others = [chain for chain in base_chains(nft, "forward") if chain["family"] in families]
    if others:
        log.info("%s stays on: %s uses it", _SWITCH[version].replace("/", "."),
                 f"{others[0]['family']} {others[0]['table']}")
    else:
        write_sysctl(_SWITCH[version], "0")
        _set_router_advertisements(_read(marker).split(), "2", "1")
    os.unlink(marker)


def _listening() -> list[str]:
    """Links that take routes from routers, unless this host forwards (RFC 4861, 6.2.2)."""
    names = os.listdir("/proc/sys/net/ipv6/conf")
    return [name for name in names if name not in ("all", "default") and _router_advertisements(name) == "1"]


def _set_router_advertisements(names: Iterable[str], before: str, after: str) -> None:
    """Change the setting ``before`` of links to ``after``: 2 takes routes though the host forwards, 1 only else."""
    for name in names:
        if _router_advertisements(name) == before:
            with contextlib.suppress(OSError):
                write_sysctl(f"net/ipv6/conf/{name}/accept_ra", after)


def _router_advertisements(name: str) -> str:
    """Empty for a link that has gone."""
    try:
        return _read(f"/proc/sys/net/ipv6/conf/{name}/accept_ra")
    except OSError:
        return ""


def _read(path: str) -> str:
    with open(path) as file:
        return file.read().strip()
