"""What is asked for one network of a container (``EndpointSettings``): checked, and in the network's terms. Pure."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from barque.engine.containers.options import EndpointSettings
from barque.errors import InvalidArgument, PermissionDenied
from barque.network.model import NetworkInfo

IFNAME = "com.docker.network.endpoint.ifname"
SYSCTLS = "com.docker.network.endpoint.sysctls"
#: Options by these names are for the drivers that there are; others are for drivers of somebody else, and kept.
_OURS = "com.docker.network."
#: The first byte is even: an odd one is a group's address, which no interface can have.
_MAC = re.compile(r"[0-9a-f][02468ace](?:[:-][0-9a-f]{2}){5}\Z", re.IGNORECASE | re.ASCII)
_INTERFACE = re.compile(r"[^\s/:%]{1,15}\Z", re.ASCII)
_SYSCTL = re.compile(r"net\.(?:ipv4|ipv6|mpls)\.[a-z0-9_-]+\.(?:IFNAME|ifname)\.[a-z0-9_-]+\Z", re.ASCII)


class ConfigurationOnly(PermissionDenied):
    text = "cannot create endpoint on configuration-only network"


@dataclass(frozen=True)
class DriverOptions:
    """``interface``: its name in the container. ``sysctls`` have IFNAME where the interface's name goes."""

    interface: str | None
    sysctls: dict[str, str]


def checked(info: NetworkInfo, settings: EndpointSettings) -> EndpointSettings:
    """Raises InvalidArgument in dockerd's words for what this network cannot give."""
    if info.spec is not None and info.spec.config_only:
        raise ConfigurationOnly()
    ipam, problems = settings.ipam_config, []
    if info.spec is None:
        if ipam and (ipam.ipv4_address or ipam.ipv6_address):
            problems.append("user specified IP address is supported on user defined networks only")
    elif ipam:
        subnets = [subnet.subnet for subnet in info.spec.subnets]
        problems += [problem for text, version in ((ipam.ipv4_address, 4), (ipam.ipv6_address, 6))
                     if text and (problem := _misfit(text, version, subnets))]
    if ipam:
        problems += [f"invalid link-local IP address: {text}" for text in ipam.link_local_ips or ()
                     if not _is_link_local(text)]
    problems += _wrong_options(settings.driver_opts or {})
    if info.driver in ("host", "null") and (settings.driver_opts or (ipam and ipam.link_local_ips)):
        problems.append(f"network {info.name} gives containers no interface to set up")
    if settings.mac_address and not _MAC.match(settings.mac_address):
        raise InvalidArgument(f"invalid MAC address: {settings.mac_address}")
    if problems:
        raise InvalidArgument(f"invalid config for network {info.name}: invalid endpoint settings:\n"
                              + "\n".join(problems))
    return settings


def driver_options(settings: EndpointSettings) -> DriverOptions:
    """Of settings that are :func:`checked`."""
    options = settings.driver_opts or {}
    pairs = (item.partition("=") for item in options.get(SYSCTLS, "").split(",") if item)
    return DriverOptions(options.get(IFNAME) or None, {key.strip(): value for key, _, value in pairs})


def _misfit(text: str, version: int, subnets: Iterable[str]) -> str:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return f"invalid IPv{version} address: {text}"
    if address.version != version:
        return f"invalid IPv{version} address: {text}"
    if not any(address in ipaddress.ip_network(subnet) for subnet in subnets):
        return f"no configured subnet or ip-range contain the IP address {text}"
    return ""


def _is_link_local(text: str) -> bool:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return False
    return address.is_link_local and "%" not in text


def _wrong_options(options: Mapping[str, str]) -> list[str]:
    problems = [f"unknown driver option {key!r}: there are {IFNAME} and {SYSCTLS}" for key in options
                if key.startswith(_OURS) and key not in (IFNAME, SYSCTLS)]
    name = options.get(IFNAME, "")
    if name and (not _INTERFACE.match(name) or name in (".", "..", "lo", "all", "default")):
        problems.append(f"invalid interface name {name!r}")
    for item in filter(None, options.get(SYSCTLS, "").split(",")):
        key, equals, _ = item.partition("=")
        if not _SYSCTL.match(key.strip()):
            problems.append(f"unrecognised network interface sysctl '{item}'; represent 'net.X.Y.ethN.Z=V' as "
                            "'net.X.Y.IFNAME.Z=V', 'X' must be 'ipv4', 'ipv6' or 'mpls'")
        elif not equals:
            problems.append(f"expected sysctl '{item}' to have format name=value")
    return problems
