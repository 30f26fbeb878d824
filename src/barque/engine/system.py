"""What the engine says about itself and its machine: version, info, disk usage."""

from __future__ import annotations

import builtins
import os
import secrets
from collections.abc import Sequence
from typing import Any, Protocol

import msgspec

from barque.config import BUILTIN_RUNTIMES, VERSION, Config
from barque.engine import clock
from barque.engine.containers import listing
from barque.engine.containers.context import Context
from barque.engine.containers.machine import Status
from barque.engine.events import EventBus
from barque.engine.filters import Filters
from barque.engine.logging.drivers import DRIVERS
from barque.engine.metrics import host_lines, process_lines, series_lines
from barque.engine.volumes import Volume, VolumeUsers
from barque.image.client.proxies import without_password

#: Fields of the answer -> the controller that they depend on.
_LIMITS = {"MemoryLimit": "memory", "CpuCfsPeriod": "cpu", "CpuCfsQuota": "cpu", "CPUShares": "cpu", "CPUSet": "cpuset",
           "PidsLimit": "pids"}


class Images(Protocol):
    async def count(self) -> int: ...
    async def disk_usage(self) -> tuple[list[dict[str, Any]], int]:
        """The list entries of all images, and the bytes of all layers, each counted once."""


class Volumes(Protocol):
    async def list(self, wanted: Filters) -> builtins.list[Volume]: ...
    async def size(self, name: str) -> int: ...


class BuildCacheUsage(Protocol):
    async def disk_usage(self) -> list[dict[str, Any]]: ...


class VolumeUsage:
    """What volumes take, and how many containers use each."""

    def __init__(self, volumes: Volumes, users: VolumeUsers) -> None:
        self._volumes = volumes
        self._users = users

    async def disk_usage(self) -> list[dict[str, Any]]:
        return [{**msgspec.to_builtins(volume), "UsageData": {"Size": await self._volumes.size(volume.name),
                                                              "RefCount": len(self._users.users_of(volume.name))}}
                for volume in await self._volumes.list({})]


def load_id(path: str) -> str:
    """The engine's lasting id, made at the first start."""
    try:
        with open(path, encoding="ascii") as file:
            return file.read().strip()
    except FileNotFoundError:
        made = secrets.token_hex(16)
        with open(path, "w", encoding="ascii") as file:
            file.write(made + "\n")
        return made


def version(ctx: Context, api: str, minimum: str) -> dict[str, Any]:
    details = {"ApiVersion": api, "Arch": _go_arch(ctx.host.architecture), "BuildTime": "", "Experimental":
               str(ctx.config.experimental).lower(), "GitCommit": "", "GoVersion": "", "KernelVersion": ctx.host.kernel,
               "MinAPIVersion": minimum, "Os": "linux"}
    return {"Platform": {"Name": "Barque"}, "Components": [{"Name": "Engine", "Version": VERSION, "Details": details}],
            "Version": VERSION, "ApiVersion": api, "MinAPIVersion": minimum, "GitCommit": "", "GoVersion": "",
            "Os": "linux",
            "Arch": details["Arch"], "KernelVersion": ctx.host.kernel, "BuildTime": "",
            **({"Experimental": True} if ctx.config.experimental else {})}


def _go_arch(machine: str) -> str:
    return {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "ppc64le": "ppc64le"}.get(machine, machine)


def _count(ctx: Context) -> dict[str, int]:
    states = [live.facts.status for live in ctx.registry]
    running = sum(state in (Status.RUNNING, Status.RESTARTING) for state in states)
    paused = states.count(Status.PAUSED)
    return {"Containers": len(states), "ContainersRunning": running, "ContainersPaused": paused,
            "ContainersStopped": len(states) - running - paused}


async def info(ctx: Context, engine_id: str, images: Images, bus: EventBus) -> dict[str, Any]:
    config, host = ctx.config, ctx.host
    runtimes: dict[str, Any] = {name: {"path": "barque-runtime"} for name in BUILTIN_RUNTIMES}
    runtimes |= {name: {"path": item.path, **({"runtimeArgs": list(item.args)} if item.args else {})}
                 for name, item in config.runtimes.items()}
    return {
        "ID": engine_id, **_count(ctx), "Images": await images.count(), "Driver": "overlay2",
        "DriverStatus": [["Backing Filesystem", _filesystem(config.data_root)], ["Supports d_type", "true"],
                         ["Native Overlay Diff", "true"]],
        "Plugins": {"Volume": ["local"], "Network": ["bridge", "host", "macvlan", "null"], "Authorization": None,
                    "Log": sorted(DRIVERS)},
        **{field: controller in host.controllers for field, controller in _LIMITS.items()},
        "SwapLimit": host.swap_limit, "OomKillDisable": not host.cgroup_v2, "IPv4Forwarding": True,
        "Debug": config.debug, "NFd": len(os.listdir("/proc/self/fd")), "NGoroutines": 0, "SystemTime": clock.now(),
        "LoggingDriver": config.log_driver, "CgroupDriver": config.cgroup_driver,
        "CgroupVersion": "2" if host.cgroup_v2 else "1", "NEventsListener": bus.listeners, "KernelVersion": host.kernel,
        "OperatingSystem": host.operating_system, "OSVersion": host.os_version, "OSType": "linux",
        "Architecture": host.architecture, "NCPU": host.cpus, "MemTotal": host.memory,
        "IndexServerAddress": "https://index.docker.io/v1/", "RegistryConfig": _registries(config),
        "GenericResources": None, "HttpProxy": without_password(config.http_proxy),
        "HttpsProxy": without_password(config.https_proxy), "NoProxy": config.no_proxy, "Name": host.name,
        "Labels": list(config.labels), "ExperimentalBuild": config.experimental, "ServerVersion": VERSION,
        "Runtimes": runtimes, "DefaultRuntime": config.default_runtime, "Swarm": _no_swarm(),
        "LiveRestoreEnabled": config.live_restore, "Isolation": "",
        "InitBinary": os.path.basename(config.init_path or host.init_path or ""), "ContainerdCommit": {"ID": ""},
        "RuncCommit": {"ID": ""}, "InitCommit": {"ID": ""}, "SecurityOptions": _security(ctx),
        "DockerRootDir": config.data_root, "ProductLicense": "", "CDISpecDirs": [],
        "FirewallBackend": {"Driver": "nftables"},
        "DefaultAddressPools": [{"Base": pool.base, "Size": pool.size} for pool in config.default_address_pools],
        "Warnings": _warnings(ctx)}


def metrics(ctx: Context, engine_id: str, bus: EventBus) -> str:
    """All series that Prometheus reads."""
    count = _count(ctx)
    states = {f'state="{state.lower()}"': count[f"Containers{state}"] for state in ("Paused", "Running", "Stopped")}
    return "\n".join([
        *ctx.metrics.lines(),
        *series_lines("engine_daemon_container_states_containers", "The count of containers in various states", "gauge",
                      states),
        *series_lines("engine_daemon_events_subscribers_total", "The number of current subscribers to events", "gauge",
                      {"": bus.listeners}),
        *series_lines("engine_daemon_events_total", "The number of events logged", "counter", {"": bus.emitted}),
        *host_lines(ctx.host, engine_id, VERSION), *process_lines()]) + "\n"


def _filesystem(path: str) -> str:
    """The type of the file system that ``path`` is on (proc_pid_mountinfo(5))."""
    device = os.stat(path).st_dev
    wanted = f"{os.major(device)}:{os.minor(device)}"
    with open("/proc/self/mountinfo", encoding="utf-8") as file:
        for line in file:
            head, _, tail = line.partition(" - ")
            if head.split()[2] == wanted:
                return tail.split()[0]
    return "unknown"


def _registries(config: Config) -> dict[str, Any]:
    own = {"docker.io": {"Name": "docker.io", "Mirrors": list(config.registry_mirrors), "Secure": True,
                         "Official": True}}
    insecure = [item for item in config.insecure_registries if "/" in item]
    for name in config.insecure_registries:
        if "/" not in name:
            own[name] = {"Name": name, "Mirrors": [], "Secure": False, "Official": False}
    return {"AllowNondistributableArtifactsCIDRs": None, "AllowNondistributableArtifactsHostnames": None,
            "InsecureRegistryCIDRs": [*insecure, "127.0.0.0/8"], "IndexConfigs": own,
            "Mirrors": list(config.registry_mirrors)}


def _no_swarm() -> dict[str, Any]:
    return {"NodeID": "", "NodeAddr": "", "LocalNodeState": "inactive", "ControlAvailable": False, "Error": "",
            "RemoteManagers": None}


def _security(ctx: Context) -> list[str]:
    options = ["name=apparmor"] if ctx.host.apparmor and ctx.host.apparmor_parser else []
    if ctx.config.seccomp_profile != "unconfined":
        options.append(f"name=seccomp,profile={ctx.config.seccomp_profile or 'builtin'}")
    if ctx.config.selinux_enabled:
        options.append("name=selinux")
    if ctx.host.cgroup_v2:
        options.append("name=cgroupns")
    if ctx.config.no_new_privileges:
        options.append("name=no-new-privileges")
    return options


def _warnings(ctx: Context) -> list[str]:
    warnings = []
    if any(host.startswith("tcp://") for host in ctx.config.hosts) and not ctx.config.tls.verify:
        warnings.append("WARNING: API is accessible over TCP without client certificates. Access to the remote API is "
                        "equivalent to root access on the host.")
    warnings += [f"WARNING: No {name} support" for name, controller in (
        ("memory limit", "memory"), ("cpu cfs period", "cpu"), ("cpu cfs quota", "cpu"), ("cpu shares", "cpu"),
        ("cpuset", "cpuset")) if controller not in ctx.host.controllers]
    if not ctx.host.swap_limit:
        warnings.append("WARNING: No swap limit support")
    return warnings


async def disk_usage(ctx: Context, images: Images, volumes: VolumeUsage, builds: BuildCacheUsage,
                     kinds: Sequence[str]) -> dict[str, Any]:
    """``GET /system/df`` in the shape of up to 1.51; ``kinds`` empty means all."""
    result: dict[str, Any] = {"LayersSize": 0, "Images": [], "Containers": [], "Volumes": [], "BuildCache": []}
    if not kinds or "image" in kinds:
        result["Images"], result["LayersSize"] = await images.disk_usage()
    if not kinds or "container" in kinds:
        result["Containers"] = await listing.containers(ctx, {}, everything=True, limit=0, size=True)
    if not kinds or "volume" in kinds:
        result["Volumes"] = await volumes.disk_usage()
    if not kinds or "build-cache" in kinds:
        result["BuildCache"] = await builds.disk_usage()
    return result


def usage_summaries(found: dict[str, Any], kinds: Sequence[str], *, verbose: bool) -> dict[str, Any]:
    """What :func:`disk_usage` found in the shape of 1.52 and later: sums for each kind, entries only where asked."""
    images, layers = found["Images"], found["LayersSize"]
    used = sum(item["Size"] - max(item["SharedSize"], 0) for item in images if item["Containers"])
    sizes = {"container": [(item["State"] in ("running", "paused", "restarting"), item.get("SizeRw") or 0)
                           for item in found["Containers"]],
             "volume": [(item["UsageData"]["RefCount"] > 0, max(item["UsageData"]["Size"], 0))
                        for item in found["Volumes"]],
             "build-cache": [(item["InUse"], item["Size"]) for item in found["BuildCache"]]}
    result = {"ImageUsage": _sums(images, sum(1 for item in images if item["Containers"]), layers - used, layers)}
    for kind, key, entries in (("container", "ContainerUsage", found["Containers"]),
                               ("volume", "VolumeUsage", found["Volumes"]),
                               ("build-cache", "BuildCacheUsage", found["BuildCache"])):
        result[key] = _sums(entries, sum(active for active, _ in sizes[kind]),
                            sum(size for active, size in sizes[kind] if not active),
                            sum(size for _, size in sizes[kind]))
    names = {"image": "ImageUsage", "container": "ContainerUsage", "volume": "VolumeUsage",
             "build-cache": "BuildCacheUsage"}
    for kind, key in names.items():
        if kinds and kind not in kinds:
            del result[key]
        elif not verbose:
            del result[key]["Items"]
    return result


def _sums(items: Sequence[Any], active: int, reclaimable: int, total: int) -> dict[str, Any]:
    return {"ActiveCount": active, "TotalCount": len(items), "Reclaimable": reclaimable, "TotalSize": total,
            "Items": items}
