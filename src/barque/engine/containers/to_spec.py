"""A container and where its parts are -> the OCI runtime configuration. Pure: no file system, no clock."""

from __future__ import annotations

from dataclasses import dataclass, field

from barque.engine.containers import defaults
from barque.engine.containers.model import Container, MountPoint
from barque.engine.containers.options import HostConfig, ThrottleDevice, words
from barque.errors import InvalidArgument, Unsupported
from barque.oci import runtime_spec as oci
from barque.runtime.capabilities import docker_caps

#: Read by the runtime: the user as docker writes it, extra groups, and whether the working directory is to be made.
USER = "org.barque.user"
#: Who nobody chose: by number, so that the groups that list root are found too.
ROOT = "0"
GROUPS = "org.barque.groups"
CREATE_CWD = "org.barque.cwd.create"


@dataclass(frozen=True, kw_only=True)
class Files:
    """Paths on the host of the three files that are mounted over the container's."""

    hostname: str
    hosts: str
    resolv_conf: str


@dataclass(frozen=True, kw_only=True)
class HostDevice:
    """A device node of the host as the container is to see it."""

    path: str
    type: str
    major: int
    minor: int
    mode: int
    uid: int
    gid: int
    access: str = "rwm"


@dataclass(frozen=True, kw_only=True)
class Surroundings:
    """What is known only when the container starts.

    ``namespaces``: type -> path for those that are joined; a type in ``host_namespaces`` is not unshared. ``block``
    maps a device path to its (major, minor). ``seccomp`` is None for unconfined. ``environment`` is of linked ones.
    """

    files: Files | None
    hostname: str
    all_capabilities: tuple[str, ...]
    seccomp: oci.Seccomp | None
    cgroups_path: str
    namespaces: dict[str, str] = field(default_factory=dict)
    host_namespaces: frozenset[str] = frozenset()
    devices: tuple[HostDevice, ...] = ()
    block: dict[str, tuple[int, int]] = field(default_factory=dict)
    ulimits: dict[str, tuple[int, int]] = field(default_factory=dict)
    init_path: str | None = None
    shm_source: str | None = None
    volumes: dict[str, oci.Mount] = field(default_factory=dict)
    cgroupns: bool = False
    no_new_privileges: bool = False
    default_shm_size: int = defaults.SHM_SIZE
    apparmor_profile: str = ""
    environment: tuple[str, ...] = ()


INIT_TARGET = "/sbin/docker-init"


def build(container: Container, around: Surroundings) -> oci.Spec:
    """The whole ``config.json``; ``root.path`` is relative to the bundle. Raises InvalidArgument."""
    host = container.host_config
    annotations = {**(host.annotations or {}), USER: container.config.user or ROOT, CREATE_CWD: "true"}
    if host.group_add:
        annotations[GROUPS] = ",".join(host.group_add)
    return oci.Spec(
        oci_version=oci.OCI_VERSION, root=oci.Root("rootfs", host.readonly_rootfs), process=_process(container, around),
        hostname="" if "uts" in around.host_namespaces else around.hostname, domainname=container.config.domainname,
        mounts=_mounts(container, around), annotations=annotations, linux=_linux(container, around))


def _process(container: Container, around: Surroundings) -> oci.Process:
    host = container.host_config
    command = [container.path, *container.args]
    variables = merge_env(list(around.environment), environment(container, around.hostname))
    if around.init_path:
        command = [INIT_TARGET, "--", *command]
    capabilities = capability_names(host, around.all_capabilities)
    return oci.Process(
        terminal=container.config.tty, console_size=_console(host.console_size), args=command,
        env=variables, cwd=container.config.working_dir or "/",
        capabilities=oci.Capabilities(bounding=capabilities, effective=capabilities, permitted=capabilities),
        rlimits=_rlimits(host, around.ulimits), no_new_privileges=around.no_new_privileges,
        apparmor_profile=around.apparmor_profile, selinux_label=container.process_label,
        oom_score_adj=host.oom_score_adj or None)


def _console(size: list[int]) -> oci.Box | None:
    return oci.Box(height=size[0], width=size[1]) if len(size) == 2 and any(size) else None


def environment(container: Container, hostname: str) -> list[str]:
    """PATH, HOSTNAME and, on a terminal, TERM come first; what the container's configuration says wins."""
    base = {"PATH": defaults.PATH.partition("=")[2], "HOSTNAME": hostname}
    if container.config.tty:
        base["TERM"] = "xterm"
    return merge_env([f"{key}={value}" for key, value in base.items()], container.config.env or [])


def merge_env(lower: list[str], upper: list[str]) -> list[str]:
    """``upper`` over ``lower`` by name; a bare name in ``upper`` removes the variable (docker's ``-e NAME``)."""
    merged = {item.partition("=")[0]: item for item in lower}
    for item in upper:
        name, equals, _ = item.partition("=")
        if equals:
            merged[name] = item
        else:
            merged.pop(name, None)
    return list(merged.values())


def capability_names(host: HostConfig, available: tuple[str, ...]) -> list[str]:
    """The capabilities that the process keeps; a privileged one has all that this daemon can give (``available``).

    Raises InvalidArgument for a name that does not exist.
    """
    if host.privileged:
        return list(available)
    return docker_caps(words(host.cap_add), words(host.cap_drop))


def _rlimits(host: HostConfig, defaults_: dict[str, tuple[int, int]]) -> list[oci.Rlimit]:
    limits = dict(defaults_)
    for limit in host.ulimits or ():
        limits[limit.name] = (limit.soft, limit.hard)
    unlimited = (1 << 64) - 1
    return [oci.Rlimit(f"RLIMIT_{name.upper()}", hard=hard if hard >= 0 else unlimited, soft=soft if soft >= 0
                       else unlimited)
            for name, (soft, hard) in limits.items()]


def _mounts(container: Container, around: Surroundings) -> list[oci.Mount]:
    """The standard ones, then files and what was asked for, outer ones first: an own ``/etc`` still gets its hosts."""
    host = container.host_config
    standard = defaults.mounts(privileged=host.privileged, shm_size=host.shm_size or around.default_shm_size,
                               cgroup_writable=host.privileged)
    if around.shm_source:
        standard = [mount if mount.destination != "/dev/shm" else
                    oci.Mount("/dev/shm", "bind", around.shm_source, ["rbind", "rprivate"]) for mount in standard]
    elif host.ipc_mode == "none":
        standard = [mount for mount in standard if mount.destination != "/dev/shm"]
    if around.init_path:
        standard.append(oci.Mount(INIT_TARGET, "bind", around.init_path, ["bind", "ro"]))
    asked = [around.volumes.get(point.destination) or (_tmpfs if point.type == "tmpfs" else bind)(point)
             for point in container.mounts]
    own = {mount.destination for mount in asked}
    files = _files(around.files, host) if around.files is not None else []
    inner = [mount for mount in files if mount.destination not in own] + asked
    return [mount for mount in standard if mount.destination not in own] + sorted(
        inner, key=lambda mount: mount.destination.count("/"))


def _files(files: Files, host: HostConfig) -> list[oci.Mount]:
    options = ["rbind", "rprivate", *(["ro"] if host.readonly_rootfs else [])]
    return [oci.Mount(target, "bind", source, options)
            for target, source in (("/etc/resolv.conf", files.resolv_conf), ("/etc/hostname", files.hostname),
                                   ("/etc/hosts", files.hosts))]


def _tmpfs(point: MountPoint) -> oci.Mount:
    options = list(point.options)
    base = [item for item in ("noexec", "nosuid", "nodev") if item.removeprefix("no") not in options]
    return oci.Mount(point.destination, "tmpfs", "tmpfs", [*base, *options, *([] if point.rw else ["ro"])])


def bind(point: MountPoint) -> oci.Mount:
    """The mount of a file or directory of the host."""
    kind = "rbind" if point.recursive else "bind"
    return oci.Mount(point.destination, "bind", point.source,
                     [kind, *read_only(point), point.propagation or "rprivate"])


def read_only(point: MountPoint) -> list[str]:
    """The words for a bind that is not to be written to."""
    if point.rw:
        return []
    return ["ro", "rro"] if point.deep_ro else ["ro"]


def _linux(container: Container, around: Surroundings) -> oci.Linux:
    host = container.host_config
    sysctls = dict(host.sysctls or {})
    if not host.privileged and container.network_mode != "host" and not container.network_mode.startswith("container:"):
        sysctls.setdefault("net.ipv4.ip_unprivileged_port_start", "0")
        sysctls.setdefault("net.ipv4.ping_group_range", "0 2147483647")
    return oci.Linux(
        sysctl=sysctls, resources=resources(host, around.block, around.devices), cgroups_path=around.cgroups_path,
        namespaces=_namespaces(around),
        devices=[oci.Device(d.path, d.type, d.major, d.minor, d.mode, d.uid, d.gid) for d in around.devices],
        seccomp=None if host.privileged else around.seccomp, rootfs_propagation=_propagation(container.mounts),
        masked_paths=host.masked_paths or [], readonly_paths=host.readonly_paths or [],
        mount_label=container.mount_label)


def _propagation(points: list[MountPoint]) -> str:
    """A shared mount needs its parent shared, a slave one slave; else nothing leaks in or out."""
    kinds = {point.propagation for point in points}
    if kinds & {"shared", "rshared"}:
        return "rshared"
    return "rslave" if kinds & {"slave", "rslave"} else "rprivate"


def _namespaces(around: Surroundings) -> list[oci.Namespace]:
    kinds = ["mount", "network", "uts", "pid", "ipc"] + (["cgroup"] if around.cgroupns else [])
    return [oci.Namespace(kind, around.namespaces.get(kind, "")) for kind in kinds
            if kind not in around.host_namespaces]


def resources(host: HostConfig, block: dict[str, tuple[int, int]] | None = None,
              devices: tuple[HostDevice, ...] = ()) -> oci.Resources:
    """The cgroup limits; also what an update applies (then without devices)."""
    known = block or {}
    return oci.Resources(
        devices=_device_rules(host, devices), memory=_memory(host), cpu=_cpu(host),
        pids=oci.Pids(host.pids_limit) if host.pids_limit else None, block_io=_block_io(host, known))


def _device_rules(host: HostConfig, devices: tuple[HostDevice, ...]) -> list[oci.DeviceCgroup]:
    if host.privileged:
        return [oci.DeviceCgroup(allow=True, access="rwm")]
    rules = defaults.device_rules()
    rules += [oci.DeviceCgroup(allow=True, type=d.type, major=d.major, minor=d.minor, access=d.access) for d in devices]
    return rules + [_device_rule(text) for text in host.device_cgroup_rules or ()]


def _device_rule(text: str) -> oci.DeviceCgroup:
    kind, _, rest = text.partition(" ")
    numbers, _, access = rest.partition(" ")
    major, colon, minor = numbers.partition(":")
    if kind not in ("a", "b", "c") or not colon or not access or set(access) - set("rwm") \
            or not all(part == "*" or (part.isascii() and part.isdecimal()) for part in (major, minor)):
        raise InvalidArgument(f"invalid device cgroup rule format: '{text}'")
    return oci.DeviceCgroup(allow=True, type=kind, major=None if major == "*" else int(major),
                            minor=None if minor == "*" else int(minor), access=access)


def _memory(host: HostConfig) -> oci.Memory | None:
    swap = host.memory_swap
    if host.memory > 0 and swap == 0:
        swap = 2 * host.memory
    memory = oci.Memory(
        limit=host.memory or None, reservation=host.memory_reservation or None, swap=swap or None,
        swappiness=host.memory_swappiness if host.memory_swappiness not in (None, -1) else None,
        disable_oom_killer=host.oom_kill_disable or None)
    return memory if memory != oci.Memory() else None


def _cpu(host: HostConfig) -> oci.CPU | None:
    period, quota = host.cpu_period, host.cpu_quota
    if host.nano_cpus:
        period, quota = 100_000, host.nano_cpus // 10_000
    cpu = oci.CPU(shares=host.cpu_shares or None, quota=quota or None, period=period or None,
                  realtime_runtime=host.cpu_realtime_runtime or None, realtime_period=host.cpu_realtime_period or None,
                  cpus=host.cpuset_cpus, mems=host.cpuset_mems)
    return cpu if cpu != oci.CPU() else None


def _block_io(host: HostConfig, known: dict[str, tuple[int, int]]) -> oci.BlockIO | None:
    def number(path: str) -> tuple[int, int]:
        if path not in known:
            raise Unsupported(f"no such block device: {path}")
        return known[path]

    def throttles(items: list[ThrottleDevice] | None) -> list[oci.ThrottleDevice]:
        return [oci.ThrottleDevice(*number(item.path), item.rate) for item in items or ()]

    io = oci.BlockIO(
        weight=host.blkio_weight or None,
        weight_device=[oci.WeightDevice(*number(item.path), item.weight) for item in host.blkio_weight_device or ()],
        throttle_read_bps_device=throttles(host.blkio_device_read_bps),
        throttle_write_bps_device=throttles(host.blkio_device_write_bps),
        throttle_read_iops_device=throttles(host.blkio_device_read_iops),
        throttle_write_iops_device=throttles(host.blkio_device_write_iops))
    return io if io != oci.BlockIO() else None
