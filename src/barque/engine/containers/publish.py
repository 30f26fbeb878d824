"""Port specifications of docker's API: ``80/tcp``, ranges of host ports, and what to publish. Pure."""

from __future__ import annotations

import ipaddress
import re

from barque.engine.containers.options import ContainerConfig, HostConfig
from barque.errors import InvalidArgument
from barque.network.firewall import ports_endpoint
from barque.network.model import PortBinding as Publication
from barque.network.model import Sandbox
from barque.oci import go_json

_PORT = re.compile(r"([0-9]{1,5})(?:/(tcp|udp|sctp))?\Z", re.IGNORECASE | re.ASCII)
_RANGE = re.compile(r"([0-9]{1,5})(?:-([0-9]{1,5}))?\Z", re.ASCII)


class InvalidPort(InvalidArgument):
    text = 'invalid port specification: "{value}"'


def parse_port(text: str) -> tuple[int, str]:
    """Number and protocol of ``80`` or ``80/udp``; raises :class:`InvalidPort`."""
    match = _PORT.match(text)
    if not match or not 0 < int(match[1]) < 65536:
        raise InvalidPort(value=text)
    return int(match[1]), (match[2] or "tcp").lower()


def parse_host_port(text: str) -> tuple[int, int]:
    """First and last of ``8080`` or ``8000-8010``; (0, 0) where any will do."""
    if text in ("", "0"):
        return 0, 0
    match = _RANGE.match(text)
    first, last = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
    if not 0 < first <= last < 65536:
        raise InvalidPort(value=text)
    return first, last


def publications(config: ContainerConfig, host: HostConfig) -> list[Publication]:
    """All that is to be published: the bindings, and with publish-all every exposed port that has none."""
    result: list[Publication] = []
    bound = set()
    for spec, bindings in (host.port_bindings or {}).items():
        port, protocol = parse_port(spec)
        for binding in bindings or ():
            if binding.host_ip:
                _check_address(binding.host_ip)
            first, last = parse_host_port(binding.host_port)
            result.append(Publication(container_port=port, protocol=protocol, host_ip=binding.host_ip,
                                      host_port_start=first, host_port_end=last))
            bound.add((port, protocol))
    if host.publish_all_ports:
        result += [Publication(container_port=port, protocol=protocol) for port, protocol in _exposed(config)
                   if (port, protocol) not in bound]
    return result


def _exposed(config: ContainerConfig) -> list[tuple[int, str]]:
    return sorted(map(parse_port, config.exposed_ports or ()))


def _check_address(text: str) -> None:
    try:
        ipaddress.ip_address(text.strip("[]"))
    except ValueError:
        raise InvalidArgument(f"invalid IP address: {text}") from None


def port_map(config: ContainerConfig, host: HostConfig, sandbox: Sandbox | None
             ) -> dict[str, list[dict[str, str]] | None]:
    """``NetworkSettings.Ports``: exposed ports, null where they are not published. Nothing without a bridge."""
    if sandbox is None or ports_endpoint(sandbox.endpoints) is None:
        return {}
    exposed = [*(config.exposed_ports or {}), *(host.port_bindings or {})]
    result: dict[str, list[dict[str, str]] | None] = {}
    for port, protocol in sorted(map(parse_port, exposed)):
        result[f"{port}/{protocol}"] = None
    for item in sandbox.ports:
        key = f"{item.container_port}/{item.protocol}"
        bindings = result.get(key) or []
        bindings.append({"HostIp": item.host_ip, "HostPort": str(item.host_port)})
        result[key] = bindings
    return go_json.merged(result)


def port_list(config: ContainerConfig, sandbox: Sandbox | None) -> list[dict[str, object]]:
    """``Ports`` of a list entry: one row per published port and one per port that is only exposed. Nothing without a
    bridge."""
    if sandbox is None or ports_endpoint(sandbox.endpoints) is None:
        return []
    shown = {(item.container_port, item.protocol) for item in sandbox.ports}
    rows: list[dict[str, object]] = [
        {"IP": item.host_ip, "PrivatePort": item.container_port, "PublicPort": item.host_port, "Type": item.protocol}
        for item in sandbox.ports]
    rows += [{"PrivatePort": port, "Type": protocol} for port, protocol in _exposed(config)
             if (port, protocol) not in shown]
    return rows
