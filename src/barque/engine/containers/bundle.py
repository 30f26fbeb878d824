"""What lies on disk for the runtime when a container starts: its three files under /etc, and the bundle."""

from __future__ import annotations

import os

from barque.engine.containers.context import Context
from barque.engine.containers.model import Container
from barque.engine.containers.to_spec import Files
from barque.errors import Internal
from barque.network import hosts_files
from barque.network.model import Sandbox
from barque.oci import go_json
from barque.oci.runtime_spec import Spec

RESOLV_CONF = "/etc/resolv.conf"


def write_files(ctx: Context, container: Container, sandbox: Sandbox | None) -> Files:
    """Write hostname, hosts and resolv.conf into the container's directory and return their paths.

    They are rewritten in place (same inode), because a tool may hold them mounted.
    """
    directory = ctx.state_dir(container.id)
    files = Files(hostname=f"{directory}/hostname", hosts=f"{directory}/hosts", resolv_conf=f"{directory}/resolv.conf")
    host = container.host_config
    mode = container.network_mode
    _write(files.hostname, hosts_files.hostname(container.config.hostname))
    _write(files.hosts, hosts_files.hosts(
        container.config.hostname, container.config.domainname, [] if sandbox is None else
        [endpoint.ipv4 for endpoint in sandbox.endpoints if endpoint.ipv4], _extra_hosts(ctx, host.extra_hosts or [], sandbox),
        base=_read("/etc/hosts") if mode == "host" else None))
    _write(files.resolv_conf, hosts_files.resolv_conf(
        _read(RESOLV_CONF), host.dns or list(ctx.config.dns), host.dns_search or list(ctx.config.dns_search),
        host.dns_options or list(ctx.config.dns_opts), keep_loopback=mode == "host"))
    return files


def _extra_hosts(ctx: Context, asked: list[str], sandbox: Sandbox | None) -> list[tuple[str, str]]:
    """``name:address`` pairs; ``host-gateway`` is the bridge's own address, or what the settings say."""
    result = []
    for item in asked:
        name, _, address = item.partition(":")
        if address == "host-gateway":
            gateways = [endpoint.gateway for endpoint in sandbox.endpoints if endpoint.gateway] if sandbox else []
            address = ctx.config.host_gateway_ip or (gateways[0] if gateways else "")
            if not address:
                raise Internal("unable to derive the IP value for host-gateway")
        result.append((name, address.strip("[]")))
    return result


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
