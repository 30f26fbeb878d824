"""Every field that the published API knows is honoured or refused by name, never ignored."""

from __future__ import annotations

import msgspec
import pytest

from barque.engine.containers import validate
from barque.engine.containers.options import (
    ContainerConfig,
    EndpointSettings,
    HostConfig,
    LogConfig,
    MountSpec,
    NetworkingConfig,
    RestartPolicy,
)
from barque.errors import BarqueError, InvalidArgument

KINDS = {"Config": ContainerConfig, "HostConfig": HostConfig, "EndpointSettings": EndpointSettings}
#: The fields of the published API, version 1.55 (Config, EndpointSettings and what HostConfig has of its own).
PUBLISHED = {
    "Config": """Hostname Domainname User AttachStdin AttachStdout AttachStderr ExposedPorts Tty OpenStdin StdinOnce Env
        Cmd Healthcheck ArgsEscaped Image Volumes WorkingDir Entrypoint NetworkDisabled OnBuild Labels StopSignal
        StopTimeout Shell""",
    "HostConfig": """CpuShares Memory CgroupParent BlkioWeight BlkioWeightDevice BlkioDeviceReadBps BlkioDeviceWriteBps
        BlkioDeviceReadIOps BlkioDeviceWriteIOps CpuPeriod CpuQuota CpuRealtimePeriod CpuRealtimeRuntime CpusetCpus
        CpusetMems Devices DeviceCgroupRules DeviceRequests MemoryReservation MemorySwap MemorySwappiness NanoCpus
        OomKillDisable Init PidsLimit Ulimits CpuCount CpuPercent IOMaximumIOps IOMaximumBandwidth Binds ContainerIDFile
        LogConfig NetworkMode PortBindings RestartPolicy AutoRemove VolumeDriver VolumesFrom Mounts ConsoleSize
        Annotations CapAdd CapDrop CgroupnsMode Dns DnsOptions DnsSearch ExtraHosts GroupAdd IpcMode Cgroup Links
        OomScoreAdj PidMode Privileged PublishAllPorts ReadonlyRootfs SecurityOpt StorageOpt Tmpfs UTSMode UsernsMode
        ShmSize Sysctls Runtime Isolation MaskedPaths ReadonlyPaths""",
    "EndpointSettings": """IPAMConfig Links MacAddress Aliases DriverOpts GwPriority NetworkID EndpointID Gateway
        IPAddress IPPrefixLen IPv6Gateway GlobalIPv6Address GlobalIPv6PrefixLen DNSNames""",
}


@pytest.mark.parametrize("kind", KINDS)
def test_no_field_is_ignored(kind: str) -> None:
    fields = {item.encode_name for item in msgspec.structs.fields(KINDS[kind])}
    assert set(PUBLISHED[kind].split()) <= fields
    assert set(validate.HONOURED[kind]) | set(validate.CHECKS[kind]) == fields
    assert not set(validate.HONOURED[kind]) & set(validate.CHECKS[kind])


def check(host: HostConfig | None = None, config: ContainerConfig | None = None,
          networking: NetworkingConfig | None = None) -> None:
    validate.check(config or ContainerConfig(image="x"), host or HostConfig(), networking, 2)


def test_the_empty_request_is_fine() -> None:
    check()


@pytest.mark.parametrize(("host", "text"), [
    (HostConfig(memory=1024), "Minimum memory limit allowed is 6MB"),
    (HostConfig(memory_reservation=1024), "Minimum memory reservation allowed is 6MB"),
    (HostConfig(cpuset_cpus="0,3-1"), "Invalid value 0,3-1 for cpuset cpus: invalid format"),
    (HostConfig(memory_swap=10 << 20), "You should always set the Memory limit when using Memoryswap limit, see usage"),
    (HostConfig(nano_cpus=9 * 10**9), "range of CPUs is from 0.01 to 2.00, as there are only 2 CPUs available"),
    (HostConfig(nano_cpus=10**9, cpu_quota=5000), "Conflicting options: Nano CPUs and CPU Quota cannot both be set."),
    (HostConfig(auto_remove=True, restart_policy=RestartPolicy(name="always")),
     "can't create 'AutoRemove' container with restart policy"),
    (HostConfig(restart_policy=RestartPolicy(name="sometimes")), "invalid restart policy: unknown policy 'sometimes'"),
    (HostConfig(log_config=LogConfig(type="splunk")), "logger: no log driver named 'splunk' is registered"),
    (HostConfig(isolation="hyperv"), "invalid isolation 'hyperv' on linux"),
    (HostConfig(cpu_count=1), "CpuCount is not supported on linux"),
    (HostConfig(pid_mode="container:"), "invalid PID mode: container:"),
    (HostConfig(mounts=[MountSpec(type="npipe", target="/x")]), "such mounts are not supported"),
    (HostConfig(storage_opt={"size": "1G"}), "--storage-opt is supported only for overlay over xfs"),
])
def test_refusals_name_what_is_wrong(host: HostConfig, text: str) -> None:
    with pytest.raises(BarqueError) as caught:
        check(host)
    assert text in caught.value.message
    assert caught.value.status in (400, 501)


def test_a_relative_working_directory() -> None:
    with pytest.raises(InvalidArgument, match="the working directory 'x' is invalid, it needs to be an absolute path"):
        check(config=ContainerConfig(image="x", working_dir="x"))
