"""Who can reach what on a network, in words: what the rules in the kernel amount to. Pure."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence
from typing import Any

from barque.network.model import Blockers, Endpoint, NetworkInfo, PublishedPort, Sandbox, by_way_out

HOST, NETWORKS, OUTSIDE = "this host", "containers of other networks", "other machines"


def explain(info: NetworkInfo, sandboxes: Iterable[tuple[str, Sandbox]], blockers: Blockers) -> dict[str, Any]:
    """``blockers`` are other firewalls, which have their say behind ours."""
    spec = info.spec
    internal = bool(spec and spec.internal)
    bridged = info.driver == "bridge"
    icc = spec.icc if spec else info.icc
    ports = [_port(name, port, internal=internal, blockers=blockers) for name, sandbox in sandboxes
             if (first := _first(sandbox)) is not None and first.network_id == info.id
             for port in sandbox.ports]
    return {
        "Network": info.name, "Id": info.id, "Driver": info.driver, "Bridge": info.bridge,
        "Neighbours": "reach each other" if not bridged or icc else "do not reach each other (icc is off)",
        "WayOut": _unless(_way_out(info, internal=internal), () if internal or not bridged else blockers.forward),
        "ThisHost": _unless("all that listens on its addresses, but for the engine's API", blockers.input)
        if bridged else "not by this network",
        "OtherNetworks": _others(info, internal=internal),
        "Spoofing": _spoofing(info), "Ports": ports,
        "Blockers": [*blockers.forward, *blockers.input] if bridged else []}


def _unless(text: str, chains: Sequence[str]) -> str:
    return f"{text}, unless dropped by {', '.join(chains)}" if chains else text


def _first(sandbox: Sandbox) -> Endpoint | None:
    return next((endpoint for endpoint in by_way_out(sandbox.endpoints) if endpoint.port), None)


def _way_out(info: NetworkInfo, *, internal: bool) -> str:
    if info.driver in ("host", "null"):
        return "the host's own network" if info.driver == "host" else "none"
    if internal:
        return "none: the network is internal"
    if info.driver in ("macvlan", "ipvlan"):
        parent = info.spec.parent if info.spec else ""
        return f"by {parent}, past this host's firewall" if parent else "none: the network has no parent link"
    masquerade = info.spec.masquerade if info.spec else info.masquerade
    return "with this host's address" if masquerade else "with the containers' own addresses"


def _others(info: NetworkInfo, *, internal: bool) -> str:
    if info.driver != "bridge" or internal:
        return "none"
    return "their published ports only"


def _spoofing(info: NetworkInfo) -> str:
    if info.driver != "bridge":
        return "not watched"
    if info.spec is not None and info.spec.trusted:
        return "allowed: the network is trusted"
    return "dropped: containers send under their own MAC and IP addresses only"


def _port(name: str, port: PublishedPort, *, internal: bool, blockers: Blockers) -> dict[str, Any]:
    reach = [HOST]
    if not ipaddress.ip_address(port.host_ip).is_loopback:
        reach += [] if internal else [NETWORKS, OUTSIDE]
    row: dict[str, Any] = {
        "Container": name, "ContainerPort": port.container_port, "Protocol": port.protocol, "HostIp": port.host_ip,
        "HostPort": port.host_port, "ReachedBy": reach,
        "Path": "relayed: the host's INPUT rules decide" if port.relayed else
        "translated: the host's INPUT rules do not see it"}
    chains = blockers.input if port.relayed else blockers.forward
    if chains and len(reach) > 1:
        row["Warning"] = "unless accepted, dropped by " + ", ".join(chains)
    return row
