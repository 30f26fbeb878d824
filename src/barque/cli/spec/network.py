"""``--network`` in its short and long form, with the older flags that refine the first network."""

from __future__ import annotations

from barque.cli.spec.checks import csv_fields, mac_address

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from barque.cli.flags import Values


def network(text: str) -> dict[str, Any]:
    """One value: ``{"Target": name, ...}``; raises ValueError in docker's words."""
    result: dict[str, Any] = {"Target": text}
    first, equals, rest = text.partition("=")
    if not (equals and first and rest):
        return result
    result = {"Target": "", "Aliases": []}
    for field in csv_fields(text):
        key, equals, value = field.lower().partition("=")
        key, value = key.strip(), value.strip()
        if not equals or not key:
            raise ValueError(f"invalid field {field}")
        if key == "name":
            result["Target"] = value
        elif key == "alias":
            result["Aliases"].append(value)
        elif key in ("ip", "ip6", "mac-address"):
            result[key] = value
        elif key == "link-local-ip":
            result.setdefault(key, []).append(value)
        elif key == "driver-opt":
            name, equals, setting = value.partition("=")
            if not equals or not name:
                raise ValueError("invalid key value pair format in driver options")
            result.setdefault("DriverOpts", {})[name.strip()] = setting.strip()
        elif key == "gw-priority":
            if not value.lstrip("-").isdigit():
                raise ValueError(f"invalid gw-priority ({value}): invalid syntax")
            result["GwPriority"] = int(value)
        else:
            raise ValueError(f"invalid field key {key}")
    if not result["Target"]:
        raise ValueError("network name/id is not specified")
    return result


def user_defined(name: str) -> bool:
    return name not in ("default", "bridge", "host", "none") and not name.startswith("container:")


def _refine(target: dict[str, Any], values: Values) -> None:
    """Let ``--network-alias --link --ip --ip6 --mac-address --link-local-ip`` apply to the first network."""
    for key, flag, text in (("Aliases", "network-alias", "--network-alias and per-network alias"),
                            ("ip", "ip", "--ip and per-network IPv4 address"),
                            ("ip6", "ip6", "--ip6 and per-network IPv6 address"),
                            ("mac-address", "mac-address", "--mac-address and per-network MAC address"),
                            ("link-local-ip", "link-local-ip",
                             "--link-local-ip and per-network link-local IP addresses")):
        given = values[flag]
        if not given:
            continue
        if target.get(key):
            raise ValueError(f"conflicting options: cannot specify both {text}")
        target[key] = given if isinstance(given, str) else list(given)
    if values["link"] and user_defined(target["Target"]):
        target["Links"] = list(values["link"])


def _endpoint(target: dict[str, Any]) -> dict[str, Any]:
    name = target["Target"]
    if not name.strip():
        raise ValueError("no name set for network")
    if not user_defined(name):
        if target.get("Aliases"):
            raise ValueError("network-scoped aliases are only supported for user-defined networks")
        if target.get("Links"):
            raise ValueError("links are only supported for user-defined networks")
    endpoint = {key: target[key] for key in ("Aliases", "Links", "DriverOpts", "GwPriority") if target.get(key)}
    addresses: dict[str, Any] = {}
    for key, field in (("ip", "IPv4Address"), ("ip6", "IPv6Address"), ("link-local-ip", "LinkLocalIPs")):
        if target.get(key):
            addresses[field] = target[key]
    if addresses:
        endpoint["IPAMConfig"] = addresses
    if mac := target.get("mac-address"):
        if not mac_address(mac):
            raise ValueError(f"{mac} is not a valid mac address")
        endpoint["MacAddress"] = mac
    return endpoint


def endpoints(values: Values) -> dict[str, dict[str, Any]]:
    """EndpointsConfig; one network without options is left to the engine."""
    targets: list[dict[str, Any]] = [dict(item) for item in values["network"]]
    if not targets:
        target: dict[str, Any] = {"Target": "default"}
        _refine(target, values)
        return {"default": _endpoint(target)}
    result: dict[str, dict[str, Any]] = {}
    _refine(targets[0], values)
    for target in targets:
        endpoint = _endpoint(target)
        if target["Target"] in result:
            raise ValueError(f'network "{target["Target"]}" is specified multiple times')
        if endpoint or len(targets) > 1:
            result[target["Target"]] = endpoint
    kinds = {user_defined(target["Target"]) for target in targets}
    if len(kinds) > 1:
        raise ValueError("conflicting options: cannot attach both user-defined and non-user-defined network-modes")
    return result


def mode(values: Values) -> str:
    networks = values["network"]
    return str(networks[0]["Target"]) if networks else "default"
