"""``docker inspect``: one container in full, in the API's shape."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from barque.engine.containers import publish, security
from barque.engine.containers.context import Context
from barque.engine.containers.machine import Status
from barque.engine.containers.model import Container, MountPoint
from barque.engine.containers.options import EndpointSettings
from barque.engine.network_views import bare_endpoint_id
from barque.network.model import NetworkInfo
from barque.oci import go_json

#: Since then the fields of NetworkSettings that speak of one network only are gone.
_WITHOUT_LEGACY = (1, 52)
#: Of HostConfig: left out where nothing was asked for.
_OMITTED = frozenset({"Mounts", "Annotations", "StorageOpt", "Tmpfs", "Sysctls", "Init"})


async def inspect(ctx: Context, ref: str, *, size: bool, version: tuple[int, int]) -> dict[str, Any]:
    live = ctx.registry.find(ref)
    container = live.container
    directory = ctx.state_dir(container.id)
    result: dict[str, Any] = {
        "Id": container.id, "Created": container.created, "Path": container.path, "Args": container.args,
        "State": state(container), "Image": container.image_id, "ResolvConfPath": f"{directory}/resolv.conf",
        "HostnamePath": f"{directory}/hostname", "HostsPath": f"{directory}/hosts", "LogPath": _log_path(container),
        "Name": container.slashed, "RestartCount": live.facts.restart_count, "Driver": "overlay2", "Platform": "linux",
        "MountLabel": container.mount_label, "ProcessLabel": container.process_label,
        "AppArmorProfile": security.apparmor_profile(container.host_config, ctx.host),
        "ExecIDs": list(live.exec_ids) or None,
        "HostConfig": _host(container), "GraphDriver": {"Data": await _graph(ctx, container), "Name": "overlay2"},
        "Mounts": [mount_point(point) for point in container.mounts], "Config": _config(container, version),
        "NetworkSettings": network_settings(container, ctx.networks.networks(), version)}
    if size:
        result["SizeRw"] = await ctx.snapshots.container_size(container.id)
        result["SizeRootFs"] = result["SizeRw"] + await ctx.image_size(container.image_id)
    return result


def _log_path(container: Container) -> str:
    """Only the json-file format is for others to read."""
    return container.log_path if container.host_config.log_config.type == "json-file" else ""


def state(container: Container) -> dict[str, Any]:
    """Docker's booleans, computed from the one status."""
    facts = container.facts
    result: dict[str, Any] = {
        "Status": str(facts.status), "Running": facts.alive or facts.status is Status.RESTARTING,
        "Paused": facts.status is Status.PAUSED, "Restarting": facts.status is Status.RESTARTING,
        "OOMKilled": facts.oom_killed, "Dead": facts.status is Status.DEAD, "Pid": facts.pid,
        "ExitCode": facts.exit_code,
        "Error": facts.error, "StartedAt": facts.started_at, "FinishedAt": facts.finished_at}
    if container.health is not None:
        health = container.health
        result["Health"] = {"Status": health.status, "FailingStreak": health.failing_streak, "Log": list(health.log)}
    return result


async def _graph(ctx: Context, container: Container) -> dict[str, str]:
    """Where the layers are: tools that look into a container's files from the host read this.

    They are mounted in the container's own mount namespace alone, into which /proc leads while it runs.
    """
    mount = await ctx.snapshots.container_mount(container.id)
    data = {"ID": container.id, "LowerDir": ":".join(mount.lower), "UpperDir": mount.upper, "WorkDir": mount.work}
    return {**data, "MergedDir": f"/proc/{container.facts.pid}/root"} if container.facts.alive else data


def _config(container: Container, version: tuple[int, int]) -> dict[str, Any]:
    config = msgspec.to_builtins(container.config)
    for name in ("StopTimeout", "Shell", "Healthcheck", "StopSignal", "MacAddress", "NetworkDisabled", "ArgsEscaped",
                 "ExposedPorts"):
        if not config[name]:
            del config[name]
    config["Labels"] = config["Labels"] or {}
    if config.get("MacAddress") and version >= (1, 44):
        del config["MacAddress"]
    return dict(config)


def _host(container: Container) -> dict[str, Any]:
    """Without what docker leaves out where it is empty."""
    host: dict[str, Any] = msgspec.to_builtins(container.host_config)
    return {key: value for key, value in host.items() if key not in _OMITTED or value not in (None, [], {})}


def mount_point(point: MountPoint) -> dict[str, Any]:
    result: dict[str, Any] = {"Type": point.type}
    if point.type in ("volume", "image"):
        result["Name"] = point.name
    result |= {"Source": point.source, "Destination": point.destination}
    if point.type == "volume":
        result["Driver"] = point.driver or "local"
    return result | {"Mode": point.mode, "RW": point.rw, "Propagation": point.propagation if point.type == "bind"
                     else ""}


def endpoint_settings(container: Container, networks: Iterable[NetworkInfo]) -> dict[str, EndpointSettings]:
    """What was asked for each network, with what the network gave while the container runs."""
    ids = {info.name: info.id for info in networks}
    given = {endpoint.network_name: endpoint for endpoint in (container.sandbox.endpoints if container.sandbox else ())}
    result = {}
    for name, asked in container.endpoints.items():
        endpoint = given.get(name)
        if endpoint is None:
            network = ids.get(name, "")
            bare = container.sandbox is not None and container.sandbox.mode == name
            result[name] = msgspec.structs.replace(
                asked, network_id=network, endpoint_id=bare_endpoint_id(network, container.id) if bare else "")
            continue
        result[name] = msgspec.structs.replace(
            asked, network_id=endpoint.network_id, endpoint_id=endpoint.endpoint_id, gateway=endpoint.gateway,
            ip_address=endpoint.ipv4, ip_prefix_len=endpoint.prefix_len, mac_address=endpoint.mac,
            ipv6_gateway=endpoint.ipv6_gateway or "", global_ipv6_address=endpoint.ipv6 or "",
            global_ipv6_prefix_len=endpoint.ipv6_prefix_len, dns_names=list(endpoint.names) or None)
    return go_json.merged(result)


def network_settings(container: Container, networks: Iterable[NetworkInfo], version: tuple[int, int]
                     ) -> dict[str, Any]:
    sandbox = container.sandbox
    settings = endpoint_settings(container, networks)
    result: dict[str, Any] = {
        "SandboxID": container.id if sandbox and sandbox.netns_path else "",
        "SandboxKey": (sandbox.netns_path or "") if sandbox else "",
        "Ports": publish.port_map(container.config, container.host_config, sandbox)}
    if version < _WITHOUT_LEGACY:
        bridge = settings.get("bridge", EndpointSettings())
        result = {
            "Bridge": "", **result, "HairpinMode": False, "LinkLocalIPv6Address": "", "LinkLocalIPv6PrefixLen": 0,
            "SecondaryIPAddresses": None, "SecondaryIPv6Addresses": None, "EndpointID": bridge.endpoint_id,
            "Gateway": bridge.gateway, "GlobalIPv6Address": bridge.global_ipv6_address,
            "GlobalIPv6PrefixLen": bridge.global_ipv6_prefix_len, "IPAddress": bridge.ip_address,
            "IPPrefixLen": bridge.ip_prefix_len, "IPv6Gateway": bridge.ipv6_gateway, "MacAddress": bridge.mac_address}
    return {**result, "Networks": settings}


