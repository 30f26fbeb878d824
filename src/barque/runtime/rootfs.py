"""The container's root: mounting it, making it the root of the process, and what the whole tree of mounts is like."""

from __future__ import annotations

import errno
import os

from barque.oci.mount import Mount
from barque.runtime import targets
from barque.runtime.failure import RuntimeFailure
from barque.runtime.options import Options, Propagation, parse
from barque.runtime.step import ChildStep, Context, SourceStep
from barque.sys import mounts, namespaces, unmount

_PAGE = 4096


class DetachFromHost(ChildStep):
    """Let nothing that is mounted from here on reach the namespace that this one was copied from."""

    def __init__(self, propagation: Propagation | None) -> None:
        self.propagation = propagation

    def describe(self) -> str:
        return "set the propagation of all mounts"

    def execute(self, context: Context) -> None:
        kind = self.propagation.kind if self.propagation else mounts.PROPAGATION_SLAVE
        # The root and what is bound into it still have to be cloned, which the kernel refuses of unbindable mounts.
        mounts.set_propagation_of_all(mounts.PROPAGATION_PRIVATE if kind == mounts.PROPAGATION_UNBINDABLE else kind)


class MountRoot(SourceStep):
    """Mount the root file system at ``path`` (which must exist), or bind the directory there onto itself."""

    def __init__(self, mount: Mount | None, path: str) -> None:
        self.mount = mount
        self.path = path

    def describe(self) -> str:
        return f"mount {self.mount.type if self.mount else 'root file system'} on {self.path}"

    def prepare(self) -> None:
        if self.mount is None:
            self.source = mounts.clone_tree(self.path, recursive=True)
        elif self.mount.type == "overlay":
            self.source = open_overlay(self.mount)
        else:
            self.source = open_other(self.mount)

    def execute(self, context: Context) -> None:
        if self.source < 0 and self.mount is not None:
            mount_overlay_by_string(self.mount, self.path)
            context.root = os.open(self.path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        else:
            # Not a link at the end: the place is the caller's own directory.
            place = os.open(self.path, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
            mounts.attach(self.source, place)
            os.close(place)
            context.root = self.source
        if self.mount is None:
            mounts.set_attributes(context.root, propagation=mounts.PROPAGATION_SLAVE, recursive=True)
        else:
            mounts.set_attributes(context.root, propagation=mounts.PROPAGATION_PRIVATE)


class MountInRoot(SourceStep):
    """A further mount of the caller's beneath the root (type bind, overlay or any file system)."""

    def __init__(self, mount: Mount) -> None:
        self.mount = mount

    def describe(self) -> str:
        return f"mount {self.mount.type} on {self.mount.target}"

    def prepare(self) -> None:
        self.source = open_overlay(self.mount) if self.mount.type == "overlay" else open_other(self.mount)
        if self.source < 0:
            raise RuntimeFailure(self.describe(), errno=errno.ENOSYS,
                                 detail="overlay mounts beneath the root need Linux 6.8")

    def execute(self, context: Context) -> None:
        target = targets.ensure_directory(context.root, self.mount.target)
        mounts.set_attributes(self.source, propagation=mounts.PROPAGATION_PRIVATE, recursive=True)
        mounts.attach(self.source, target)
        os.close(target)


class ReadonlyRoot(ChildStep):
    """After everything was put in place: nothing more is written to the root itself."""

    def describe(self) -> str:
        return "make the root read-only"

    def execute(self, context: Context) -> None:
        mounts.set_attributes(context.root, add=mounts.ATTR_RDONLY)


class JoinMounts(SourceStep):
    """Enter the mount namespace at ``path``, which others are in, too: what they have mounted stays as it is."""

    def __init__(self, path: str) -> None:
        self.path = path

    def describe(self) -> str:
        return f"join the mount namespace {self.path}"

    def prepare(self) -> None:
        self.source = namespaces.open_namespace(self.path, "mount")

    def execute(self, context: Context) -> None:
        namespaces.setns(self.source, namespaces.CLONE_NEWNS)


class ChangeRoot(ChildStep):
    """For a mount namespace that is shared: to pivot would take the root away from everybody in it.

    Weaker: a process with CAP_SYS_CHROOT gets out of a changed root.
    """

    def describe(self) -> str:
        return "chroot"

    def execute(self, context: Context) -> None:
        enter_root(context.root)


class MoveRoot(ChildStep):
    """``--no-pivot``: cover the host's root instead of letting it go, for hosts whose root (an initramfs) cannot pivot.

    What is beneath stays mounted: weaker, and never the engine's choice.
    """

    def describe(self) -> str:
        return "move the root to /"

    def execute(self, context: Context) -> None:
        top = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        mounts.attach(context.root, top)
        os.close(top)
        enter_root(context.root)


def enter_root(root: int) -> None:
    """Change the root of the calling process to the directory ``root``."""
    os.fchdir(root)
    os.chroot(".")
    os.chdir("/")


def mount_at(path: str) -> int:
    """The number of the mount that ``path`` is on, unique while it exists."""
    fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        return mount_of(fd)
    finally:
        os.close(fd)


def mount_of(fd: int, pid: str = "self") -> int:
    """The number of the mount that descriptor ``fd`` of a process is on (proc(5), fdinfo)."""
    with open(f"/proc/{pid}/fdinfo/{fd}") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("mnt_id:"))


def take_away(path: str, before: int) -> None:
    """Detach what is mounted at ``path`` with all beneath it, unless that is the mount ``before``."""
    if mount_at(path) != before:
        unmount.detach(path)


class Pivot(ChildStep):
    """Make the container's root the root; the host's goes away, whatever descriptors say."""

    def __init__(self, propagation: Propagation | None) -> None:
        self.propagation = propagation

    def describe(self) -> str:
        return "pivot_root"

    def execute(self, context: Context) -> None:
        if self.propagation is not None and self.propagation.kind == mounts.PROPAGATION_SHARED:
            # pivot_root refuses a shared parent; only the mount that holds the root needs to be private.
            parent = os.open("..", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=context.root)
            _make_private(parent)
            os.close(parent)
        own = os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
        os.fchdir(context.root)
        mounts.pivot_to_cwd()
        self._enter_as_others_will(own, context.root)
        os.close(own)
        if self.propagation is not None:
            # Of the root alone: the mounts beneath have had their own.
            mounts.set_attributes(context.root, propagation=self.propagation.kind)

    @staticmethod
    def _enter_as_others_will(own: int, root: int) -> None:
        """setns(2) leads to the root of the mount namespace. Where the runtime lives in a chroot whose top is a mount,
        pivot_root has only changed that one, and what is executed in the container later would see the host.
        """
        namespaces.setns(own, namespaces.CLONE_NEWNS)
        if not os.path.samestat(os.stat("/"), os.fstat(root)):
            raise RuntimeFailure("pivot_root", errno=errno.EPERM,
                                 detail="the runtime is in a chroot, which is not the root of its mount namespace")


def _make_private(directory: int) -> None:
    """Make the mount that holds ``directory`` private, climbing to its top: attributes are set on mount roots only."""
    current = os.dup(directory)
    while True:
        try:
            mounts.set_attributes(current, propagation=mounts.PROPAGATION_PRIVATE)
            os.close(current)
            return
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
        above = os.open("..", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=current)
        os.close(current)
        current = above


def open_overlay(mount: Mount) -> int:
    """A detached overlay mount; -1 where this kernel takes only one string for all lower directories (before 6.8)."""
    options = parse(mount.options)
    parameters: list[tuple[str, str | None]] = [("source", "overlay")]
    parameters += [("lowerdir+", lower) for lower in mount.lower]
    if mount.upper:
        parameters += [("upperdir", mount.upper), ("workdir", mount.work)]
    try:
        return mounts.make("overlay", [*parameters, *options.data], _attributes(options, mount))
    except OSError as error:
        if error.errno == errno.EINVAL and ("lowerdir+" in str(error) or not mounts.checks_parameters("overlay")):
            return -1
        raise


def open_other(mount: Mount) -> int:
    """A detached mount of any other type; ``bind`` shows a directory of the host."""
    options = parse(mount.options)
    if mount.type == "bind" or options.bind:
        source = mounts.clone_tree(mount.source, recursive=options.recursive_bind)
        try:
            mounts.set_attributes(source, add=options.add, clear=options.clear)
        except OSError:
            os.close(source)
            raise
        return source
    return mounts.make(mount.type, [("source", mount.source), *options.data], _attributes(options, mount))


def _attributes(options: Options, mount: Mount) -> int:
    if mount.type == "overlay" and not mount.upper:
        return options.add | mounts.ATTR_RDONLY
    return options.add


def mount_on(mount: Mount, path: str) -> None:
    """Mount a root at ``path`` in the caller's own mount namespace. The working directory may be another then."""
    source = open_overlay(mount) if mount.type == "overlay" else open_other(mount)
    if source < 0:
        mount_overlay_by_string(mount, path)
        os.chdir("/")
        return
    place = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        mounts.attach(source, place)
    finally:
        os.close(place)
        os.close(source)


def mount_overlay_by_string(mount: Mount, path: str) -> None:
    """The way of older kernels: one option string of at most a page.

    Lower directories are named relative to what they have in common, which leaves room for hundreds of them; the
    working directory moves there.
    """
    options = parse(mount.options)
    target = os.path.abspath(path)
    base = os.path.commonpath([*mount.lower, *([mount.upper, mount.work] if mount.upper else [])])
    os.chdir(base)
    words = ["lowerdir=" + ":".join(_escape(os.path.relpath(lower, base)) for lower in mount.lower)]
    if mount.upper:
        words += [f"upperdir={_escape_comma(os.path.relpath(mount.upper, base))}",
                  f"workdir={_escape_comma(os.path.relpath(mount.work, base))}"]
    # The context of an SELinux label may have commas.
    words += [key if value is None else f'{key}="{value}"' if key == "context" else f"{key}={value}"
              for key, value in options.data]
    data = ",".join(words)
    if len(os.fsencode(data)) >= _PAGE:
        raise RuntimeFailure("mount overlay", errno=errno.E2BIG,
                             detail=f"{len(mount.lower)} layers are too many for this kernel (Linux 6.8 takes 500)")
    mounts.mount_legacy("overlay", target, "overlay", data)
    attributes = _attributes(options, mount)
    if attributes:
        fd = os.open(target, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        mounts.set_attributes(fd, add=attributes)
        os.close(fd)


def _escape(path: str) -> str:
    return _escape_comma(path).replace(":", "\\:")


def _escape_comma(path: str) -> str:
    return path.replace("\\", "\\\\").replace(",", "\\,")
