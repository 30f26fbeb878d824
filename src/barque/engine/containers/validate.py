"""Is what the client asks for sensible, and can this engine do it? Every field is honoured or refused by name.

:data:`HONOURED` and :data:`CHECKS` together name every field of ``Config``, ``HostConfig`` and ``EndpointSettings``; a
unit test holds them against the types and against the published API.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any

import msgspec

from barque.engine.containers.options import (
    ContainerConfig,
    HostConfig,
    MountSpec,
    NetworkingConfig,
)
from barque.engine.logging import drivers
from barque.engine.signals import parse_signal
from barque.errors import InvalidArgument, Unsupported

MIN_MEMORY = 6 << 20
_MAX_INT = (1 << 63) - 1
#: Processors and memory nodes are not numbered above this (CONFIG_NR_CPUS).
_MANY = 1 << 13
#: Fields that have their effect elsewhere (to_spec, create, networks, logs) or are recorded for other tools to see.
HONOURED: dict[str, frozenset[str]] = {
    "Config": frozenset(["Hostname", "Domainname", "User", "AttachStdin", "AttachStdout", "AttachStderr",
                         "ExposedPorts", "Tty", "OpenStdin", "StdinOnce", "Env", "Cmd", "Healthcheck", "ArgsEscaped",
    "Image", "Volumes", "WorkingDir", "Entrypoint", "NetworkDisabled", "MacAddress", "OnBuild", "Labels", "Shell"]),
    "HostConfig": frozenset(["Binds", "ContainerIDFile", "NetworkMode", "PortBindings", "AutoRemove", "VolumesFrom",
                             "ConsoleSize", "Annotations", "CapAdd", "CapDrop", "Dns", "DnsOptions", "DnsSearch",
    "ExtraHosts", "GroupAdd", "Privileged", "PublishAllPorts", "ReadonlyRootfs", "SecurityOpt", "Tmpfs", "ShmSize",
    "Sysctls", "Runtime", "MaskedPaths", "ReadonlyPaths", "CpuShares", "CgroupParent", "BlkioWeightDevice",
    "BlkioDeviceReadBps", "BlkioDeviceWriteBps", "BlkioDeviceReadIOps", "BlkioDeviceWriteIOps", "CpuPeriod",
    "CpuQuota", "CpuRealtimePeriod", "CpuRealtimeRuntime", "CpusetCpus", "CpusetMems", "Devices", "DeviceCgroupRules",
    "VolumeDriver", "OomKillDisable", "Init", "PidsLimit", "Ulimits", "Links"]),
    "EndpointSettings": frozenset([
        "IPAMConfig", "MacAddress", "Aliases", "DriverOpts", "GwPriority", "NetworkID", "EndpointID", "Gateway",
        "IPAddress", "IPPrefixLen", "IPv6Gateway", "GlobalIPv6Address", "GlobalIPv6PrefixLen", "DNSNames", "Links"]),
}

Check = Callable[[Any], None]


def _only_empty(name: str, why: str) -> Check:
    def check(value: Any) -> None:
        if value:
            raise Unsupported(f"{name} is not supported: {why}")
    return check


def _windows(name: str) -> Check:
    def check(value: Any) -> None:
        if value:
            raise InvalidArgument(f"{name} is not supported on linux")
    return check


def _isolation(value: str) -> None:
    if value.lower() not in ("", "default"):
        raise InvalidArgument(f"invalid isolation '{value}' on linux")


def _storage_opt(value: dict[str, str] | None) -> None:
    if value:
        raise InvalidArgument("--storage-opt is supported only for overlay over xfs with 'pquota' mount option")


def _userns(value: str) -> None:
    if value not in ("", "host"):
        raise InvalidArgument(f"invalid USER mode: {value}")


def _device_requests(value: list[Any] | None) -> None:
    for request in value or ():
        raise Unsupported(f'could not select device driver "{request.driver}" with capabilities: '
                          f"{_go_list(request.capabilities)}")


def _go_list(value: list[list[str]] | None) -> str:
    return "[" + " ".join("[" + " ".join(inner) + "]" for inner in value or ()) + "]"


def _restart(value: Any) -> None:
    if value.name not in ("", "no", "always", "unless-stopped", "on-failure", "on-unhealthy"):
        raise InvalidArgument(f"invalid restart policy: unknown policy '{value.name}'; use one of 'no', 'always', "
                              "'on-failure', 'on-unhealthy', or 'unless-stopped'")
    if value.maximum_retry_count < 0:
        raise InvalidArgument("invalid restart policy: maximum retry count cannot be negative")
    if value.maximum_retry_count and value.name not in ("on-failure", "on-unhealthy"):
        raise InvalidArgument("invalid restart policy: maximum retry count can only be used with 'on-failure'")


def _log(value: Any) -> None:
    """Options of the daemon's default driver are checked when they are known: in ``create``."""
    if value.type:
        drivers.check(value.type, value.config or {})


def _mode(what: str, *allowed: str, container: bool = False) -> Check:
    def check(value: str) -> None:
        if value in ("", *allowed) or (container and value.startswith("container:") and value != "container:"):
            return
        raise InvalidArgument(f"invalid {what} mode: {value}")
    return check


def _mounts(value: list[MountSpec] | None) -> None:
    for mount in value or ():
        if mount.type not in ("bind", "volume", "tmpfs", "image"):
            if mount.type in ("npipe", "cluster"):
                raise Unsupported(f'invalid mount config for type "{mount.type}": such mounts are not supported')
            raise InvalidArgument(f'invalid mount config for type "{mount.type}": mount type unknown')
        if not mount.target:
            raise InvalidArgument(f'invalid mount config for type "{mount.type}": field Target must not be empty')


def _bounds(name: str, low: int, high: int) -> Check:
    def check(value: int | None) -> None:
        if value is not None and value != 0 and not low <= value <= high:
            raise InvalidArgument(f"Range of {name} is from {low} to {high}.")
    return check


def _oom_score(value: int) -> None:
    if not -1000 <= value <= 1000:
        raise InvalidArgument(f"Invalid value {value}, range for oom score adj is [-1000, 1000]")


def _memory(what: str) -> Check:
    def check(value: int) -> None:
        if value < 0 or 0 < value < MIN_MEMORY:
            raise InvalidArgument(f"Minimum memory {what} allowed is 6MB")
    return check


def _signal(value: str) -> None:
    if value:
        parse_signal(value)


def _stop_timeout(value: int | None) -> None:
    if value is not None and value < -1:
        raise InvalidArgument(f"invalid stop timeout: {value}")


def _swappiness(value: int | None) -> None:
    if value is not None and not -1 <= value <= 100:
        raise InvalidArgument(f"Invalid value: {value}, valid memory swappiness range is 0-100")


CHECKS: dict[str, dict[str, Check]] = {
    "Config": {"StopSignal": _signal, "StopTimeout": _stop_timeout},
    "HostConfig": {
        "LogConfig": _log, "RestartPolicy": _restart, "Mounts": _mounts,
        "CgroupnsMode": _mode("cgroup namespace", "host", "private"), "IpcMode": _mode("IPC", "host", "private",
                                                                                       "shareable",
                                                                                    "none", container=True),
        "Cgroup": _only_empty("Cgroup", "containers cannot share the cgroup of another"),
        "OomScoreAdj": _oom_score,
        "PidMode": _mode("PID", "host", container=True), "StorageOpt": _storage_opt, "UTSMode": _mode("UTS", "host"),
        "UsernsMode": _userns, "Isolation": _isolation, "Memory": _memory("limit"), "DeviceRequests": _device_requests,
        "BlkioWeight": _bounds("blkio weight", 10, 1000), "MemoryReservation": _memory("reservation"),
        "MemorySwap": lambda _: None, "MemorySwappiness": _swappiness, "NanoCpus": lambda _: None,
        "CpuCount": _windows("CpuCount"),
        "CpuPercent": _windows("CpuPercent"), "IOMaximumIOps": _windows("IOMaximumIOps"),
        "IOMaximumBandwidth": _windows("IOMaximumBandwidth"),
    },
    "EndpointSettings": {},
}


def check(config: ContainerConfig, host: HostConfig, networking: NetworkingConfig | None, cpus: int) -> None:
    """Raises InvalidArgument for what makes no sense, Unsupported for what is not to be had, in dockerd's words.

    ``config`` is what was asked for, without what an image or the engine adds.
    """
    _apply("Config", config)
    check_host(host, cpus)
    for endpoint in ((networking.endpoints_config if networking else None) or {}).values():
        if endpoint is not None:
            _apply("EndpointSettings", endpoint)
    _check_network(config, host)
    if host.auto_remove and host.restart_policy.name not in ("", "no"):
        raise InvalidArgument("can't create 'AutoRemove' container with restart policy")
    if config.working_dir and not config.working_dir.startswith("/"):
        raise InvalidArgument(f"the working directory '{config.working_dir}' is invalid, it needs to be an absolute "
                              "path")
    _check_env(config.env or ())
    if host.annotations and any(not key for key in host.annotations):
        raise InvalidArgument("invalid Annotations: the empty string is not permitted as an annotation key")


def check_host(host: HostConfig, cpus: int) -> None:
    """The part of :func:`check` that an update of the container can change."""
    _apply("HostConfig", host)
    _check_cpu(host, cpus)
    _check_memory(host)


def _apply(kind: str, value: msgspec.Struct) -> None:
    for field in msgspec.structs.fields(value):
        item = getattr(value, field.name)
        if type(item) is int and item > _MAX_INT:
            raise InvalidArgument(f"invalid JSON: cannot unmarshal number {item} into Go struct field "
                                  f"{kind}.{field.encode_name} of type int64")
        test = CHECKS[kind].get(field.encode_name)
        if test is not None:
            test(item)


def _check_cpu(host: HostConfig, cpus: int) -> None:
    if host.nano_cpus and (host.cpu_period or host.cpu_quota):
        which = "CPU Period" if host.cpu_period else "CPU Quota"
        raise InvalidArgument(f"Conflicting options: Nano CPUs and {which} cannot both be set.")
    if host.nano_cpus < 0 or host.nano_cpus > cpus * 10**9:
        raise InvalidArgument(f"range of CPUs is from 0.01 to {cpus}.00, as there are only {cpus} CPUs available")
    if host.cpu_period and not 1000 <= host.cpu_period <= 1_000_000:
        raise InvalidArgument("CPU cfs period can not be less than 1ms (i.e. 1000) or larger than 1s (i.e. 1000000)")
    if 0 < host.cpu_quota < 1000:
        raise InvalidArgument("CPU cfs quota can not be less than 1ms (i.e. 1000)")
    for name, text in (("cpus", host.cpuset_cpus), ("mems", host.cpuset_mems)):
        if text and (not re.fullmatch(r"\d+(-\d+)?(,\d+(-\d+)?)*", text, re.ASCII)
                     or any(int(first) > int(last) for first, last in re.findall(r"(\d+)-(\d+)", text))):
            raise InvalidArgument(f"Invalid value {text} for cpuset {name}: invalid format: {text}")
        if any(int(number) > _MANY for number in re.findall(r"\d+", text)):
            raise InvalidArgument(f"Invalid value {text} for cpuset {name}: value of out range, maximum is {_MANY}")


def numbers(text: str) -> set[int]:
    """What a list of cpuset(7) that was checked names."""
    pairs = (item.partition("-") for item in text.split(",") if item)
    return {number for first, _, last in pairs for number in range(int(first), int(last or first) + 1)}


def _check_memory(host: HostConfig) -> None:
    if host.memory_swap < -1:
        raise InvalidArgument("Invalid memory swap value")
    if host.memory_swap > 0 and not host.memory:
        raise InvalidArgument("You should always set the Memory limit when using Memoryswap limit, see usage")
    if 0 < host.memory_swap < host.memory:
        raise InvalidArgument("Minimum memoryswap limit should be larger than memory limit, see usage")
    if host.memory_reservation and 0 < host.memory < host.memory_reservation:
        raise InvalidArgument("Minimum memory limit can not be less than memory reservation limit, see usage")
    if host.shm_size < 0:
        raise InvalidArgument("SHM size can not be less than 0")


def _check_network(config: ContainerConfig, host: HostConfig) -> None:
    """Who shares the names or the network of another cannot have his own."""
    shared = host.network_mode.startswith("container:")
    if host.uts_mode == "host" and config.hostname:
        raise InvalidArgument("conflicting options: hostname and the UTS mode")
    if host.network_mode == "host" and host.links:
        raise InvalidArgument("conflicting options: host type networking can't be used with links. This would result "
                              "in undefined behavior")
    for given, text in (
            (config.hostname, "hostname and the network mode"),
            (host.links, "container type network can't be used with links. This would result in undefined behavior"),
            (host.dns, "dns and the network mode"),
            (host.extra_hosts, "custom host-to-IP mapping and the network mode"),
            (host.port_bindings or host.publish_all_ports, "port publishing and the container type network mode"),
            (config.exposed_ports, "port exposing and the container type network mode")):
        if shared and given:
            raise InvalidArgument(f"conflicting options: {text}")


def _check_env(env: Iterable[str]) -> None:
    for item in env:
        if item.startswith("=") or not item:
            raise InvalidArgument(f"invalid environment variable: {item}")
