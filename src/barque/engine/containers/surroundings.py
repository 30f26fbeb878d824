"""What a container meets when it starts: namespaces of others, devices, the profile, the cgroup."""

from __future__ import annotations

import re

from barque.engine import host as machine_host
from barque.engine.containers import networking, security, to_spec
from barque.engine.containers.cgroup import PARENT
from barque.engine.containers.context import Context
from barque.engine.containers.machine import NotRunning
from barque.engine.containers.model import Container
from barque.engine.containers.options import HostConfig
from barque.engine.containers.registry import Live
from barque.engine.containers.to_spec import Files, HostDevice, Surroundings
from barque.errors import Conflict
from barque.network.model import Sandbox
from barque.oci import runtime_spec as oci

_DEVICE_MODE = re.compile(r"[rwm]{1,3}\Z")


class NotJoinable(Conflict):
    text = "cannot join {what} of a non running container: {id}"


def build(ctx: Context, container: Container, files: Files | None, sandbox: Sandbox | None,
          volumes: dict[str, oci.Mount]) -> Surroundings:
    """Raises Conflict where a container whose namespace is to be joined does not run."""
    host = container.host_config
    capabilities = to_spec.capability_names(host, ctx.host.capabilities)
    joined, shared = _namespaces(ctx, container, sandbox)
    throttled = [item.path for items in (host.blkio_device_read_bps, host.blkio_device_write_bps,
                                         host.blkio_device_read_iops,
                                         host.blkio_device_write_iops) for item in items or ()]
    paths = [item.path for item in host.blkio_weight_device or ()] + throttled
    return Surroundings(
        files=files, volumes=volumes, environment=tuple(networking.link_environment(ctx, container)),
        hostname=container.config.hostname, all_capabilities=ctx.host.capabilities,
        seccomp=security.seccomp(host, ctx.config.seccomp_profile, capabilities), cgroups_path=cgroups_path(ctx,
                                                                                                            container),
        namespaces=joined, host_namespaces=shared, devices=tuple(_devices(host)),
        block={path: machine_host.block_number(path) for path in paths}, ulimits=ctx.config.default_ulimits,
        init_path=ctx.host.init(ctx.config.init_path) if host.init else None, shm_source=_shm(ctx, container),
        cgroupns=host.cgroupns_mode == "private", default_shm_size=ctx.config.default_shm_size,
        no_new_privileges=security.no_new_privileges(host, ctx.config.no_new_privileges),
        apparmor_profile=security.apparmor_profile(host, ctx.host))


def cgroups_path(ctx: Context, container: Container) -> str:
    """``/barque/<id>``, below the parent that is asked for, or systemd's ``slice:prefix:name``."""
    parent = container.host_config.cgroup_parent
    if ctx.config.cgroup_driver == "systemd":
        return f"{parent or 'system.slice'}:barque:{container.id}"
    return f"/{(parent or PARENT).strip('/')}/{container.id}"


def _namespaces(ctx: Context, container: Container, sandbox: Sandbox | None) -> tuple[dict[str, str], frozenset[str]]:
    host = container.host_config
    joined: dict[str, str] = {}
    shared = set()
    if container.network_mode == "host":
        shared.add("network")
    elif container.network_mode.startswith("container:"):
        joined["network"] = _of(ctx, container.network_mode, "net", "network")
    elif sandbox is not None and sandbox.netns_path:
        joined["network"] = sandbox.netns_path
    for kind, mode in (("ipc", host.ipc_mode), ("pid", host.pid_mode)):
        if mode == "host":
            shared.add(kind)
        elif mode.startswith("container:"):
            joined[kind] = _of(ctx, mode, kind, kind.upper())
    if host.uts_mode == "host":
        shared.add("uts")
    return joined, frozenset(shared)


def running(ctx: Context, mode: str, what: str) -> Live:
    """The container of ``container:REF``, proven to run."""
    live = ctx.registry.find(mode.partition(":")[2])
    if not live.facts.alive:
        raise NotJoinable(what=what, id=live.id) from NotRunning(id=live.id)
    return live


def _of(ctx: Context, mode: str, file: str, what: str) -> str:
    return f"/proc/{running(ctx, mode, what).facts.pid}/ns/{file}"


def shm_dir(ctx: Context, container_id: str) -> str:
    """Where the shared /dev/shm of a container with shareable IPC is mounted on the host."""
    return f"{ctx.config.exec_root}/shm/{container_id}"


def _shm(ctx: Context, container: Container) -> str | None:
    mode = container.host_config.ipc_mode
    if mode == "host":
        return "/dev/shm"
    if mode == "shareable":
        return shm_dir(ctx, container.id)
    if mode.startswith("container:"):
        other = running(ctx, mode, "IPC").container
        return "/dev/shm" if other.host_config.ipc_mode == "host" else shm_dir(ctx, other.id)
    return None


def _devices(host: HostConfig) -> list[HostDevice]:
    if host.privileged:
        return machine_host.all_devices()
    found: list[HostDevice] = []
    for item in host.devices or ():
        access = item.cgroup_permissions or "rwm"
        if not _DEVICE_MODE.match(access):
            raise Conflict(f"invalid device mode: {access}")
        found += machine_host.device(item.path_on_host, item.path_in_container or item.path_on_host, access)
    return found
