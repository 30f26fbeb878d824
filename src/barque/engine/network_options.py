"""``POST /networks/create``: what docker's clients ask of a network, as a :class:`NetworkSpec`. Pure."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Collection
from typing import Any

import msgspec
from msgspec import field

from barque.engine import clock
from barque.errors import InvalidArgument, NotFound, PermissionDenied, Unavailable, Unsupported
from barque.network.errors import MultipleSubnets
from barque.network.model import NetworkSpec, Subnet
from barque.sys.rtnetlink import IPVLAN_FLAGS, IPVLAN_MODES, MACVLAN_MODES

_NAME = re.compile(r"[a-zA-Z0-9](?:[a-zA-Z0-9_. -]*[a-zA-Z0-9_.-])?\Z", re.ASCII)
_LINK_NAME = re.compile(r"[^\s/:]{1,15}\Z", re.ASCII)


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


class ConfigForbidden(PermissionDenied):
    text = "{reason}"


class InvalidName(InvalidArgument):
    text = "invalid network name ({name}), only [a-zA-Z0-9][a-zA-Z0-9_.-], and blanks in between, are allowed"


def config_spec(body: CreateNetwork, network_id: str) -> NetworkSpec:
    """A configuration-only network: what is wrong with it is found when a network is made from it, as in dockerd."""
    if not _NAME.match(body.name):
        raise InvalidName(name=body.name)
    if (body.config_from or {}).get("Network"):
        raise ConfigForbidden(reason="a configuration network cannot depend on another configuration network")
    if body.ingress or body.internal or body.attachable or body.scope:
        raise ConfigForbidden(reason="configuration network can only contain network specific fields. Network operator "
                              "fields like [ ingress | internal | attachable | scope ] are not supported.")
    ipam = body.ipam or Ipam()
    four, six = _subnets("null", ipam.config or [])
    return NetworkSpec(
        id=network_id, name=body.name, driver="null", created=clock.now(), ipv4=four, ipv6=six,
        enable_ipv4=body.enable_ipv4 is not False, enable_ipv6=bool(body.enable_ipv6), options=body.options or {},
        ipam_options=ipam.options, labels=body.labels or {}, config_only=True)


def configured(body: CreateNetwork, config: NetworkSpec) -> CreateNetwork:
    """``body`` with the settings of the configuration-only network ``config``, as if they had been given with it."""
    ipam = body.ipam or Ipam()
    if (ipam.driver not in ("", "default") or body.enable_ipv4 is False or body.enable_ipv6 or body.labels
            or ipam.options or ipam.config):
        raise ConfigForbidden(reason="user specified configurations are not supported if the network depends on a "
                              "configuration network")
    if body.options:
        raise ConfigForbidden(reason="network driver options are not supported if the network depends on a "
                              "configuration network")
    pools = [Pool(subnet=subnet.subnet, ip_range=subnet.ip_range, gateway=subnet.gateway,
                  auxiliary_addresses=subnet.aux) for subnet in config.subnets]
    return msgspec.structs.replace(
        body, enable_ipv4=config.enable_ipv4, enable_ipv6=config.enable_ipv6, options=config.options,
        labels=config.labels, ipam=Ipam(options=config.ipam_options, config=pools))


def to_spec(body: CreateNetwork, network_id: str) -> NetworkSpec:
    """Raises InvalidArgument for what makes no sense, Unsupported for what is not to be had here."""
    if not _NAME.match(body.name):
        raise InvalidName(name=body.name)
    driver = body.driver or "bridge"
    _refuse(body, driver)
    ipam = body.ipam or Ipam()
    four, six = _subnets(driver, ipam.config or [])
    wanted4, wanted6 = body.enable_ipv4 is not False, bool(body.enable_ipv6)
    if not (wanted4 or wanted6):
        raise InvalidArgument("IPv4 or IPv6 must be enabled")
    for subnet, wanted, family in ((four, wanted4, "IPv4"), (six, wanted6, "IPv6")):
        if subnet is not None and not wanted:
            raise InvalidArgument(f"invalid network config:\ninvalid subnet {subnet.subnet}: {family} has not been "
                                  "enabled for this network")
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
        enable_ipv4=wanted4, enable_ipv6=wanted6, internal=body.internal, attachable=body.attachable,
        options=body.options or {}, ipam_options=ipam.options, labels=body.labels or {},
        config_from=(body.config_from or {}).get("Network", ""), **fields)


def _refuse(body: CreateNetwork, driver: str) -> None:
    if driver in ("host", "null", "none"):
        raise OnlyOne(driver=driver)
    if driver == "overlay":
        raise Unsupported("the overlay driver is not supported by this engine: it has no swarm")
    if driver not in _OPTIONS:
        raise PluginNotFound(driver=driver)
    if body.scope not in ("", "local") or body.ingress:
        raise Unavailable("This node is not a swarm manager. Use \"docker swarm init\" or \"docker swarm join\" to "
                          "connect this node to swarm and try again.")
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


def _one_of(names: Collection[str]) -> Callable[[str], str]:
    def choose(text: str) -> str:
        if text not in names:
            raise ValueError("not one of " + ", ".join(names))
        return text
    return choose


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
        "macvlan_mode": ("macvlan_mode", _one_of(MACVLAN_MODES)),
        "com.docker.network.driver.mtu": ("mtu", _mtu),
    },
    "ipvlan": {
        "parent": ("parent", _link),
        "ipvlan_mode": ("ipvlan_mode", _one_of(IPVLAN_MODES)),
        "ipvlan_flag": ("ipvlan_flag", _one_of(IPVLAN_FLAGS)),
        "com.docker.network.driver.mtu": ("mtu", _mtu),
    },
}
