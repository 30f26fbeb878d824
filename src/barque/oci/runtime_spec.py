"""The OCI runtime configuration (runtime-spec 1.3, config.md and config-linux.md) as values.

Field names are the spec's. ``None`` means that the document does not say, which for limits differs from 0.

The annotations are objects, not strings (no ``from __future__``): msgspec would compile and evaluate 250 of them in
each process that reads a document.
"""

from functools import cache
from typing import Any

import msgspec

from barque.oci import go_json

OCI_VERSION = "1.3.0"


class Box(msgspec.Struct, omit_defaults=True, rename="camel"):
    height: int = 0
    width: int = 0


class User(msgspec.Struct, omit_defaults=True, rename="camel"):
    uid: int = msgspec.field(default=0)
    gid: int = msgspec.field(default=0)
    umask: int | None = None
    additional_gids: list[int] = msgspec.field(default_factory=list)
    username: str = ""


class Capabilities(msgspec.Struct, omit_defaults=True, rename="camel"):
    """Names such as ``CAP_CHOWN``."""

    bounding: list[str] = msgspec.field(default_factory=list)
    effective: list[str] = msgspec.field(default_factory=list)
    inheritable: list[str] = msgspec.field(default_factory=list)
    permitted: list[str] = msgspec.field(default_factory=list)
    ambient: list[str] = msgspec.field(default_factory=list)


class Rlimit(msgspec.Struct, rename="camel"):
    """``type`` is ``RLIMIT_NOFILE`` and the like."""

    type: str
    hard: int
    soft: int


class Scheduler(msgspec.Struct, omit_defaults=True, rename="camel"):
    policy: str
    nice: int = 0
    priority: int = 0
    flags: list[str] = msgspec.field(default_factory=list)
    runtime: int = 0
    deadline: int = 0
    period: int = 0


class IOPriority(msgspec.Struct, rename="camel"):
    class_: str = msgspec.field(name="class")
    priority: int = 0


class ExecCPUAffinity(msgspec.Struct, omit_defaults=True, rename="camel"):
    initial: str = ""
    final: str = ""


class Process(msgspec.Struct, omit_defaults=True, rename="camel"):
    terminal: bool = False
    console_size: Box | None = None
    user: User = msgspec.field(default_factory=User)
    args: list[str] = msgspec.field(default_factory=list)
    env: list[str] = msgspec.field(default_factory=list)
    cwd: str = "/"
    capabilities: Capabilities | None = None
    rlimits: list[Rlimit] = msgspec.field(default_factory=list)
    no_new_privileges: bool = False
    apparmor_profile: str = ""
    oom_score_adj: int | None = None
    scheduler: Scheduler | None = None
    selinux_label: str = ""
    io_priority: IOPriority | None = msgspec.field(default=None, name="ioPriority")
    exec_cpu_affinity: ExecCPUAffinity | None = msgspec.field(default=None, name="execCPUAffinity")


class Root(msgspec.Struct, omit_defaults=True, rename="camel"):
    path: str
    readonly: bool = False


class IDMapping(msgspec.Struct, rename="camel"):
    container_id: int = msgspec.field(name="containerID")
    host_id: int = msgspec.field(name="hostID")
    size: int = 0


class Mount(msgspec.Struct, omit_defaults=True, rename="camel"):
    destination: str
    type: str = ""
    source: str = ""
    options: list[str] = msgspec.field(default_factory=list)
    uid_mappings: list[IDMapping] = msgspec.field(default_factory=list)
    gid_mappings: list[IDMapping] = msgspec.field(default_factory=list)


class Hook(msgspec.Struct, omit_defaults=True, rename="camel"):
    """``timeout`` in seconds, ``None`` for none."""

    path: str
    args: list[str] = msgspec.field(default_factory=list)
    env: list[str] = msgspec.field(default_factory=list)
    timeout: int | None = None


class Hooks(msgspec.Struct, omit_defaults=True, rename="camel"):
    prestart: list[Hook] = msgspec.field(default_factory=list)
    create_runtime: list[Hook] = msgspec.field(default_factory=list)
    create_container: list[Hook] = msgspec.field(default_factory=list)
    start_container: list[Hook] = msgspec.field(default_factory=list)
    poststart: list[Hook] = msgspec.field(default_factory=list)
    poststop: list[Hook] = msgspec.field(default_factory=list)


class Namespace(msgspec.Struct, omit_defaults=True, rename="camel"):
    """``type`` is one of pid network ipc uts mount user cgroup time; an empty ``path`` means a new one."""

    type: str
    path: str = ""


class Device(msgspec.Struct, omit_defaults=True, rename="camel"):
    """``type`` is c, b, u or p; ``file_mode`` holds permission bits."""

    path: str
    type: str
    major: int = 0
    minor: int = 0
    file_mode: int | None = None
    uid: int | None = None
    gid: int | None = None


class DeviceCgroup(msgspec.Struct, omit_defaults=True, rename="camel"):
    """``type`` is a, b or c; ``None`` numbers mean all."""

    allow: bool = msgspec.field(default=False)
    type: str = ""
    major: int | None = None
    minor: int | None = None
    access: str = ""


class Memory(msgspec.Struct, omit_defaults=True, rename="camel"):
    """Bytes; -1 means unlimited."""

    limit: int | None = None
    reservation: int | None = None
    swap: int | None = None
    kernel: int | None = None
    kernel_tcp: int | None = msgspec.field(default=None, name="kernelTCP")
    swappiness: int | None = None
    disable_oom_killer: bool | None = msgspec.field(default=None, name="disableOOMKiller")
    use_hierarchy: bool | None = None
    check_before_update: bool | None = None


class CPU(msgspec.Struct, omit_defaults=True, rename="camel"):
    """Times in microseconds."""

    shares: int | None = None
    quota: int | None = None
    burst: int | None = None
    period: int | None = None
    realtime_runtime: int | None = None
    realtime_period: int | None = None
    cpus: str = ""
    mems: str = ""
    idle: int | None = None


class Pids(msgspec.Struct, rename="camel"):
    limit: int = 0


class WeightDevice(msgspec.Struct, omit_defaults=True, rename="camel"):
    major: int
    minor: int
    weight: int | None = None
    leaf_weight: int | None = None


class ThrottleDevice(msgspec.Struct, rename="camel"):
    """``rate`` in bytes or operations per second."""

    major: int
    minor: int
    rate: int


class BlockIO(msgspec.Struct, omit_defaults=True, rename="camel"):
    weight: int | None = None
    leaf_weight: int | None = None
    weight_device: list[WeightDevice] = msgspec.field(default_factory=list)
    throttle_read_bps_device: list[ThrottleDevice] = msgspec.field(default_factory=list)
    throttle_write_bps_device: list[ThrottleDevice] = msgspec.field(default_factory=list)
    throttle_read_iops_device: list[ThrottleDevice] = msgspec.field(default_factory=list, name="throttleReadIOPSDevice")
    throttle_write_iops_device: list[ThrottleDevice] = msgspec.field(default_factory=list,
                                                                     name="throttleWriteIOPSDevice")


class HugepageLimit(msgspec.Struct, rename="camel"):
    page_size: str
    limit: int


class InterfacePriority(msgspec.Struct, rename="camel"):
    name: str
    priority: int


class NetworkResources(msgspec.Struct, omit_defaults=True, rename="camel"):
    class_id: int | None = msgspec.field(default=None, name="classID")
    priorities: list[InterfacePriority] = msgspec.field(default_factory=list)


class Rdma(msgspec.Struct, omit_defaults=True, rename="camel"):
    hca_handles: int | None = None
    hca_objects: int | None = None


class Resources(msgspec.Struct, omit_defaults=True, rename="camel"):
    devices: list[DeviceCgroup] = msgspec.field(default_factory=list)
    memory: Memory | None = None
    cpu: CPU | None = None
    pids: Pids | None = None
    block_io: BlockIO | None = msgspec.field(default=None, name="blockIO")
    hugepage_limits: list[HugepageLimit] = msgspec.field(default_factory=list)
    network: NetworkResources | None = None
    rdma: dict[str, Rdma] = msgspec.field(default_factory=dict)
    unified: dict[str, str] = msgspec.field(default_factory=dict)


class SeccompArg(msgspec.Struct, omit_defaults=True, rename="camel"):
    index: int = msgspec.field(default=0)
    value: int = msgspec.field(default=0)
    value_two: int = 0
    op: str = msgspec.field(default="SCMP_CMP_EQ")


class SeccompSyscall(msgspec.Struct, omit_defaults=True, rename="camel"):
    names: list[str]
    action: str
    errno_ret: int | None = None
    args: list[SeccompArg] = msgspec.field(default_factory=list)


class Seccomp(msgspec.Struct, omit_defaults=True, rename="camel"):
    default_action: str
    default_errno_ret: int | None = None
    architectures: list[str] = msgspec.field(default_factory=list)
    flags: list[str] = msgspec.field(default_factory=list)
    listener_path: str = ""
    listener_metadata: str = ""
    syscalls: list[SeccompSyscall] = msgspec.field(default_factory=list)


class TimeOffset(msgspec.Struct, omit_defaults=True, rename="camel"):
    secs: int = 0
    nanosecs: int = 0


class Personality(msgspec.Struct, omit_defaults=True, rename="camel"):
    domain: str
    flags: list[str] = msgspec.field(default_factory=list)


class MemoryPolicy(msgspec.Struct, omit_defaults=True, rename="camel"):
    """set_mempolicy(2): ``nodes`` as in ``0-3,7``."""

    mode: str
    nodes: str = ""
    flags: list[str] = msgspec.field(default_factory=list)


class NetDevice(msgspec.Struct, omit_defaults=True, rename="camel"):
    name: str = ""


class Linux(msgspec.Struct, omit_defaults=True, rename="camel"):
    uid_mappings: list[IDMapping] = msgspec.field(default_factory=list)
    gid_mappings: list[IDMapping] = msgspec.field(default_factory=list)
    sysctl: dict[str, str] = msgspec.field(default_factory=dict)
    resources: Resources | None = None
    cgroups_path: str = ""
    namespaces: list[Namespace] = msgspec.field(default_factory=list)
    devices: list[Device] = msgspec.field(default_factory=list)
    net_devices: dict[str, NetDevice] = msgspec.field(default_factory=dict)
    seccomp: Seccomp | None = None
    rootfs_propagation: str = ""
    masked_paths: list[str] = msgspec.field(default_factory=list)
    readonly_paths: list[str] = msgspec.field(default_factory=list)
    mount_label: str = ""
    intel_rdt: dict[str, Any] | None = None
    memory_policy: MemoryPolicy | None = None
    personality: Personality | None = None
    time_offsets: dict[str, TimeOffset] = msgspec.field(default_factory=dict)


class Spec(msgspec.Struct, omit_defaults=True, rename="camel"):
    """One ``config.json``. Structurally valid only: what contradicts itself is found by ``runtime.validate``."""

    oci_version: str
    root: Root | None = None
    process: Process | None = None
    hostname: str = ""
    domainname: str = ""
    mounts: list[Mount] = msgspec.field(default_factory=list)
    hooks: Hooks | None = None
    annotations: dict[str, str] = msgspec.field(default_factory=dict)
    linux: Linux | None = None


def decode(data: bytes) -> Spec:
    """Read a ``config.json``; raises :class:`barque.oci.go_json.InvalidJSON` naming the field that is wrong."""
    return go_json.decode(data, Spec, _spelled())


def decode_process(data: bytes) -> Process:
    """Read a process document, as ``exec --process`` gets it; raises as :func:`decode`."""
    return go_json.decode(data, Process, _spelled())


@cache
def _spelled() -> dict[str, str]:
    return go_json.spellings(item for item in globals().values()
                             if isinstance(item, type) and issubclass(item, msgspec.Struct))
