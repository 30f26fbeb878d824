"""The flags of ``run`` and ``create`` as the API's Config, HostConfig and NetworkingConfig."""

from __future__ import annotations

import os

from barque.cli.spec import checks, mounts, network, ports

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from barque.cli.flags import Values

_HEALTH = (("interval", "Interval"), ("timeout", "Timeout"), ("start-period", "StartPeriod"),
           ("start-interval", "StartInterval"), ("retries", "Retries"))
_DEVICE_MODES = frozenset("rwm")


def request(values: Values, image: str, command: list[str], proxies: dict[str, str]) -> dict[str, Any]:
    """The body of POST /containers/create; raises ValueError in docker's words. ``proxies`` are added to the
    environment.
    """
    if values["mac-address"] and not checks.mac_address(values["mac-address"]):
        raise ValueError(f"{values['mac-address']} is not a valid mac address")
    swappiness = values["memory-swappiness"]
    if swappiness != -1 and not 0 <= swappiness <= 100:
        raise ValueError(f"invalid value: {swappiness}. Valid memory swappiness range is 0-100")
    binds, anonymous = mounts.volumes(list(values["volume"]))
    exposed, bindings = ports.published(list(values["publish"]))
    exposed.update(ports.exposed(list(values["expose"])))
    body = _config(values, image, command, proxies)
    body["ExposedPorts"] = exposed
    body["Volumes"] = anonymous
    host = _host_config(values)
    host["Binds"] = binds or None
    host["PortBindings"] = bindings
    host.update(_resources(values))
    if values["rm"] and host["RestartPolicy"]["Name"] not in ("", "no"):
        raise ValueError("conflicting options: cannot specify both --restart and --rm")
    body["HostConfig"] = host
    body["NetworkingConfig"] = {"EndpointsConfig": network.endpoints(values)}
    return body


def _config(values: Values, image: str, command: list[str], proxies: dict[str, str]) -> dict[str, Any]:
    streams = values["attach"]
    stdin = values["interactive"] or "stdin" in streams
    config: dict[str, Any] = {
        "Hostname": values["hostname"], "Domainname": values["domainname"], "User": values["user"],
        "AttachStdin": stdin, "AttachStdout": not streams or "stdout" in streams,
        "AttachStderr": not streams or "stderr" in streams, "Tty": values["tty"], "OpenStdin": values["interactive"],
        "StdinOnce": values["interactive"] and stdin, "Env": _environment(values, proxies) or None,
        "Cmd": command or None, "Image": image, "WorkingDir": values["workdir"],
        "Entrypoint": [values["entrypoint"]] if "entrypoint" in values.changed else None,
        "OnBuild": None, "Labels": _labels(values),
    }
    if values["stop-signal"]:
        config["StopSignal"] = values["stop-signal"]
    if "stop-timeout" in values.changed:
        config["StopTimeout"] = values["stop-timeout"]
    if health := _health(values):
        config["Healthcheck"] = health
    return config


def _environment(values: Values, proxies: dict[str, str]) -> list[str]:
    given = list(values["env"])
    if values["env-file"]:
        from barque.cli.spec.files import assignments

        given = assignments(list(values["env-file"]), given, from_environment=True)
    names = {item.partition("=")[0] for item in values["env"]}
    extra = [f"{name}={value}" for name, value in proxies.items() if name not in names]
    return given + extra


def _labels(values: Values) -> dict[str, str]:
    given = list(values["label"])
    if values["label-file"]:
        from barque.cli.spec.files import assignments

        given = assignments(list(values["label-file"]), given, from_environment=False)
    return dict(item.partition("=")[::2] for item in given)


def _health(values: Values) -> dict[str, Any] | None:
    wanted = values["health-cmd"] or any(values[f"health-{name}"] for name, _ in _HEALTH)
    if values["no-healthcheck"]:
        if wanted:
            raise ValueError("--no-healthcheck conflicts with --health-* options")
        return {"Test": ["NONE"]}
    if not wanted:
        return None
    health: dict[str, Any] = {}
    if values["health-cmd"]:
        health["Test"] = ["CMD-SHELL", values["health-cmd"]]
    for name, field in _HEALTH:
        value = values[f"health-{name}"]
        if value < 0:
            raise ValueError(f"--health-{name} cannot be negative")
        if value:
            health[field] = value
    return health


def _host_config(values: Values) -> dict[str, Any]:
    security, masked, readonly = _security(list(values["security-opt"]))
    added, dropped = capabilities(values["cap-add"], values["cap-drop"])
    host: dict[str, Any] = {
        "ContainerIDFile": values["cidfile"], "LogConfig": _logging(values), "NetworkMode": network.mode(values),
        "RestartPolicy": restart_policy(values["restart"]), "AutoRemove": values["rm"],
        "VolumeDriver": values["volume-driver"], "VolumesFrom": list(values["volumes-from"]) or None,
        "CapAdd": added or None, "CapDrop": dropped or None,
        "CgroupnsMode": _mode(values, "cgroupns", ("", "private", "host"), "CGROUP"),
        "Dns": list(values["dns"]), "DnsOptions": list(values["dns-option"]), "DnsSearch": list(values["dns-search"]),
        "ExtraHosts": list(values["add-host"]) or None, "GroupAdd": list(values["group-add"]) or None,
        "IpcMode": values["ipc"], "Links": list(values["link"]) or None, "OomScoreAdj": values["oom-score-adj"],
        "PidMode": _mode(values, "pid", ("", "host"), "PID", joins=True), "Privileged": values["privileged"],
        "PublishAllPorts": values["publish-all"], "ReadonlyRootfs": values["read-only"],
        "SecurityOpt": security or None, "UTSMode": _mode(values, "uts", ("", "host"), "UTS"),
        "UsernsMode": _mode(values, "userns", ("", "host"), "USER"), "ShmSize": values["shm-size"],
        "Isolation": values["isolation"], "MaskedPaths": masked, "ReadonlyPaths": readonly,
    }
    optional = {
        "StorageOpt": _pairs(values["storage-opt"], "invalid storage option"),
        "Tmpfs": dict(item.partition(":")[::2] for item in values["tmpfs"]), "Sysctls": values["sysctl"],
        "Runtime": values["runtime"], "Mounts": list(values["mount"]), "Annotations": values["annotation"],
    }
    host.update({key: value for key, value in optional.items() if value})
    if "init" in values.changed:
        host["Init"] = values["init"]
    return host


def capabilities(add: list[str], drop: list[str]) -> tuple[list[str], list[str]]:
    """Both lists in canonical spelling (``CAP_NET_ADMIN``, ``ALL``), sorted; what is added is not dropped."""
    def canonical(names: list[str]) -> set[str]:
        full = {name.strip().upper() for name in names}
        full = {name if name == "ALL" or name.startswith("CAP_") else f"CAP_{name}" for name in full}
        return {"ALL"} if "ALL" in full else full

    added = canonical(add)
    return sorted(added), sorted(canonical(drop) - added)


def _mode(values: Values, flag: str, known: tuple[str, ...], what: str, *, joins: bool = False) -> str:
    text: str = values[flag]
    if text in known or (joins and text.startswith("container:") and len(text) > len("container:")):
        return text
    raise ValueError(f"--{flag}: invalid {what} mode")


def _pairs(items: list[str], complaint: str) -> dict[str, str]:
    if any("=" not in item for item in items):
        raise ValueError(complaint)
    return dict(item.partition("=")[::2] for item in items)


def _logging(values: Values) -> dict[str, Any]:
    if values["log-driver"] == "none" and values["log-opt"]:
        raise ValueError("invalid logging opts for driver none")
    return {"Type": values["log-driver"], "Config": dict(item.partition("=")[::2] for item in values["log-opt"])}


def restart_policy(text: str) -> dict[str, Any]:
    """``no``, ``always``, ``unless-stopped``, ``on-failure[:max]``; raises ValueError."""
    name, colon, count = text.partition(":")
    if colon and not name:
        raise ValueError("invalid restart policy format: no policy provided before colon")
    if count and not count.lstrip("-+").isdigit():
        raise ValueError("invalid restart policy format: maximum retry count must be an integer")
    return {"Name": name, "MaximumRetryCount": int(count) if count else 0}


def _security(options: list[str]) -> tuple[list[str], list[str] | None, list[str] | None]:
    """(options for the engine, masked paths, read-only paths): profiles are read here, ``systempaths`` is ours."""
    kept = []
    masked: list[str] | None = None
    for option in options:
        key, equals, value = option.partition("=")
        if not equals and key != "no-new-privileges":
            key, equals, value = option.partition(":")
        if key != "no-new-privileges" and not (equals and value):
            raise ValueError(f'Invalid --security-opt: "{option}"')
        if option == "systempaths=unconfined":
            masked = []
        elif key == "seccomp" and value.startswith("learn:"):
            kept.append("seccomp=learn:" + os.path.abspath(value.removeprefix("learn:")))
        elif key == "seccomp" and value not in ("unconfined", "builtin"):
            kept.append("seccomp=" + _profile(value))
        else:
            kept.append(option)
    return kept, masked, masked


def _profile(path: str) -> str:
    import json

    try:
        with open(path, "rb") as file:
            return json.dumps(json.load(file), separators=(",", ":"), ensure_ascii=False)
    except OSError as error:
        raise ValueError(
            f"opening seccomp profile ({path}) failed: open {path}: {(error.strerror or '').lower()}") from None
    except ValueError as error:
        raise ValueError(f"compacting json for seccomp profile ({path}) failed: {error}") from None


def _resources(values: Values) -> dict[str, Any]:
    devices, cdi = _devices(list(values["device"]))
    requests = list(values["gpus"])
    if cdi:
        requests.append({"Driver": "cdi", "DeviceIDs": cdi})
    return {
        "CgroupParent": values["cgroup-parent"], "Memory": values["memory"], "NanoCpus": values["cpus"],
        "MemoryReservation": values["memory-reservation"], "MemorySwap": values["memory-swap"],
        "MemorySwappiness": values["memory-swappiness"], "OomKillDisable": values["oom-kill-disable"],
        "KernelMemory": values["kernel-memory"], "CpuShares": values["cpu-shares"], "CpuPeriod": values["cpu-period"],
        "CpuQuota": values["cpu-quota"], "CpuRealtimePeriod": values["cpu-rt-period"],
        "CpuRealtimeRuntime": values["cpu-rt-runtime"], "CpusetCpus": values["cpuset-cpus"],
        "CpusetMems": values["cpuset-mems"], "CpuCount": values["cpu-count"], "CpuPercent": values["cpu-percent"],
        "PidsLimit": values["pids-limit"], "BlkioWeight": values["blkio-weight"],
        "BlkioWeightDevice": list(values["blkio-weight-device"]),
        "BlkioDeviceReadBps": list(values["device-read-bps"]), "BlkioDeviceWriteBps": list(values["device-write-bps"]),
        "BlkioDeviceReadIOps": list(values["device-read-iops"]),
        "BlkioDeviceWriteIOps": list(values["device-write-iops"]),
        "IOMaximumIOps": values["io-maxiops"], "IOMaximumBandwidth": values["io-maxbandwidth"],
        "Ulimits": sorted(values["ulimit"], key=lambda limit: str(limit["Name"])),
        "DeviceCgroupRules": list(values["device-cgroup-rule"]) or None,
        "Devices": devices, "DeviceRequests": requests or None,
    }


def _devices(texts: list[str]) -> tuple[list[dict[str, str]], list[str]]:
    mapped, cdi = [], []
    for text in texts:
        vendor, slash, _ = text.partition("/")
        if slash and vendor and "=" in text and "." in vendor:
            cdi.append(text)
        else:
            mapped.append(_device(text))
    return mapped, cdi


def _device(text: str) -> dict[str, str]:
    import os.path

    parts = text.split(":")
    if len(parts) > 3 or not parts[0]:
        raise ValueError(f"bad format for path: {text}")
    source, target, permissions = parts[0], parts[0], "rwm"
    if len(parts) == 3:
        target, permissions = parts[1], parts[2]
        if not _device_mode(permissions):
            raise ValueError(f"bad mode specified: {permissions}")
    elif len(parts) == 2:
        if _device_mode(parts[1]):
            permissions = parts[1]
        else:
            target = os.path.normpath(parts[1])
    else:
        source = target = os.path.normpath(text)
    if not target.startswith("/"):
        raise ValueError(f"{target} is not an absolute path")
    return {"PathOnHost": source, "PathInContainer": target, "CgroupPermissions": permissions}


def _device_mode(text: str) -> bool:
    return bool(text) and set(text) <= _DEVICE_MODES and len(set(text)) == len(text)
