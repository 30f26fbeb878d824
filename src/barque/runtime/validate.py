"""What a structurally valid document may still get wrong, and what of it this runtime does not do: never ignored.

Texts are runc's where runc refuses the same thing.
"""

from __future__ import annotations

from barque.errors import InvalidArgument
from barque.oci.runtime_spec import Hooks, Linux, MemoryPolicy, Mount, Process, Spec
from barque.runtime import labels, options, seccomp_profile, sysctls
from barque.sys import namespaces, prctl, rlimit

_MAX_LINK_NAME = 15
_WITHOUT_NODES = ("MPOL_DEFAULT", "MPOL_LOCAL")
_NO_SELINUX = "selinux label is specified in config, but selinux is disabled or not supported"


class InvalidSpec(InvalidArgument):
    """The document contradicts itself, or asks for what this runtime or this host cannot do."""


def check(spec: Spec) -> None:
    """Raise :class:`InvalidSpec` unless ``spec`` can be run as it stands."""
    if spec.root is None or not spec.root.path:
        raise InvalidSpec("root.path must be set")
    linux = spec.linux or Linux()
    kinds = _check_namespaces(spec, linux)
    _check_user_namespace(linux, kinds)
    _check_linux(linux)
    _check_net_devices(linux, kinds)
    _check_sysctls(linux, kinds)
    for mount in spec.mounts:
        _check_mount(mount)
    if spec.hooks is not None:
        _check_hooks(spec.hooks)
    if spec.process is None:
        raise InvalidSpec("process must be set")
    check_process(spec.process)


def _check_namespaces(spec: Spec, linux: Linux) -> dict[str, str]:
    kinds: dict[str, str] = {}
    for item in linux.namespaces:
        if item.type not in namespaces.FLAGS:
            raise InvalidSpec(f"namespace {item.type!r} does not exist")
        if item.type in kinds:
            raise InvalidSpec(f"duplicated ns {item.type!r}")
        kinds[item.type] = item.path
    if kinds.get("mount") != "":
        _check_shared_mounts(linux)
    if spec.hostname and "uts" not in kinds:
        raise InvalidSpec("unable to set hostname without a private UTS namespace")
    if spec.domainname and "uts" not in kinds:
        raise InvalidSpec("unable to set domainname without a private UTS namespace")
    if linux.time_offsets and kinds.get("time") != "":
        raise InvalidSpec("time namespace offsets need a time namespace of the container's own")
    for clock in linux.time_offsets:
        if clock not in ("boottime", "monotonic"):
            raise InvalidSpec(f"unknown clock {clock!r} in timeOffsets")
    return kinds


def check_rootless(linux: Linux) -> None:
    """Raise :class:`InvalidSpec` for what an ordinary user cannot ask for."""
    if not any(item.type == "user" and not item.path for item in linux.namespaces):
        raise InvalidSpec("rootless container requires user namespaces")


def _check_shared_mounts(linux: Linux) -> None:
    """What would change mounts that are not the container's own."""
    if linux.masked_paths or linux.readonly_paths:
        raise InvalidSpec("unable to restrict sys entries without a private MNT namespace")
    if linux.rootfs_propagation:
        raise InvalidSpec("rootfsPropagation needs a mount namespace of the container's own")


def _check_user_namespace(linux: Linux, kinds: dict[str, str]) -> None:
    mapped = bool(linux.uid_mappings or linux.gid_mappings)
    if mapped and "user" not in kinds:
        raise InvalidSpec("user namespace mappings specified, but user namespace isn't enabled in the config")
    if kinds.get("user"):
        if mapped:
            raise InvalidSpec("user namespace mappings and a user namespace path cannot both be specified")
    elif "user" in kinds and not (linux.uid_mappings and linux.gid_mappings):
        raise InvalidSpec("user namespaces enabled, but no uid or gid mappings found")


def _check_linux(linux: Linux) -> None:
    if linux.intel_rdt is not None:
        raise InvalidSpec("intelRdt is not supported")
    if linux.mount_label and not labels.has_selinux():
        raise InvalidSpec(_NO_SELINUX)
    if linux.rootfs_propagation and options.propagation(linux.rootfs_propagation) is None:
        raise InvalidSpec(f"rootfsPropagation={linux.rootfs_propagation} is not supported")
    if linux.seccomp is not None:
        seccomp_profile.notifies(linux.seccomp)
    if linux.personality is not None:
        if linux.personality.domain not in prctl.PERSONALITIES:
            raise InvalidSpec(f"unknown personality domain {linux.personality.domain!r}")
        if linux.personality.flags:
            raise InvalidSpec("personality flags are not supported")
    if linux.memory_policy is not None:
        _check_memory_policy(linux.memory_policy)
    for device in linux.devices:
        if device.type not in ("c", "u", "b", "p"):
            raise InvalidSpec(f"device type {device.type!r} of {device.path} does not exist")
        if not device.path.startswith("/") or device.path.endswith("/") or "/../" in device.path + "/":
            raise InvalidSpec(f"device path {device.path!r} must be absolute and clean")


def _check_memory_policy(policy: MemoryPolicy) -> None:
    if policy.mode not in prctl.MEMORY_POLICIES:
        raise InvalidSpec(f"invalid memory policy mode {policy.mode!r}")
    for flag in policy.flags:
        if flag not in prctl.MEMORY_POLICY_FLAGS:
            raise InvalidSpec(f"invalid memory policy flag {flag!r}")
    nodes = parse_numbers(policy.nodes)
    if nodes and policy.mode in _WITHOUT_NODES:
        raise InvalidSpec(f"memory policy mode {policy.mode} requires 0 nodes but got {len(nodes)}")
    if not nodes and policy.mode not in (*_WITHOUT_NODES, "MPOL_PREFERRED"):
        raise InvalidSpec(f"memory policy mode {policy.mode} requires at least one node but got 0")


def _check_net_devices(linux: Linux, kinds: dict[str, str]) -> None:
    if linux.net_devices and "network" not in kinds:
        raise InvalidSpec("unable to move network devices without a private NET namespace")
    names = [device.name or name for name, device in linux.net_devices.items()]
    for name in (*names, *linux.net_devices):
        # dev_valid_name() of the kernel, which counts bytes.
        if not 0 < len(name.encode()) <= _MAX_LINK_NAME or name in (".", "..") or any(
                char in "/:" or char.isspace() for char in name):
            raise InvalidSpec(f"invalid network device name {name!r}")
    if len(set(names)) < len(names):
        raise InvalidSpec("netDevices: two devices are to have the same name")


def _check_sysctls(linux: Linux, kinds: dict[str, str]) -> None:
    for key in linux.sysctl:
        name = sysctls.normalize(key)
        kind = sysctls.namespace_of(name)
        if kind is None or ".." in name.split("/"):
            raise InvalidSpec(f'sysctl "{key}" is not in a separate kernel namespace')
        if kind not in kinds:
            raise InvalidSpec(f'sysctl "{key}" is not allowed in the hosts {kind} namespace')
        if name == "kernel.hostname":
            raise InvalidSpec('sysctl "kernel.hostname" conflicts with the OCI "hostname" field')


def _check_mount(mount: Mount) -> None:
    if not mount.destination or "\0" in mount.destination + mount.source:
        raise InvalidSpec(f"invalid mount destination {mount.destination!r}")
    try:
        parsed = options.parse(mount.options)
    except ValueError as error:
        raise InvalidSpec(f"invalid mount {mount.destination}: {error}") from None
    bind = mount.type == "bind" or parsed.bind
    if bind and mount.type in ("cgroup", "cgroup2"):
        bind = False
    if bind and not mount.source:
        raise InvalidSpec(f"invalid mount {mount.destination}: a bind mount needs a source")
    if bind and (unknown := options.bind_leftovers(parsed)):
        raise InvalidSpec(f"invalid mount {mount.destination}: option {unknown[0]!r} means nothing to a bind mount")
    if parsed.copy_up and (bind or mount.type != "tmpfs"):
        raise InvalidSpec(f"invalid mount {mount.destination}: tmpcopyup is for tmpfs only")
    if not bind and not mount.type:
        raise InvalidSpec(f"invalid mount {mount.destination}: type must be set")
    if bool(mount.uid_mappings) != bool(mount.gid_mappings):
        raise InvalidSpec(f"invalid mount {mount.destination}: both uidMappings and gidMappings must be set")
    if (mount.uid_mappings or parsed.idmap) and not (mount.uid_mappings and bind):
        raise InvalidSpec(f"invalid mount {mount.destination}: only bind mounts with mappings of their own can be "
                          "id-mapped")


def _check_hooks(hooks: Hooks) -> None:
    for hook in (*hooks.prestart, *hooks.create_runtime, *hooks.create_container, *hooks.start_container,
                 *hooks.poststart, *hooks.poststop):
        if not hook.path.startswith("/"):
            raise InvalidSpec(f"hook path {hook.path!r} must be absolute")
        if hook.timeout is not None and hook.timeout <= 0:
            raise InvalidSpec(f"hook {hook.path}: timeout must be greater than zero")


def check_process(process: Process) -> None:
    """Raise :class:`InvalidSpec` unless ``process`` can be started as it stands."""
    if not process.args:
        raise InvalidSpec("args must not be empty")
    if not process.cwd.startswith("/"):
        raise InvalidSpec("Cwd must be an absolute path")
    if any("\0" in text for text in (*process.args, *process.env, process.cwd)):
        raise InvalidSpec("args, env and cwd must not contain NUL")
    for entry in process.env:
        if entry.find("=") < 1:
            raise InvalidSpec(f"invalid environment variable: {entry!r}")
    if process.apparmor_profile and not labels.has_apparmor():
        raise InvalidSpec("apparmor profile is specified in config, but apparmor is not enabled on this host")
    if process.selinux_label and not labels.has_selinux():
        raise InvalidSpec(_NO_SELINUX)
    _check_limits(process)
    if process.scheduler is not None:
        if process.scheduler.policy not in prctl.SCHED_POLICIES:
            raise InvalidSpec(f"invalid scheduler policy: {process.scheduler.policy}")
        for flag in process.scheduler.flags:
            if flag not in prctl.SCHED_FLAGS:
                raise InvalidSpec(f"invalid scheduler flag: {flag}")
    if process.io_priority is not None:
        if process.io_priority.class_ not in prctl.IO_CLASSES:
            raise InvalidSpec(f"invalid ioPriority.Class: {process.io_priority.class_}")
        if not 0 <= process.io_priority.priority <= 7:
            raise InvalidSpec(f"invalid ioPriority.Priority: {process.io_priority.priority}")
    if process.exec_cpu_affinity is not None:
        for text in (process.exec_cpu_affinity.initial, process.exec_cpu_affinity.final):
            parse_numbers(text)


def _check_limits(process: Process) -> None:
    seen: set[str] = set()
    for limit in process.rlimits:
        if limit.type not in rlimit.NUMBERS:
            raise InvalidSpec(f"invalid rlimit type: {limit.type}")
        if limit.type in seen:
            raise InvalidSpec(f"rlimit {limit.type} is given twice")
        if limit.soft > limit.hard:
            raise InvalidSpec(f"{limit.type}: soft limit {limit.soft} is above the hard limit {limit.hard}")
        seen.add(limit.type)
    adjustment = process.oom_score_adj
    if adjustment is not None and not -1000 <= adjustment <= 1000:
        raise InvalidSpec(f"invalid oomScoreAdj {adjustment}: it goes from -1000 to 1000")


def parse_numbers(text: str) -> frozenset[int]:
    """``0-3,7``, of CPUs or memory nodes, as a set; raises :class:`InvalidSpec`."""
    numbers: set[int] = set()
    for item in filter(None, text.split(",")):
        first, dash, last = item.strip().partition("-")
        if not (first.isascii() and first.isdigit() and (not dash or (last.isascii() and last.isdigit()))):
            raise InvalidSpec(f"invalid list of numbers {text!r}")
        low, high = int(first), int(last or first)
        if low > high or high > 8191:
            raise InvalidSpec(f"invalid list of numbers {text!r}")
        numbers.update(range(low, high + 1))
    return frozenset(numbers)
