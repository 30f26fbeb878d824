"""Which networks a container is on: as asked when it is made, as it starts, and changed while it runs."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable

from msgspec.structs import replace

from barque.engine.containers import bundle, machine, publish
from barque.engine.containers.context import Context
from barque.engine.containers.endpoints import checked, driver_options
from barque.engine.containers.model import Container
from barque.engine.containers.options import (
    ContainerConfig,
    EndpointSettings,
    HostConfig,
    NetworkingConfig,
    PortBinding,
)
from barque.engine.containers.registry import Live, NoSuchContainer
from barque.engine.networks import NoSuchNetwork, find
from barque.errors import Conflict, InvalidArgument, NotFound, PermissionDenied
from barque.network.errors import AlreadyConnected, NotConnected, PortsWithoutNetwork
from barque.network.model import Attachment, NetworkInfo, PublishedPort, Resolving, Sandbox, SandboxRequest

#: Network modes that are no networks of the container's own.
_SHARED = ("host", "none")
_DEFAULT = "bridge"


class HostConnect(PermissionDenied):
    text = "container cannot be {what} host network"


class PrivateNetwork(InvalidArgument):
    text = "container cannot be connected to multiple networks with one of the networks in private (none) mode"


class SharedNetwork(Conflict):
    text = "container sharing network namespace with another container or host cannot be connected to any other network"


class DeadContainer(Conflict):
    text = "container {id} is marked for removal and cannot be connected or disconnected to the network"


class PortNotPublished(NotFound):
    text = "container {id} does not publish port {port}"


def asked(ctx: Context, config: ContainerConfig, host: HostConfig, networking: NetworkingConfig | None
          ) -> dict[str, EndpointSettings]:
    """The settings for each network by its name, the one of the network mode first; raises where they do not fit.

    A network that is not there may still come to be: only the start fails for want of it, as with dockerd.
    """
    mode = host.network_mode
    wanted = {name: settings or EndpointSettings()
              for name, settings in ((networking.endpoints_config if networking else None) or {}).items()}
    if "default" in wanted:
        wanted[mode] = wanted.pop("default")
    shared = mode.startswith("container:")
    if (shared or mode in _SHARED) and (config.mac_address or any(item.mac_address for item in wanted.values())):
        raise InvalidArgument("conflicting options: mac-address and the network mode")
    if shared:
        if wanted:
            raise SharedNetwork()
        return {}
    infos = ctx.networks.networks()
    first = _name(infos, mode)
    found: dict[str, EndpointSettings] = {first: EndpointSettings()}
    for ref, settings in wanted.items():
        name = _name(infos, ref)
        if name != first and (first in _SHARED or name in _SHARED):
            raise InvalidArgument("conflicting options: cannot attach both user-defined and non-user-defined "
                                  "network-modes")
        found[name] = settings
    if config.mac_address and not found[first].mac_address:
        found[first] = replace(found[first], mac_address=config.mac_address)
    for info in infos:
        if info.name in found:
            found[info.name] = checked(info, found[info.name])
    return found


def _name(infos: Iterable[NetworkInfo], ref: str) -> str:
    try:
        return find(infos, ref).name
    except NoSuchNetwork:
        return ref


def sandbox_request(ctx: Context, container: Container) -> SandboxRequest:
    """What to ask of the network when the container starts. Raises NoSuchNetwork for one that is gone."""
    host = container.host_config
    mode = container.network_mode
    infos = ctx.networks.networks()
    attachments: tuple[Attachment, ...] = ()
    if mode not in _SHARED:
        attachments = tuple(_attachment(ctx, container, info := find(infos, name), checked(info, settings))
                            for name, settings in container.endpoints.items())
    options = host.dns_options or ctx.config.dns_opts
    return SandboxRequest(
        container_id=container.id, mode=mode if mode in _SHARED else "networks", name=container.name,
        hostname=container.config.hostname, attachments=attachments,
        ports=tuple(publish.publications(container.config, host)) if mode not in _SHARED else (),
        resolving=Resolving(servers=tuple(host.dns or ctx.config.dns),
                            ndots=any(item.startswith("ndots:") and item != "ndots:0" for item in options)))


def firewall_warnings(ctx: Context, container: Container) -> list[str]:
    """Where another firewall of this host drops what it does not know: from elsewhere nobody may get in."""
    published = publish.publications(container.config, container.host_config)
    if container.network_mode in _SHARED or all(item.host_ip in ("127.0.0.1", "::1") for item in published):
        return []
    infos = [info for info in ctx.networks.networks() if info.name in container.endpoints]
    obeys = ctx.config.publish_obey_input or any(info.spec and info.spec.obey_input for info in infos)
    blockers = ctx.networks.known_blockers()
    return [f"Other machines reach published ports only where the host's firewall lets them: {chain} drops by default."
            for chain in (blockers.input if obeys else blockers.forward)]


def names_of(container: Container, settings: EndpointSettings) -> tuple[str, ...]:
    """What others on a network with names may call the container."""
    names = [container.name, *(settings.aliases or ()), container.id[:12], container.config.hostname]
    return tuple(dict.fromkeys(name for name in names if name))


def _attachment(ctx: Context, container: Container, info: NetworkInfo, settings: EndpointSettings) -> Attachment:
    # It may have been asked for before the network was there.
    checked(info, settings)
    ipam, options = settings.ipam_config, driver_options(settings)
    return Attachment(
        network_id=info.id, interface=options.interface, sysctls=options.sysctls,
        link_local=tuple(ipam.link_local_ips or ()) if ipam else (),
        mac=settings.mac_address.lower().replace("-", ":") or None,
        ipv4=(ipam.ipv4_address or None) if ipam else None, ipv6=(ipam.ipv6_address or None) if ipam else None,
        gw_priority=settings.gw_priority, names=names_of(container, settings) if info.spec is not None else (),
        links=dict(_link(ctx, text) for text in settings.links or ()))


def _link(ctx: Context, text: str) -> tuple[str, str]:
    """The name by which the container knows another one, and that one's own name."""
    target, _, alias = text.partition(":")
    try:
        name = ctx.registry.find(target).container.name
    except NoSuchContainer:
        name = target  # it may come to be: names are looked up when somebody asks
    return alias or name, name


def linked_hosts(ctx: Context, container: Container) -> list[tuple[str, list[str]]]:
    """For ``/etc/hosts``: addresses on the default bridge with names, of the containers that ``--link`` names.

    On other networks links are names that the engine's name server knows.
    """
    lines: list[tuple[str, list[str]]] = []
    if _DEFAULT not in container.endpoints:
        return lines
    for text in container.host_config.links or ():
        other, alias, address = _linked(ctx, text)
        if not address and other.facts.alive:
            raise InvalidArgument(f"Cannot link to {other.slashed}, as it does not belong to the default network")
        if not address:
            raise InvalidArgument(f"Cannot link to a non running container: {other.slashed} AS "
                                  f"{container.slashed}/{alias}")
        lines.append((address, _link_names(other, alias)))
    return lines


def _linked(ctx: Context, text: str) -> tuple[Container, str, str]:
    """The container that a link on the default bridge names, the alias for it, and its address ("": it has none)."""
    target, _, alias = text.partition(":")
    other = ctx.registry.find(target).container
    endpoints = other.sandbox.endpoints if other.sandbox else ()
    address = next((end.ipv4 for end in endpoints if end.network_name == _DEFAULT), "")
    return other, (alias or other.name).rpartition("/")[2], address


def _link_names(other: Container, alias: str) -> list[str]:
    return list(dict.fromkeys((alias, other.config.hostname, other.name)))


def update_links(ctx: Context, container: Container) -> None:
    """``container`` has come up, at another address maybe: running containers that link to it are to find it."""
    for live in ctx.registry:
        if not live.facts.alive or _DEFAULT not in live.container.endpoints:
            continue
        moved = {}
        for text in live.container.host_config.links or ():
            with contextlib.suppress(NoSuchContainer):
                other, alias, address = _linked(ctx, text)
                if other is container and address:
                    moved[tuple(_link_names(other, alias))] = address
        if moved:
            bundle.move_hosts(ctx, live.container, moved)


def link_environment(ctx: Context, container: Container) -> list[str]:
    """The variables that docker's legacy links give: ``ALIAS_NAME``, ``ALIAS_PORT...`` and ``ALIAS_ENV_...``."""
    result: list[str] = []
    if _DEFAULT not in container.endpoints:
        return result
    for text in container.host_config.links or ():
        other, alias, address = _linked(ctx, text)
        prefix = alias.upper().replace("-", "_")
        ports = sorted(map(publish.parse_port, other.config.exposed_ports or ()))
        if ports:
            result.append(f"{prefix}_PORT={ports[0][1]}://{address}:{ports[0][0]}")
        for port, protocol in ports:
            name = f"{prefix}_PORT_{port}_{protocol.upper()}"
            result += [f"{name}={protocol}://{address}:{port}", f"{name}_ADDR={address}", f"{name}_PORT={port}",
                       f"{name}_PROTO={protocol}"]
        result.append(f"{prefix}_NAME={container.slashed}/{alias}")
        result += [f"{prefix}_ENV_{item}" for item in other.config.env or () if item.partition("=")[0] not in
                   ("HOME", "PATH")]
    return result


def tell(ctx: Context, sandbox: Sandbox, action: str) -> None:
    """The ``network`` events of a container that came or went."""
    drivers = {info.id: info.driver for info in ctx.networks.networks()}
    for endpoint in sandbox.endpoints:
        ctx.emit("network", action, endpoint.network_id, {
            "container": sandbox.container_id, "name": endpoint.network_name,
            "type": drivers.get(endpoint.network_id, "bridge")})


class Memberships:
    """Connect and disconnect, and other ports, while a container lives."""

    def __init__(self, ctx: Context) -> None:
        self._ctx = ctx

    async def connect(self, network: str, container: str, settings: EndpointSettings) -> None:
        """Put a container on one more network; one that does not run gets there when it starts."""
        live = self._ctx.registry.find(container)
        await self._ctx.tasks.shielded(self._connect(live, network, settings), f"connect {live.id[:12]}")

    async def _connect(self, live: Live, ref: str, settings: EndpointSettings) -> None:
        ctx, container = self._ctx, live.container
        async with live.lock:
            info = find(ctx.networks.networks(), ref)
            _check_changeable(live, info, "connected to")
            if info.name == "none" or "none" in container.endpoints:
                raise PrivateNetwork()
            if info.name in container.endpoints:
                raise AlreadyConnected(name=container.name, network=info.name)
            settings = checked(info, settings)
            if live.facts.alive and container.sandbox is not None:
                before = container.sandbox
                container.sandbox = await ctx.networks.connect(
                    live.id, _attachment(ctx, container, info, settings))
                bundle.refresh_files(ctx, container, before, container.sandbox)
            container.endpoints = {**container.endpoints, info.name: settings}
            await ctx.registry.save(live)
        ctx.emit("network", "connect", info.id, {"container": live.id, "name": info.name, "type": info.driver})

    async def disconnect(self, network: str, container: str, *, force: bool) -> None:
        """Take a container off a network; ``force`` also where that network is gone."""
        live = self._ctx.registry.find(container)
        await self._ctx.tasks.shielded(self._disconnect(live, network, force=force), f"disconnect {live.id[:12]}")

    async def _disconnect(self, live: Live, ref: str, *, force: bool) -> None:
        ctx, container = self._ctx, live.container
        async with live.lock:
            if force and ref in container.endpoints and not live.facts.alive:
                container.endpoints = {name: item for name, item in container.endpoints.items() if name != ref}
                await ctx.registry.save(live)
                return
            info = find(ctx.networks.networks(), ref)
            _check_changeable(live, info, "disconnected from")
            if info.name not in container.endpoints:
                raise NotConnected(id=live.id, network=info.name)
            before = container.sandbox
            if live.facts.alive and before is not None and any(end.network_id == info.id for end in before.endpoints):
                container.sandbox = await ctx.networks.disconnect(live.id, info.id)
                bundle.refresh_files(ctx, container, before, container.sandbox)
            container.endpoints = {name: item for name, item in container.endpoints.items() if name != info.name}
            await ctx.registry.save(live)
        ctx.emit("network", "disconnect", info.id, {"container": live.id, "name": info.name, "type": info.driver})


def _check_changeable(live: Live, info: NetworkInfo, what: str) -> None:
    mode = live.container.network_mode
    if live.facts.status in (machine.Status.REMOVING, machine.Status.DEAD):
        raise DeadContainer(id=live.id)
    if mode.startswith("container:"):
        raise SharedNetwork()
    if info.name == "host" or mode == "host":
        raise HostConnect(what=what)


async def republish(ctx: Context, live: Live, host: HostConfig, add: dict[str, list[PortBinding] | None],
                    remove: list[str]) -> HostConfig:
    """``host`` with other published ports, which a running container has when this returns; the caller stores it.

    ``remove`` are host ports ("8080", "8080/udp"). Raises PortNotPublished, InvalidPort, PortFailure: nothing changes.
    """
    container = live.container
    if container.network_mode in _SHARED or container.network_mode.startswith("container:"):
        raise PortsWithoutNetwork(mode=container.network_mode)
    running = container.sandbox.ports if container.sandbox else ()
    left, gone = _without(live.id, host, running, remove)
    new = {port: items or [PortBinding()] for port, items in add.items()}
    bindings = publish.publications(container.config, replace(host, port_bindings=new, publish_all_ports=False))
    if live.facts.alive and container.sandbox is not None:
        container.sandbox = await ctx.networks.republish(live.id, bindings, gone)
    for port, items in new.items():
        left[port] = [*left.get(port, ()), *items]
    return replace(host, port_bindings={port: items for port, items in left.items() if items})


def _without(container_id: str, host: HostConfig, running: Iterable[PublishedPort], remove: Iterable[str]
             ) -> tuple[dict[str, list[PortBinding]], list[PublishedPort]]:
    """The port bindings without the host ports ``remove``, and which of the ``running`` ones those are."""
    left = {port: list(items or ()) for port, items in (host.port_bindings or {}).items()}
    gone: list[PublishedPort] = []
    for text in remove:
        number, protocol = publish.parse_port(text)
        published = [port for port in running if (port.host_port, port.protocol) == (number, protocol)]
        found = False
        for spec, items in left.items():
            target = publish.parse_port(spec)
            for item in list(items):
                # A binding without a host port has the one that it got when the container started.
                if target[1] == protocol and (item.host_port == str(number) or any(
                        item.host_port in ("", "0") and port.container_port == target[0] for port in published)):
                    items.remove(item)
                    found = True
        if not found and not published:
            raise PortNotPublished(id=container_id, port=text)
        gone += published
    return left, gone
