"""A network as docker's API shows it. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any

from barque.network.model import NetworkInfo, NetworkSpec, Sandbox, Subnet
from barque.oci import go_json

_MODES = {"host": "host", "none": "none"}


def document(info: NetworkInfo, sandboxes: Iterable[tuple[str, Sandbox]]) -> dict[str, Any]:
    """``sandboxes``: by containers' names, those that may be on it."""
    spec = info.spec
    return {
        "Name": info.name, "Id": info.id, "Created": info.created, "Scope": "local", "Driver": info.driver,
        "EnableIPv4": spec.enable_ipv4 if spec else True, "EnableIPv6": bool(spec and spec.enable_ipv6),
        "IPAM": {"Driver": "default", "Options": spec.ipam_options if spec else None,
                 "Config": _pools(spec) if spec else _default_pools(info)},
        "Internal": bool(spec and spec.internal), "Attachable": bool(spec and spec.attachable), "Ingress": False,
        "ConfigFrom": {"Network": spec.config_from if spec else ""}, "ConfigOnly": bool(spec and spec.config_only),
        "Containers": _containers(info, sandboxes),
        "Options": spec.options if spec else _default_options(info), "Labels": spec.labels if spec else {},
    }


def _pools(spec: NetworkSpec) -> list[dict[str, Any]]:
    return [_pool(subnet) for subnet in spec.subnets]


def _pool(subnet: Subnet) -> dict[str, Any]:
    return {"Subnet": subnet.subnet, **({"IPRange": subnet.ip_range} if subnet.ip_range else {}),
            **({"Gateway": subnet.gateway} if subnet.gateway else {}),
            **({"AuxiliaryAddresses": subnet.aux} if subnet.aux else {})}


def _default_pools(info: NetworkInfo) -> list[dict[str, Any]]:
    if info.driver != "bridge":
        return []
    return [_pool(Subnet(subnet=info.subnet, ip_range=info.ip_range, gateway=info.gateway))]


def _default_options(info: NetworkInfo) -> dict[str, str]:
    if info.driver != "bridge":
        return {}
    return {
        "com.docker.network.bridge.default_bridge": "true",
        "com.docker.network.bridge.enable_icc": str(info.icc).lower(),
        "com.docker.network.bridge.enable_ip_masquerade": str(info.masquerade).lower(),
        "com.docker.network.bridge.host_binding_ipv4": info.publish_ip,
        "com.docker.network.bridge.name": info.bridge,
        "com.docker.network.driver.mtu": str(info.mtu),
    }


def _containers(info: NetworkInfo, sandboxes: Iterable[tuple[str, Sandbox]]) -> dict[str, Any]:
    found = {}
    for name, sandbox in sandboxes:
        endpoint = next((end for end in sandbox.endpoints if end.network_id == info.id), None)
        if endpoint is not None:
            found[sandbox.container_id] = {
                "Name": name, "EndpointID": endpoint.endpoint_id, "MacAddress": endpoint.mac,
                "IPv4Address": f"{endpoint.ipv4}/{endpoint.prefix_len}" if endpoint.ipv4 else "",
                "IPv6Address": f"{endpoint.ipv6}/{endpoint.ipv6_prefix_len}" if endpoint.ipv6 else ""}
        elif not sandbox.endpoints and _MODES.get(sandbox.mode) == info.name:
            found[sandbox.container_id] = {
                "Name": name, "EndpointID": bare_endpoint_id(info.id, sandbox.container_id), "MacAddress": "",
                "IPv4Address": "", "IPv6Address": ""}
    return go_json.merged(found)


def bare_endpoint_id(network_id: str, container_id: str) -> str:
    """The endpoint id of a container on host or none, where nothing is allocated."""
    return hashlib.sha256(f"{network_id}\0{container_id}".encode()).hexdigest()
