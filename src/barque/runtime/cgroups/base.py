"""What both cgroup versions share: the host's layout, the interface of a manager, and reading and writing its files.

The kernel's word is in Documentation/admin-guide/cgroup-v1/ and cgroup-v2.rst.
"""

from __future__ import annotations

import os
import signal as signals
from collections.abc import Iterator
from functools import cached_property
from typing import Literal, Protocol

import msgspec

from barque.errors import InvalidArgument
from barque.oci.runtime_spec import Resources
from barque.runtime.cgroups.stats import Stats

Version = Literal["v1", "hybrid", "v2"]
#: Key of the version 2 hierarchy in :meth:`CgroupManager.paths`.
UNIFIED = "unified"
_ENOENT, _ENODEV, _EOPNOTSUPP = 2, 19, 95
_MAKE_ATTEMPTS = 20


class InvalidResources(InvalidArgument):
    """A limit that contradicts another one or that this version of cgroups cannot express."""


class Hierarchy(msgspec.Struct, frozen=True):
    """A mounted hierarchy.

    ``controllers`` is empty for version 2 and ``("name=systemd",)`` and the like for named ones. ``own`` is the calling
    process's cgroup in it, relative to the mount.
    """

    mountpoint: str
    controllers: tuple[str, ...]
    own: str = "/"

    @property
    def directory(self) -> str:
        """Its usual name below /sys/fs/cgroup, such as ``cpu,cpuacct``."""
        return os.path.basename(self.mountpoint)


class Layout(msgspec.Struct, frozen=True, dict=True):
    """The hierarchies of a host. ``v1`` are those of version 1 (also named ones), ``v2`` the unified one."""

    v1: tuple[Hierarchy, ...] = ()
    v2: Hierarchy | None = None
    enabled: frozenset[str] = frozenset()

    @property
    def version(self) -> Version:
        if not any(not name.startswith("name=") for tree in self.v1 for name in tree.controllers):
            return "v2"
        return "v1" if self.v2 is None else "hybrid"

    @cached_property
    def controllers(self) -> frozenset[str]:
        """Those that can be used, in version 1's names (``blkio``, not ``io``) where version 1 has them."""
        if self.version == "v2" and self.v2 is not None:
            return frozenset(read(self.v2.mountpoint, "cgroup.controllers").split())
        return frozenset(name for tree in self.v1 for name in tree.controllers if not name.startswith("name="))


def host_layout(mountinfo: str | None = None, own: str | None = None, enabled: str | None = None) -> Layout:
    """The host's layout, from /proc/self/{mountinfo,cgroup} and /proc/cgroups unless their text is given.

    Raises FileNotFoundError where no hierarchy is mounted at all.
    """
    belongs = own_cgroups(read("/proc/self", "cgroup") if own is None else own)
    v1: dict[tuple[str, ...], Hierarchy] = {}
    v2: Hierarchy | None = None
    for kind, root, mountpoint, options in _cgroup_mounts(mountinfo):
        if kind == "cgroup2":
            v2 = v2 or Hierarchy(mountpoint, (), _below(belongs.get("", "/"), root))
            continue
        names = tuple(name for name in options.split(",") if name in belongs and name)
        if names and names not in v1:
            v1[names] = Hierarchy(mountpoint, names, _below(belongs[names[0]], root))
    if not v1 and v2 is None:
        raise FileNotFoundError(2, "no cgroup hierarchy is mounted", "/sys/fs/cgroup")
    known = read("/proc", "cgroups") if enabled is None else enabled
    return Layout(tuple(v1.values()), v2, frozenset(line.split()[0] for line in known.splitlines()
                                                    if not line.startswith("#") and line.split()[3:] == ["1"]))


def _cgroup_mounts(mountinfo: str | None) -> Iterator[tuple[str, str, str, str]]:
    """(file system type, root, mount point, super options) of proc(5)'s mountinfo."""
    for line in (read("/proc/self", "mountinfo") if mountinfo is None else mountinfo).splitlines():
        head, _, tail = line.partition(" - ")
        kind, _, options = tail.split(" ", 2)
        if kind in ("cgroup", "cgroup2"):
            fields = head.split(" ")
            yield kind, unescape(fields[3]), unescape(fields[4]), options


def own_cgroups(text: str) -> dict[str, str]:
    """/proc/PID/cgroup as controller (or ``name=x``, or "" for version 2) -> path."""
    result = {}
    for line in text.splitlines():
        _, names, path = line.split(":", 2)
        for name in names.split(","):
            result[name] = path
    return result


def own_cgroup(pid: int, controller: str) -> str:
    """The path of ``pid``'s cgroup as /proc/PID/cgroup says it; "" names version 2."""
    return own_cgroups(read(f"/proc/{pid}", "cgroup"))[controller]


def _below(path: str, root: str) -> str:
    """A mount may show a subtree only; /proc/self/cgroup counts from the top."""
    if root in ("/", ""):
        return path
    return path[len(root):] or "/" if path == root or path.startswith(root + "/") else "/"


def unescape(text: str) -> str:
    """A path as mountinfo has it (proc(5))."""
    for octal, char in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        text = text.replace(octal, char)
    return text


class CgroupManager(Protocol):
    """One container's cgroup. Methods raise OSError, with the file as ``filename``."""

    def create(self) -> None:
        """Make the directories; those that exist are taken over."""

    def apply(self, resources: Resources) -> list[str]:
        """Set the limits that ``resources`` names, at the start or later; returns warnings in dockerd's words.

        Raises :class:`InvalidResources`.
        """

    def add(self, pid: int, beside: int | None = None) -> None:
        """Move process ``pid`` (0: the caller itself) in.

        ``beside`` is a process of the container: where processes are only allowed further down (version 2, after the
        container made cgroups of its own) ``pid`` goes where that one is.
        """

    def open_for_clone(self) -> int | None:
        """A version 2 directory fd for clone3's CLONE_INTO_CGROUP, ``None`` without one. The caller closes it."""

    def open_for_self(self) -> list[int]:
        """What a new single-threaded process writes ``0`` to, to be where its clone could not put it (version 1).

        To move another process, or a whole one, the kernel waits for an RCU grace period (cgroup_threadgroup_rwsem),
        which takes longer than all else that a start does; a thread that moves itself by ``tasks`` spares it that
        (cgroup_procs_write_start). Where this is empty and there is no fd for clone either, :meth:`add` is the way.
        The caller closes them.
        """

    def freeze(self) -> None:
        """Stop all processes; returns when they stand still."""

    def thaw(self) -> None: ...

    def frozen(self) -> bool: ...

    def kill(self, signal: int = signals.SIGKILL) -> None:
        """Signal every process in it and below; SIGKILL leaves none, not even of a fork bomb."""

    def pids(self) -> list[int]:
        """The processes in it and below, as the caller's PID namespace numbers them (0: not visible there)."""

    def stats(self) -> Stats: ...

    def oom_fd(self) -> int | None:
        """An fd that becomes readable when the cgroup is out of memory, and once when it is removed.

        Read (up to 4096 bytes) to rearm it, then ask :meth:`oom_kills` what happened. ``None`` without the memory
        controller. The caller closes it.
        """

    def oom_kills(self) -> int:
        """How many processes the OOM killer took here and below, 0 when unknown. Ask before :meth:`destroy`."""

    def destroy(self) -> None:
        """Remove it and what the container made below; waits for processes that are still dying. Idempotent."""

    def paths(self) -> dict[str, str]:
        """Controller -> directory; :data:`UNIFIED` -> that of version 2. :func:`..load` takes it back."""


def read(directory: str, name: str) -> str:
    fd = os.open(os.path.join(directory, name), os.O_RDONLY | os.O_CLOEXEC)
    try:
        parts = []
        while part := os.read(fd, 65536):
            parts.append(part)
        return b"".join(parts).decode(errors="surrogateescape")
    finally:
        os.close(fd)


def read_or(directory: str, name: str, default: str = "") -> str:
    """As :func:`read`, ``default`` where the kernel does not have the file (or not any more: ENODEV)."""
    try:
        return read(directory, name)
    except OSError as error:
        if error.errno in (_ENOENT, _ENODEV, _EOPNOTSUPP):
            return default
        raise


def write(directory: str, name: str, value: str | int) -> None:
    """Write ``value`` in one write(2), as cgroup files want it."""
    path = os.path.join(directory, name)
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, str(value).encode())
    except OSError as error:
        raise OSError(error.errno, f"{error.strerror} writing {str(value)!r}", path) from None
    finally:
        os.close(fd)


def write_unless_gone(directory: str, name: str, value: str | int) -> None:
    """As :func:`write`; nothing where the cgroup goes away meanwhile, as those of systemd do by themselves."""
    try:
        write(directory, name, value)
    except OSError as error:
        if error.errno not in (_ENOENT, _ENODEV):
            raise


def open_directory(path: str) -> int:
    return os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)


def exists(directory: str, name: str) -> bool:
    return os.access(os.path.join(directory, name), os.F_OK)


def resolve(cgroups_path: str, parent: str) -> str:
    """The path below a hierarchy's mount: absolute ones count from there, others from ``parent``; ``..`` stops at both.

    As runc has it for OCI's cgroupsPath.
    """
    inner = os.path.normpath("/" + cgroups_path)
    if inner == "/" or inner == "//":
        raise InvalidResources(f"invalid cgroupsPath {cgroups_path!r}: it names no cgroup")
    inner = "/" + inner.lstrip("/")
    return inner if cgroups_path.startswith("/") else os.path.normpath(parent + inner)


def walk(directory: str) -> Iterator[str]:
    """The cgroups below ``directory``, children before parents, and itself last; those that vanish are passed over."""
    try:
        with os.scandir(directory) as entries:
            children = [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]
    except FileNotFoundError:
        return
    for child in children:
        yield from walk(child)
    yield directory


def make(directory: str) -> None:
    """mkdir ``directory`` and what is missing above; present is fine.

    Whoever shares the parent may remove it while it is empty (:func:`barque.runtime.cgroups.remove_if_empty`): then
    it is made again.
    """
    for left in reversed(range(_MAKE_ATTEMPTS)):
        try:
            os.makedirs(directory, 0o755, exist_ok=True)
            break
        except FileNotFoundError:
            if not left:
                raise


def processes(directory: str) -> list[int]:
    """The processes in ``directory`` and below."""
    found: list[int] = []
    for cgroup in walk(directory):
        # Threaded cgroups answer EOPNOTSUPP; their processes are listed where their domain begins.
        found += map(int, read_or(cgroup, "cgroup.procs").split())
    return found


def pairs(text: str) -> dict[str, int]:
    """Lines of ``key number``, as in memory.stat."""
    result = {}
    for line in text.splitlines():
        key, _, value = line.partition(" ")
        if value.isdigit():
            result[key] = int(value)
    return result


def signal_all(pids: list[int], number: int) -> None:
    for pid in pids:
        # 0 stands for a process outside of our PID namespace; to kill(2) it would be our own process group.
        if pid > 0:
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                continue
