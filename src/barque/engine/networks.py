"""Networks as docker clients know them: list, inspect, and clear refusals for what this engine does not have."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

from barque.errors import InvalidArgument, NotFound, PermissionDenied, Unsupported
from barque.network.model import NetworkInfo, Sandbox

#: Every container that has a network now, as (its name, its sandbox); the container service supplies it.
Sandboxes = Callable[[], Iterable[tuple[str, Sandbox]]]

_FILTERS = ("dangling", "driver", "id", "label", "name", "scope", "type")
_MODES = {"bridge": "bridge", "host": "host", "none": "none"}


class KnowsNetworks(Protocol):
    """What this needs of :class:`barque.network.stack.Network`."""

    def networks(self) -> list[NetworkInfo]: ...


class NoSuchNetwork(NotFound):
    text = "network {ref} not found"


class Predefined(PermissionDenied):
    text = "{name} is a pre-defined network and cannot be removed"


class PredefinedName(PermissionDenied):
    text = "operation is not permitted on predefined {name} network"


class UserDefinedUnsupported(Unsupported):
    text = "user-defined networks are not supported by this engine: use bridge, host or none"


class NetworkService:
    """Networks of one engine."""

    def __init__(self, network: KnowsNetworks, sandboxes: Sandboxes) -> None:
        self._network = network
        self._sandboxes = sandboxes

    def list(self, filters: Mapping[str, Sequence[str]]) -> list[dict[str, Any]]:
        """All networks that pass every filter (any value of it), without their containers, as dockerd lists them."""
        for key in filters:
            if key not in _FILTERS:
                raise InvalidArgument(f"invalid filter '{key}'")
        return [_document(info, {}) for info in self._network.networks()
                if all(_passes(info, key, values) for key, values in filters.items())]

    def inspect(self, ref: str) -> dict[str, Any]:
        """One network by name, id or the unambiguous beginning of its id; raises NoSuchNetwork."""
        info = self._find(ref)
        return _document(info, self._containers(info))

    def create(self, name: str) -> None:
        """Refused: PredefinedName or UserDefinedUnsupported."""
        if any(info.name == name for info in self._network.networks()):
            raise PredefinedName(name=name)
        raise UserDefinedUnsupported()

    def remove(self, ref: str) -> None:
        """Refused: all networks that there are are predefined."""
        raise Predefined(name=self._find(ref).name)

    def connect(self, ref: str) -> None:
        """Refused, after it is clear that the network exists."""
        self._find(ref)
        raise UserDefinedUnsupported()

    def _find(self, ref: str) -> NetworkInfo:
        networks = self._network.networks()
        exact = [info for info in networks if ref in (info.name, info.id)]
        found = exact or [info for info in networks if ref and info.id.startswith(ref)]
        if not found:
            raise NoSuchNetwork(ref=ref)
        if len(found) > 1:
            raise InvalidArgument(f"network {ref} is ambiguous ({len(found)} matches found based on ID prefix)")
        return found[0]

    def _containers(self, info: NetworkInfo) -> dict[str, Any]:
        found = {}
        for name, sandbox in self._sandboxes():
            endpoint = next((end for end in sandbox.endpoints if end.network_id == info.id), None)
            if endpoint is not None:
                found[sandbox.container_id] = {
                    "Name": name, "EndpointID": endpoint.endpoint_id, "MacAddress": endpoint.mac,
                    "IPv4Address": f"{endpoint.ipv4}/{endpoint.prefix_len}",
                    "IPv6Address": f"{endpoint.ipv6}/{endpoint.ipv6_prefix_len}" if endpoint.ipv6 else ""}
            elif not sandbox.endpoints and _MODES.get(sandbox.mode) == info.name:
                found[sandbox.container_id] = {
                    "Name": name, "EndpointID": bare_endpoint_id(info.id, sandbox.container_id), "MacAddress": "",
                    "IPv4Address": "", "IPv6Address": ""}
        return found


def bare_endpoint_id(network_id: str, container_id: str) -> str:
    """The endpoint id of a container on host or none, where nothing is allocated."""
    return hashlib.sha256(f"{network_id}\0{container_id}".encode()).hexdigest()


def _passes(info: NetworkInfo, key: str, values: Sequence[str]) -> bool:
    match key:
        case "driver":
            return info.driver in values
        case "scope":
            return "local" in values
        case "id":
            return any(info.id.startswith(value) for value in values)
        case "name":
            return any(_name_matches(value, info.name) for value in values)
        case "type":
            if set(values) - {"builtin", "custom"}:
                raise InvalidArgument(f"invalid filter: 'type'='{values[0]}'")
            return "builtin" in values
        case "dangling":
            # Predefined networks are in use by definition.
            if set(values) - {"true", "1", "false", "0"}:
                raise InvalidArgument(f"invalid filter 'dangling={values[0]}'")
            return not {"true", "1"} & set(values)
        case _:
            return False  # label: networks here have none


def _name_matches(pattern: str, name: str) -> bool:
    """dockerd matches names as regular expressions anywhere, and literally where the pattern is none."""
    try:
        return re.search(pattern, name) is not None
    except re.error:
        return pattern in name


def _document(info: NetworkInfo, containers: dict[str, Any]) -> dict[str, Any]:
    config = []
    options = {}
    if info.driver == "bridge":
        config = [{"Subnet": info.subnet, **({"IPRange": info.ip_range} if info.ip_range else {}),
                   "Gateway": info.gateway}]
        options = {
            "com.docker.network.bridge.default_bridge": "true",
            "com.docker.network.bridge.enable_icc": str(info.icc).lower(),
            "com.docker.network.bridge.enable_ip_masquerade": str(info.masquerade).lower(),
            "com.docker.network.bridge.host_binding_ipv4": info.publish_ip,
            "com.docker.network.bridge.name": info.bridge,
            "com.docker.network.driver.mtu": str(info.mtu),
        }
    return {
        "Name": info.name, "Id": info.id, "Created": info.created, "Scope": "local", "Driver": info.driver,
        "EnableIPv4": True, "EnableIPv6": False,
        "IPAM": {"Driver": "default", "Options": None, "Config": config},
        "Internal": False, "Attachable": False, "Ingress": False, "ConfigFrom": {"Network": ""}, "ConfigOnly": False,
        "Containers": containers, "Options": options, "Labels": {},
    }
