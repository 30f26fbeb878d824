"""What lies on disk for the runtime when a container starts: its three files under /etc, and the bundle."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping

from barque.engine.containers.context import Context
from barque.engine.containers.model import Container
from barque.engine.containers.to_spec import Files
from barque.network import hosts_files
from barque.network.model import Sandbox, by_way_out
from barque.oci import go_json
from barque.oci.runtime_spec import Spec

_HOST_NAME = "host.docker.internal"


def write_files(ctx: Context, container: Container, sandbox: Sandbox | None,
                linked: Iterable[tuple[str, list[str]]] = ()) -> Files:
    """Write hostname, hosts and resolv.conf into the container's directory and return their paths.

    They are rewritten in place (same inode), because a tool may hold them mounted. ``linked`` are addresses and names
    of other containers.
    """
    files = _files(ctx, container)
    _write(files.hostname, hosts_files.hostname(container.config.hostname))
    _write(files.hosts, _hosts(ctx, container, sandbox, linked))
    _write(files.resolv_conf, _resolv_conf(ctx, container, sandbox))
    return files


def refresh_files(ctx: Context, container: Container, before: Sandbox, after: Sandbox) -> None:
    """The container's networks have changed while it runs: so do its own lines in hosts, and a resolv.conf that it has
    not changed itself."""
    files = _files(ctx, container)
    gone = {address.encode() for address, _ in _own(container, before)}
    kept = [line for line in _read(files.hosts).splitlines(keepends=True)
            if not line.strip() or line.split(maxsplit=1)[0] not in gone]
    _write(files.hosts, hosts_files.hosts(_own(container, after), (), base=b"".join(kept)))
    if _read(files.resolv_conf) == _resolv_conf(ctx, container, before):
        _write(files.resolv_conf, _resolv_conf(ctx, container, after))


def move_hosts(ctx: Context, container: Container, moved: Mapping[tuple[str, ...], str]) -> None:
    """In /etc/hosts of a running container, the lines with just these names get these addresses."""
    path = _files(ctx, container).hosts
    lines = []
    for line in _read(path).decode(errors="surrogateescape").splitlines():
        address = moved.get(tuple(line.split()[1:]))
        lines.append(line if address is None else "\t".join((address, " ".join(line.split()[1:]))))
    _write(path, "".join(line + "\n" for line in lines).encode(errors="surrogateescape"))


def _files(ctx: Context, container: Container) -> Files:
    directory = ctx.state_dir(container.id)
    return Files(hostname=f"{directory}/hostname", hosts=f"{directory}/hosts", resolv_conf=f"{directory}/resolv.conf")


def _own(container: Container, sandbox: Sandbox | None) -> list[tuple[str, list[str]]]:
    """The container's addresses, each with its names."""
    config = container.config
    full = f"{config.hostname}.{config.domainname}" if config.domainname else config.hostname
    own = list(dict.fromkeys((full, full.partition(".")[0])))
    return [(address, own) for item in (sandbox.endpoints if sandbox else ())
            for address in item.addresses]


def _hosts(ctx: Context, container: Container, sandbox: Sandbox | None, linked: Iterable[tuple[str, list[str]]]
           ) -> bytes:
    endpoints = by_way_out(sandbox.endpoints) if sandbox else []
    gateway = next((item.gateway or item.ipv6_gateway for item in endpoints if item.leads_out and item.port), None)
    extra = list(container.host_config.extra_hosts or ())
    names = {text.partition(":")[0] for text in extra}
    if gateway is not None and not _asks_engine(sandbox) and _HOST_NAME not in names:
        extra.append(f"{_HOST_NAME}:{gateway}")
    return hosts_files.hosts(
        [*linked, *_own(container, sandbox)], extra, host_gateway=ctx.config.host_gateway_ip or gateway,
        base=_read("/etc/hosts") if container.network_mode == "host" else None)


def _asks_engine(sandbox: Sandbox | None) -> bool:
    """Whether the engine's own name server answers the container: it does on networks where containers have names."""
    return any(endpoint.names for endpoint in (sandbox.endpoints if sandbox else ()))


def _resolv_conf(ctx: Context, container: Container, sandbox: Sandbox | None) -> bytes:
    host = container.host_config
    shares_host = container.network_mode == "host"
    text = _read(hosts_files.RESOLV_CONF).decode(errors="replace")
    search = host.dns_search or ctx.config.dns_search
    options = host.dns_options or ctx.config.dns_opts
    if _asks_engine(sandbox):
        return hosts_files.own_resolv_conf(text, search, options)
    source = hosts_files.resolv_source(text)
    if source != hosts_files.RESOLV_CONF and not shares_host:
        text = _read(source).decode(errors="replace")
    return hosts_files.resolv_conf(text, host.dns or ctx.config.dns, search, options, loopback=shares_host)


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(1 << 20)
    except FileNotFoundError:
        return b""


def _write(path: str, data: bytes) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
    with open(fd, "wb") as file:
        os.fchmod(fd, 0o644)
        file.write(data)


def write_bundle(ctx: Context, container_id: str, spec: Spec) -> str:
    """Write ``config.json`` and return the bundle's path. The monitor removes the directory."""
    path = f"{ctx.run_dir(container_id)}/bundle"
    os.makedirs(f"{path}/rootfs", mode=0o700, exist_ok=True)
    fd = os.open(f"{path}/config.json", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    with open(fd, "wb") as file:
        file.write(go_json.encode(spec))
    return path
