"""``POST /networks/create``: what docker's clients ask of a network, as a :class:`NetworkSpec`. Pure."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from typing import Any

import msgspec
from msgspec import field

from barque.engine import clock
from barque.errors import InvalidArgument, NotFound, PermissionDenied, Unavailable, Unsupported
from barque.network.errors import MultipleSubnets
from barque.network.model import NetworkSpec, Subnet

_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]*\Z", re.ASCII)
_LINK_NAME = re.compile(r"[^\s/:]{1,15}\Z", re.ASCII)
_MODES = ("bridge", "private", "vepa", "passthru")


class Pool(msgspec.Struct, rename="pascal"):
    subnet: str = ""
    ip_range: str = field(default="", name="IPRange")
    gateway: str = ""
    auxiliary_addresses: dict[str, str] | None = None


class Ipam(msgspec.Struct, rename="pascal"):
    driver: str = ""
    options: dict[str, str] | None = None
    config: list[Pool] | None = None


class CreateNetwork(msgspec.Struct, rename="pascal"):
    """The body of the request."""

    name: str = ""
    driver: str = ""
    scope: str = ""
    enable_ipv4: bool | None = field(default=None, name="EnableIPv4")
    enable_ipv6: bool | None = field(default=None, name="EnableIPv6")
    ipam: Ipam | None = field(default=None, name="IPAM")
    internal: bool = False
    attachable: bool = False
    ingress: bool = False
    config_only: bool = False
    config_from: dict[str, str] | None = None
    options: dict[str, str] | None = None
    labels: dict[str, str] | None = None


class PluginNotFound(NotFound):
    text = 'could not find plugin {driver} in v1 plugin registry: plugin not found'


class OnlyOne(PermissionDenied):
    text = 'only one instance of "{driver}" network is allowed'


class InvalidName(InvalidArgument):
    text = "invalid network name ({name}), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed"


def to_spec(body: CreateNetwork, network_id: str) -> NetworkSpec:
    """Raises InvalidArgument for what makes no sense, Unsupported for what is not to be had here."""
    if not _NAME.match(body.name):
        raise InvalidName(name=body.name)
    driver = body.driver or "bridge"
    _refuse(body, driver)
    ipam = body.ipam or Ipam()
    four, six = _subnets(driver, ipam.config or [])
    if six is not None and not body.enable_ipv6:
        raise InvalidArgument(f"invalid network config:\ninvalid subnet {six.subnet}: IPv6 has not been enabled for "
                              "this network")
    fields: dict[str, Any] = {}
    for key, value in (body.options or {}).items():
        setting = _OPTIONS[driver].get(key)
        if setting is None:
            raise InvalidArgument(f"invalid option {key!r} for the {driver} driver")
        name, parse = setting
        try:
            fields[name] = parse(value)
        except ValueError as error:
            raise InvalidArgument(f"invalid value {value!r} of option {key!r}: {error}") from None
    return NetworkSpec(
        id=network_id, name=body.name, driver=driver, created=clock.now(), ipv4=four, ipv6=six,
        enable_ipv6=bool(body.enable_ipv6), internal=body.internal, attachable=body.attachable,
        options=body.options or {}, ipam_options=ipam.options or {}, labels=body.labels or {}, **fields)


def _refuse(body: CreateNetwork, driver: str) -> None:
    if driver in ("host", "null", "none"):
        raise OnlyOne(driver=driver)
    if driver in ("overlay", "ipvlan"):
        raise Unsupported(f"the {driver} driver is not supported by this engine: "
                          + ("it has no swarm" if driver == "overlay" else "use macvlan, or bridge"))
    if driver not in _OPTIONS:
        raise PluginNotFound(driver=driver)
    if body.scope not in ("", "local") or body.ingress:
        raise Unavailable("This node is not a swarm manager. Use \"docker swarm init\" or \"docker swarm join\" to "
                          "connect this node to swarm and try again.")
    if body.config_only or (body.config_from or {}).get("Network"):
        raise Unsupported("configuration-only networks are not supported by this engine")
    if body.enable_ipv4 is False:
        raise Unsupported("networks without IPv4 are not supported by this engine")
    ipam = body.ipam or Ipam()
    if ipam.driver not in ("", "default"):
        raise PluginNotFound(driver=ipam.driver)
    if ipam.options:
        raise InvalidArgument(f"invalid option {next(iter(ipam.options))!r} for the default IPAM driver")


def _subnets(driver: str, pools: list[Pool]) -> tuple[Subnet | None, Subnet | None]:
    found: dict[int, Subnet] = {}
    for pool in pools:
        text = pool.subnet or pool.gateway or pool.ip_range
        if not text:
            continue
        version = 6 if ":" in text else 4
        if version in found:
            raise MultipleSubnets(driver=driver)
        found[version] = Subnet(subnet=pool.subnet, gateway=pool.gateway, ip_range=pool.ip_range,
                                aux=pool.auxiliary_addresses or {})
        if not pool.subnet:
            raise InvalidArgument("invalid network config:\na gateway or an ip-range needs a subnet")
    return found.get(4), found.get(6)


def _flag(text: str) -> bool:
    if text.lower() in ("1", "t", "true"):
        return True
    if text.lower() in ("0", "f", "false"):
        return False
    raise ValueError("invalid syntax")


def _mtu(text: str) -> int:
    value = int(text) if text.isascii() and text.isdecimal() else -1
    if not 68 <= value <= 65535:
        raise ValueError("an MTU is between 68 and 65535")
    return value


def _address(text: str) -> str | None:
    """0.0.0.0 is dockerd's way to say nothing: all addresses of both families."""
    return None if text in ("", "0.0.0.0") else str(ipaddress.ip_address(text))


def _link(text: str) -> str:
    if not _LINK_NAME.match(text) or text in (".", ".."):
        raise ValueError("not a name that the kernel takes for a link")
    return text


def _mode(text: str) -> str:
    if text not in _MODES:
        raise ValueError("not one of " + ", ".join(_MODES))
    return text


#: Option -> field of NetworkSpec and how its text is read.
_OPTIONS: dict[str, dict[str, tuple[str, Callable[[str], Any]]]] = {
    "bridge": {
        "com.docker.network.bridge.name": ("bridge", _link),
        "com.docker.network.bridge.enable_icc": ("icc", _flag),
        "com.docker.network.bridge.enable_ip_masquerade": ("masquerade", _flag),
        "com.docker.network.bridge.host_binding_ipv4": ("publish_ip", _address),
        "com.docker.network.driver.mtu": ("mtu", _mtu),
        "com.docker.network.mtu": ("mtu", _mtu),
        "org.barque.network.trusted": ("trusted", _flag),
        "org.barque.network.obey_input": ("obey_input", _flag),
    },
    "macvlan": {
        "parent": ("parent", _link),
        "macvlan_mode": ("macvlan_mode", _mode),
        "com.docker.network.driver.mtu": ("mtu", _mtu),
    },
}
