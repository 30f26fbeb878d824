"""What lies on disk for the runtime when a container starts: its three files under /etc, and the bundle."""

from __future__ import annotations

import os

from barque.engine.containers.context import Context
from barque.engine.containers.model import Container
from barque.engine.containers.to_spec import Files
from barque.network import hosts_files
from barque.network.model import Sandbox
from barque.oci import go_json
from barque.oci.runtime_spec import Spec


def write_files(ctx: Context, container: Container, sandbox: Sandbox | None) -> Files:
    """Write hostname, hosts and resolv.conf into the container's directory and return their paths.

    They are rewritten in place (same inode), because a tool may hold them mounted.
    """
    directory = ctx.state_dir(container.id)
    files = Files(hostname=f"{directory}/hostname", hosts=f"{directory}/hosts", resolv_conf=f"{directory}/resolv.conf")
    host = container.host_config
    shares_host = container.network_mode == "host"
    endpoints = sandbox.endpoints if sandbox else ()
    gateway = ctx.config.host_gateway_ip or next((item.gateway for item in endpoints if item.gateway), None)
    config = container.config
    own = [config.hostname] if not config.domainname else [f"{config.hostname}.{config.domainname}", config.hostname]
    _write(files.hostname, hosts_files.hostname(config.hostname))
    _write(files.hosts, hosts_files.hosts(
        [(item.ipv4, own) for item in endpoints if item.ipv4], host.extra_hosts or (), host_gateway=gateway,
        base=_read("/etc/hosts") if shares_host else None))
    text = _read(hosts_files.RESOLV_CONF).decode(errors="replace")
    source = hosts_files.resolv_source(text)
    if source != hosts_files.RESOLV_CONF and not shares_host:
        text = _read(source).decode(errors="replace")
    _write(files.resolv_conf, hosts_files.resolv_conf(
        text, host.dns or ctx.config.dns, host.dns_search or ctx.config.dns_search,
        host.dns_options or ctx.config.dns_opts, loopback=shares_host))
    return files


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
