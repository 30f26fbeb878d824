"""Bodies of the container routes."""

from __future__ import annotations

from typing import TypeVar

import msgspec
from msgspec import field

from barque.engine.containers.options import (
    ContainerConfig,
    HostConfig,
    NetworkingConfig,
    PortBinding,
    RestartPolicy,
    Ulimit,
)

#: What dockerd says where the kernel lacks it; Linux has had none since 5.16.
NO_KERNEL_MEMORY = ("Your kernel does not support kernel memory limit capabilities or the cgroup is not mounted. "
                    "Limitation discarded.")


class AskedHost(HostConfig, frozen=True, kw_only=True, rename="pascal"):
    """With what docker's clients still send and nothing is made of but a warning."""

    kernel_memory: int = 0


class CreateBody(ContainerConfig, frozen=True, kw_only=True, rename="pascal"):
    """``POST /containers/create``: the container's configuration with two more objects beside its fields.

    docker-py puts ``runtime`` there. dockerd overlooks it, and runs such a container without the isolation asked for.
    """

    host_config: AskedHost | None = None
    runtime: str = ""
    networking_config: NetworkingConfig | None = None

    def config(self) -> ContainerConfig:
        """The configuration alone."""
        return _narrowed(self, ContainerConfig)

    def host(self) -> HostConfig:
        host = _narrowed(self.host_config, HostConfig) if self.host_config else HostConfig()
        return msgspec.structs.replace(host, runtime=host.runtime or self.runtime)

    def warnings(self) -> list[str]:
        return [NO_KERNEL_MEMORY] if self.host_config and self.host_config.kernel_memory else []


S = TypeVar("S", bound=msgspec.Struct)


def _narrowed(value: S, kind: type[S]) -> S:
    """``value`` as its base ``kind``, without the fields beyond."""
    return kind(**{item.name: getattr(value, item.name) for item in msgspec.structs.fields(kind)})


class ExecStartBody(msgspec.Struct, frozen=True, kw_only=True, rename="pascal"):
    detach: bool = False
    tty: bool = False
    console_size: list[int] | None = None


class UpdateBody(msgspec.Struct, frozen=True, kw_only=True, rename="pascal"):
    """``POST /containers/{id}/update``; what is left out or 0 stays as it is. The last two fields are ours."""

    cpu_shares: int = 0
    memory: int = 0
    cgroup_parent: str = ""
    blkio_weight: int = 0
    cpu_period: int = 0
    cpu_quota: int = 0
    cpu_realtime_period: int = 0
    cpu_realtime_runtime: int = 0
    cpuset_cpus: str = ""
    cpuset_mems: str = ""
    kernel_memory: int = 0
    memory_reservation: int = 0
    memory_swap: int = 0
    memory_swappiness: int | None = None
    nano_cpus: int = 0
    oom_kill_disable: bool | None = None
    pids_limit: int | None = None
    ulimits: list[Ulimit] | None = None
    init: bool | None = None
    cpu_count: int = 0
    cpu_percent: int = 0
    io_maximum_iops: int = field(default=0, name="IOMaximumIOps")
    io_maximum_bandwidth: int = field(default=0, name="IOMaximumBandwidth")
    restart_policy: RestartPolicy | None = None
    publish_add: dict[str, list[PortBinding] | None] | None = None
    publish_remove: list[str] | None = None
