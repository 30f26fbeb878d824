"""What this machine is and can do, looked up once at boot: processors, memory, kernel, init binary, devices."""

from __future__ import annotations

import os
import shutil
import stat
from dataclasses import dataclass

from barque.engine import apparmor
from barque.engine.containers.to_spec import HostDevice
from barque.errors import InvalidArgument, NotFound
from barque.runtime import labels

#: Debian's docker package, docker's own package, the distribution's tini; in this order.
INIT_NAMES = ("docker-init", "tini-static", "tini")
_INIT_DIRS = "/usr/libexec/docker:/usr/local/libexec/docker:/usr/lib/docker"


class NoInit(InvalidArgument):
    text = "no init binary found on this host ({names}): install tini or set --init-path"


class NoSuchDevice(NotFound):
    text = 'error gathering device information while adding custom device "{path}": {reason}'


@dataclass(frozen=True, kw_only=True)
class Host:
    name: str
    cpus: int
    #: Those that are online, and the memory nodes, as cpuset(7) writes lists.
    cpu_list: str
    memory_nodes: str
    memory: int
    kernel: str
    architecture: str
    operating_system: str
    os_version: str
    capabilities: tuple[str, ...]
    thermal_paths: tuple[str, ...]
    init_path: str | None
    last_capability: int
    cgroup_v2: bool
    #: Of cgroups, in version 1's names.
    controllers: frozenset[str]
    swap_limit: bool
    apparmor: bool
    #: The program that loads AppArmor profiles; without it containers have none by default.
    apparmor_parser: str | None
    selinux: bool

    def init(self, configured: str) -> str:
        """The init binary to use; raises :class:`NoInit`."""
        path = configured or self.init_path
        if not path:
            raise NoInit(names=", ".join(INIT_NAMES))
        return path


def probe(capabilities: tuple[str, ...], thermal_paths: tuple[str, ...], *, cgroup_v2: bool,
          controllers: frozenset[str], swap_limit: bool) -> Host:
    """Look around; ``capabilities`` are those that this daemon itself can give."""
    name = os.uname()
    release = _os_release()
    return Host(name=name.nodename, cpus=os.cpu_count() or 1, cpu_list=_online("cpu"), memory_nodes=_online("node"),
                memory=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), kernel=name.release,
                architecture=name.machine, operating_system=release.get("PRETTY_NAME", "Linux"),
                os_version=release.get("VERSION_ID", ""), capabilities=capabilities, thermal_paths=thermal_paths,
                init_path=_find_init(), last_capability=_last_capability(), cgroup_v2=cgroup_v2,
                controllers=controllers, swap_limit=swap_limit,
                apparmor=apparmor.is_enabled(), apparmor_parser=apparmor.find_parser(), selinux=labels.has_selinux())


def _online(kind: str) -> str:
    """sysfs's list of what is online; "0" where the kernel counts no memory nodes."""
    try:
        with open(f"/sys/devices/system/{kind}/online", encoding="ascii") as file:
            return file.read().strip()
    except OSError:
        return "0"


def _last_capability() -> int:
    """The highest number that the running kernel knows (capabilities(7))."""
    with open("/proc/sys/kernel/cap_last_cap", encoding="ascii") as file:
        return int(file.read())


def _find_init() -> str | None:
    path = os.environ.get("PATH", os.defpath) + ":" + _INIT_DIRS
    return next((found for name in INIT_NAMES if (found := shutil.which(name, path=path))), None)


def _os_release() -> dict[str, str]:
    """os-release(5) as a mapping."""
    try:
        with open("/etc/os-release", encoding="utf-8") as file:
            pairs = (line.strip().partition("=") for line in file if "=" in line)
            return {key: value.strip("\"'") for key, _, value in pairs}
    except OSError:
        return {}


def device(source: str, target: str, access: str) -> list[HostDevice]:
    """The device node at ``source``, or all below it, as the container is to see them; raises :class:`NoSuchDevice`."""
    try:
        info = os.stat(source)
    except OSError as error:
        raise NoSuchDevice(path=source, reason=(error.strerror or "").lower()) from None
    if stat.S_ISDIR(info.st_mode):
        found = [item for item in _walk(source, target, access) if item]
        if not found:
            raise NoSuchDevice(path=source, reason="no devices in the directory")
        return found
    made = _node(info, target, access)
    if made is None:
        raise NoSuchDevice(path=source, reason="not a device node")
    return [made]


def _walk(source: str, target: str, access: str) -> list[HostDevice]:
    result = []
    for base, _, files in os.walk(source):
        for name in files:
            path = f"{base}/{name}"
            try:
                made = _node(os.lstat(path), target + path[len(source):], access)
            except OSError:
                continue  # gone since
            if made is not None:
                result.append(made)
    return result


def _node(info: os.stat_result, target: str, access: str) -> HostDevice | None:
    if stat.S_ISCHR(info.st_mode):
        kind = "c"
    elif stat.S_ISBLK(info.st_mode):
        kind = "b"
    else:
        return None
    return HostDevice(path=target, type=kind, major=os.major(info.st_rdev), minor=os.minor(info.st_rdev),
                      mode=stat.S_IMODE(info.st_mode), uid=info.st_uid, gid=info.st_gid, access=access)


def all_devices() -> list[HostDevice]:
    """What a privileged container sees: the host's devices but for terminals and what every container makes anew."""
    skip = ("/dev/pts/", "/dev/shm/", "/dev/mqueue/", "/dev/.")
    own = {"/dev/console", "/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/tty",
           "/dev/ptmx"}
    return [item for item in _walk("/dev", "/dev", "rwm") if item.path not in own and not item.path.startswith(skip)]


def block_number(path: str) -> tuple[int, int]:
    """Major and minor of the block device ``path``; raises :class:`NoSuchDevice`."""
    try:
        info = os.stat(path)
    except OSError as error:
        raise NoSuchDevice(path=path, reason=(error.strerror or "").lower()) from None
    if not stat.S_ISBLK(info.st_mode):
        raise NoSuchDevice(path=path, reason="not a block device")
    return os.major(info.st_rdev), os.minor(info.st_rdev)
