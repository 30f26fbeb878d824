"""The mounts of the OCI document as steps: file systems, binds and cgroups, attached to targets found by descriptor."""

from __future__ import annotations

import errno
import os
import stat

from barque.oci.runtime_spec import IDMapping
from barque.runtime import copyup, targets
from barque.runtime.failure import RuntimeFailure
from barque.runtime.options import Options
from barque.runtime.step import ChildStep, Context, SourceStep
from barque.sys import idmap, mounts

#: The files in /proc that may be replaced one by one (by lxcfs and the like); the rest of /proc must be the kernel's
#: own, or what is written there could go anywhere (CVE-2019-16884, CVE-2025-52881).
_REPLACEABLE = frozenset(f"/proc/{name}" for name in (
    "cpuinfo", "diskstats", "meminfo", "stat", "swaps", "uptime", "loadavg", "slabinfo", "net/dev",
    "sys/kernel/ns_last_pid", "sys/crypto/fips_enabled"))
_PLAIN_DIRECTORY = ("proc", "sysfs")
_CGROUP_ATTRIBUTES = mounts.ATTR_NOSUID | mounts.ATTR_NODEV | mounts.ATTR_NOEXEC


def _normal(path: str) -> str:
    return os.path.normpath("/" + path.lstrip("/"))


def _check_not_in_proc(target: int, destination: str, kind: str, source: int = -1) -> None:
    """Nothing may cover /proc, or stand in it, but a procfs and the few files above; wherever links have led to."""
    if kind == "proc" or (source >= 0 and mounts.filesystem_type(source) == mounts.PROC_MAGIC):
        return
    normal = _normal(destination)
    if normal == "/proc":
        raise RuntimeFailure(f"mount {destination}", path=destination, errno=errno.EPERM,
                             detail=f'"{destination}" cannot be mounted because it is not of type proc')
    if mounts.filesystem_type(target) == mounts.PROC_MAGIC and normal not in _REPLACEABLE:
        raise RuntimeFailure(f"mount {destination}", path=destination, errno=errno.EPERM,
                             detail=f'"{destination}" cannot be mounted because it is inside /proc')


def file_label(label: str) -> list[tuple[str, str | None]]:
    """The parameters that give every file of a new file system an SELinux label; none without one."""
    return [("context", label)] if label else []


def finish(mount: int, options: Options, default_private: bool) -> None:
    """Attributes that reach beneath, and propagation, of an attached or detached mount."""
    if options.deep_add or options.deep_clear:
        mounts.set_attributes(mount, add=options.deep_add, clear=options.deep_clear, recursive=True)
    if options.add or options.clear:
        mounts.set_attributes(mount, add=options.add, clear=options.clear)
    if not options.propagations and default_private:
        mounts.set_attributes(mount, propagation=mounts.PROPAGATION_PRIVATE, recursive=True)
    for item in options.propagations:
        mounts.set_attributes(mount, propagation=item.kind, recursive=item.recursive)


class Filesystem(ChildStep):
    """Mount a new file system of type ``kind`` (proc, sysfs, tmpfs, mqueue, devpts ...). Its root gets ``label``."""

    def __init__(self, kind: str, source: str, destination: str, options: Options, label: str = "") -> None:
        self.kind = kind
        self.source = source
        self.destination = destination
        self.options = options
        self.label = label

    def describe(self) -> str:
        return f"mount {self.kind} on {self.destination}"

    def execute(self, context: Context) -> None:
        links = self.kind not in _PLAIN_DIRECTORY and _normal(self.destination) != "/dev"
        parameters = list(self.options.data)
        if self.source:
            parameters.insert(0, ("source", self.source))
        try:
            target = targets.find(context.root, self.destination, links=links)
            if self.kind == "tmpfs" and not self.options.has("mode"):
                # What the image says about the directory (1777 of /tmp) holds for what covers it.
                parameters.append(("mode", f"{os.fstat(target).st_mode & 0o7777:o}"))
        except FileNotFoundError:
            target = targets.ensure_directory(context.root, self.destination, links=links)
        except OSError as error:
            if error.errno != errno.ELOOP:
                raise
            raise RuntimeFailure(self.describe(), errno=errno.ELOOP, path=self.destination,
                                 detail=f"filesystem {self.kind!r} must be mounted on an ordinary directory: "
                                        f"{self.destination} is or leads through a symbolic link") from None
        try:
            self._mount(context, target, parameters)
        finally:
            os.close(target)

    def _mount(self, context: Context, target: int, parameters: list[tuple[str, str | None]]) -> None:
        _check_not_in_proc(target, self.destination, self.kind)
        mount = self._make(parameters)
        try:
            if self.options.copy_up:
                copyup.copy_tree(target, mount)
                mounts.set_attributes(mount, add=self.options.add | self.options.deep_add)
            mounts.attach(mount, target)
            finish(mount, self.options.without_attributes(), default_private=False)
            if self.label:
                os.setxattr(f"/proc/self/fd/{mount}", "security.selinux", self.label.encode())
        finally:
            os.close(mount)

    def _make(self, parameters: list[tuple[str, str | None]]) -> int:
        attributes = self.options.add | self.options.deep_add
        try:
            return mounts.make(self.kind, parameters, 0 if self.options.copy_up else attributes)
        except OSError as error:
            if self.kind != "sysfs" or error.errno != errno.EPERM:
                raise
        # A user namespace that does not own its network namespace may not have a sysfs of its own: show the host's.
        mount = mounts.clone_tree("/sys", recursive=True)
        mounts.set_attributes(mount, add=self.options.add, recursive=True)
        return mount


class Bind(SourceStep):
    """Show a file or directory of the host, or with ``recursive_bind`` a whole tree of mounts."""

    def __init__(self, path: str, destination: str, options: Options, uids: list[IDMapping],
                 gids: list[IDMapping]) -> None:
        self.path = path
        self.destination = destination
        self.options = options
        self.uids = uids
        self.gids = gids

    def describe(self) -> str:
        return f"mount {self.path} on {self.destination}"

    def prepare(self) -> None:
        self.source = mounts.clone_tree(self.path, recursive=self.options.recursive_bind)
        if self.uids:
            ids = [[(m.container_id, m.host_id, m.size) for m in maps] for maps in (self.uids, self.gids)]
            userns = idmap.user_namespace(*ids)
            try:
                mounts.set_attributes(self.source, add=mounts.ATTR_IDMAP, userns_fd=userns,
                                      recursive=self.options.recursive_idmap)
            except OSError as error:
                if error.errno != errno.EINVAL:
                    raise
                raise RuntimeFailure(self.describe(), errno=errno.EINVAL, path=self.path, detail=(
                    f"{self.describe()}: ids cannot be mapped: the file system of {self.path}, or of something mounted "
                    "below it, does not support it")) from None
            finally:
                os.close(userns)

    def execute(self, context: Context) -> None:
        directory = targets.is_directory(self.source)
        ensure = targets.ensure_directory if directory else targets.ensure_file
        target = ensure(context.root, self.destination)
        try:
            if targets.is_directory(target) != directory:  # move_mount(2) only says EINVAL
                raise RuntimeFailure(self.describe(), errno=errno.ENOTDIR)
            _check_not_in_proc(target, self.destination, "bind", self.source)
            finish(self.source, self.options, default_private=True)
            mounts.attach(self.source, target)
        finally:
            os.close(target)


class CgroupV2(ChildStep):
    """The unified hierarchy, seen from the container's own cgroup."""

    def __init__(self, destination: str, options: Options) -> None:
        self.destination = destination
        self.options = options

    def describe(self) -> str:
        return f"mount cgroup2 on {self.destination}"

    def execute(self, context: Context) -> None:
        mount = mounts.make("cgroup2", (), self.options.add | _CGROUP_ATTRIBUTES)
        target = targets.ensure_directory(context.root, self.destination)
        try:
            mounts.attach(mount, target)
        finally:
            os.close(target)
            os.close(mount)


class CgroupBinds:
    """The container's own directory of each hierarchy, bound into a tmpfs at ``destination`` or right at it.

    For v1, and for v2 where there is no cgroup namespace to mount a cgroup2 in. ``directories`` maps the name beneath
    the destination to the host's directory; the name ``""`` is the destination itself. ``aliases`` are links.
    """

    def __init__(self, destination: str, options: Options, directories: dict[str, str],
                 aliases: dict[str, str], label: str = "") -> None:
        self.destination = destination
        self.options = options
        self.directories = directories
        self.aliases = aliases
        self.label = label
        self.sources: list[tuple[str, int]] = []

    def describe(self) -> str:
        return f"mount the container's cgroups on {self.destination}"

    def prepare(self) -> None:
        try:
            self._open()
        except FileNotFoundError:
            # systemd makes a cgroup when its first process joins: it is there when the steps are executed.
            self.release()

    def _open(self) -> None:
        for name, path in self.directories.items():
            self.sources.append((name, mounts.clone_tree(path)))

    def release(self) -> None:
        while self.sources:
            os.close(self.sources.pop()[1])

    def execute(self, context: Context) -> None:
        if not self.sources:
            self._open()
        target = targets.ensure_directory(context.root, self.destination)
        attributes = _CGROUP_ATTRIBUTES | self.options.add
        if self.directories.keys() == {""}:
            self._bind(self.sources[0][1], target, attributes)
            return
        tmpfs = mounts.make("tmpfs", [("mode", "755"), *file_label(self.label)], _CGROUP_ATTRIBUTES)
        mounts.attach(tmpfs, target)
        for name, source in self.sources:
            os.mkdir(name, 0o755, dir_fd=tmpfs)
            self._bind(source, os.open(name, os.O_PATH | os.O_CLOEXEC, dir_fd=tmpfs), attributes)
        for alias, name in self.aliases.items():
            os.symlink(name, alias, dir_fd=tmpfs)
        mounts.set_attributes(tmpfs, add=self.options.add)

    @staticmethod
    def _bind(source: int, target: int, attributes: int) -> None:
        mounts.set_attributes(source, add=attributes, propagation=mounts.PROPAGATION_PRIVATE)
        mounts.attach(source, target)


class MaskPaths(ChildStep):
    """Hide paths that exist: files under /dev/null, directories under one empty read-only file system.

    That has the SELinux ``label``. The null device is the host's, opened before the root is switched and looked at:
    nothing that the container could have put in its place (CVE-2025-31133).
    """

    def __init__(self, paths: list[str], label: str = "") -> None:
        self.paths = paths
        self.label = label

    def describe(self) -> str:
        return "mask paths"

    def execute(self, context: Context) -> None:
        null = os.open("/dev/null", os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
        status = os.fstat(null)
        if not stat.S_ISCHR(status.st_mode) or status.st_rdev != os.makedev(1, 3):
            raise RuntimeFailure("mask paths", path="/dev/null", detail="/dev/null of the host is not the null device")
        for path in self.paths:
            try:
                target = targets.find(context.root, path)
            except (FileNotFoundError, NotADirectoryError):
                continue
            self._mask(context, target, null)
            os.close(target)
        os.close(null)

    def _mask(self, context: Context, target: int, null: int) -> None:
        if not targets.is_directory(target):
            mount = mounts.clone_tree("", at=null)
            mounts.attach(mount, target)
            os.close(mount)
        elif context.empty_dir < 0:
            context.empty_dir = mounts.make("tmpfs", [("nr_blocks", "1"), ("nr_inodes", "1"),
                                                      *file_label(self.label)], mounts.ATTR_RDONLY)
            mounts.attach(context.empty_dir, target)
        else:
            mount = mounts.clone_tree("", at=context.empty_dir)
            mounts.attach(mount, target)
            os.close(mount)


class ReadonlyPaths(ChildStep):
    """Cover paths that exist with read-only views of themselves."""

    def __init__(self, paths: list[str]) -> None:
        self.paths = paths

    def describe(self) -> str:
        return "make paths read-only"

    def execute(self, context: Context) -> None:
        for path in self.paths:
            try:
                target = targets.find(context.root, path)
            except (FileNotFoundError, NotADirectoryError):
                continue
            mount = mounts.clone_tree("", at=target, recursive=True)
            mounts.set_attributes(mount, add=mounts.ATTR_RDONLY, recursive=True)
            mounts.attach(mount, target)
            os.close(mount)
            os.close(target)
