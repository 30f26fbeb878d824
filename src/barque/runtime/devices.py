"""Device nodes, the links in /dev and the console, all made by descriptor in the container's own /dev."""

from __future__ import annotations

import errno
import os
import stat

from barque.oci.runtime_spec import Device
from barque.runtime import targets
from barque.runtime.failure import RuntimeFailure
from barque.runtime.step import ChildStep, Context
from barque.sys import mounts, tty

_KINDS = {"c": stat.S_IFCHR, "u": stat.S_IFCHR, "b": stat.S_IFBLK, "p": stat.S_IFIFO}

#: config-linux.md#default-devices; every container has them, whatever the document says.
DEFAULTS = tuple(Device(path=path, type="c", major=major, minor=minor, file_mode=0o666, uid=0, gid=0)
                 for path, major, minor in (("/dev/null", 1, 3), ("/dev/zero", 1, 5), ("/dev/full", 1, 7),
                                            ("/dev/random", 1, 8), ("/dev/urandom", 1, 9), ("/dev/tty", 5, 0)))
_LINKS = (("/proc/self/fd", "fd"), ("/proc/self/fd/0", "stdin"), ("/proc/self/fd/1", "stdout"),
          ("/proc/self/fd/2", "stderr"))


class MakeDevices(ChildStep):
    """Make the nodes; where that is forbidden (in a user namespace) bind the host's of the same path and number."""

    def __init__(self, devices: list[Device]) -> None:
        self.devices = devices

    def describe(self) -> str:
        return "make device nodes"

    def execute(self, context: Context) -> None:
        parents: dict[str, int] = {}
        for device in self.devices:
            folder, _, name = device.path.rpartition("/")
            if folder not in parents:
                parents[folder] = _open_parent(context.root, folder)
            try:
                _make(parents[folder], name, device)
            except OSError as error:
                failure = RuntimeFailure.of(f"make device {device.path}", error)
                failure.path = failure.path or device.path
                raise failure from None
        for fd in parents.values():
            os.close(fd)


def _open_parent(root: int, folder: str) -> int:
    try:
        # No link on the way to /dev itself: what it leads to would be taken for the container's devices.
        return targets.ensure_directory(root, folder or "/", links=folder != "/dev")
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        raise RuntimeFailure("make device nodes", errno=errno.ELOOP, path=folder,
                             detail=f"{folder} of the container is a symbolic link") from None


def _make(parent: int, name: str, device: Device) -> None:
    kind, number = _KINDS[device.type], os.makedev(device.major, device.minor) if device.type != "p" else 0
    mode = kind | (0o666 if device.file_mode is None else device.file_mode & 0o7777)
    try:
        os.mknod(name, mode, number, dir_fd=parent)
    except FileExistsError:
        if not _is(parent, name, kind, number):
            _bind_from_host(parent, name, device, kind, number)
            return
    except PermissionError:
        _bind_from_host(parent, name, device, kind, number)
        return
    if device.uid or device.gid:
        os.chown(name, device.uid or 0, device.gid or 0, dir_fd=parent, follow_symlinks=False)


def _is(parent: int, name: str, kind: int, number: int) -> bool:
    status = os.stat(name, dir_fd=parent, follow_symlinks=False)
    return stat.S_IFMT(status.st_mode) == kind and status.st_rdev == number


def _bind_from_host(parent: int, name: str, device: Device, kind: int, number: int) -> None:
    """Cover ``name`` with the host's node, which must be the device that is asked for."""
    source = os.open(device.path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    status = os.fstat(source)
    if stat.S_IFMT(status.st_mode) != kind or status.st_rdev != number:
        os.close(source)
        raise RuntimeFailure(f"make device {device.path}", errno=errno.ENODEV, path=device.path,
                             detail=f"{device.path} of the host is not device {device.major}:{device.minor}")
    target = targets.ensure_file(parent, name) if not _exists(parent, name) else _open(parent, name)
    if stat.S_ISLNK(os.fstat(target).st_mode):
        raise RuntimeFailure(f"make device {device.path}", errno=errno.ELOOP, path=device.path,
                             detail=f"{device.path} of the container is a symbolic link")
    mount = mounts.clone_tree("", at=source)
    mounts.attach(mount, target)
    for fd in (mount, target, source):
        os.close(fd)


def _exists(parent: int, name: str) -> bool:
    try:
        os.stat(name, dir_fd=parent, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def _open(parent: int, name: str) -> int:
    return os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)


class MakeLinks(ChildStep):
    """/dev/fd, /dev/stdin ... and /dev/ptmx, which must be the one of the container's own devpts."""

    def describe(self) -> str:
        return "make links in /dev"

    def execute(self, context: Context) -> None:
        dev = _open_parent(context.root, "/dev")
        for target, name in _LINKS:
            _link(target, name, dev)
        try:
            os.unlink("ptmx", dir_fd=dev)
        except FileNotFoundError:
            pass
        _link("pts/ptmx", "ptmx", dev)
        os.close(dev)


def _link(target: str, name: str, directory: int) -> None:
    try:
        os.symlink(target, name, dir_fd=directory)
    except FileExistsError:
        # An image without a /dev of ours mounted over it may bring its own.
        pass


class MakeConsole(ChildStep):
    """A pseudo-terminal of the container's own devpts, with its slave as /dev/console."""

    def describe(self) -> str:
        return "make the console"

    def execute(self, context: Context) -> None:
        master, slave = open_terminal(context.root)
        context.console = (master, slave)
        dev, name = targets.ensure_parent(context.root, "/dev/console")
        target = _open(dev, name) if _exists(dev, name) else targets.ensure_file(dev, name)
        if stat.S_ISLNK(os.fstat(target).st_mode):
            raise RuntimeFailure("make the console", errno=errno.ELOOP, path="/dev/console",
                                 detail="/dev/console of the container is a symbolic link")
        mount = mounts.clone_tree("", at=slave)
        mounts.attach(mount, target)
        for fd in (mount, target, dev):
            os.close(fd)


def open_terminal(root: int) -> tuple[int, int]:
    """(master, slave) of a new pseudo-terminal of the devpts at /dev/pts in ``root`` (CVE-2025-52565: verified)."""
    path = targets.find(root, "/dev/pts")
    try:
        if mounts.filesystem_type(path) != mounts.DEVPTS_MAGIC:
            raise RuntimeFailure("make the console", path="/dev/pts", errno=errno.ENOTTY,
                                 detail="a terminal needs a devpts mounted on /dev/pts")
        master = os.open("ptmx", os.O_RDWR | os.O_NOCTTY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=path)
    finally:
        os.close(path)
    return master, tty.open_slave(master)
