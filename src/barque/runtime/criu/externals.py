"""What of a container is not its own: mounts of the host's, namespaces that it joined, and its standard streams.

criu keeps none of these: a checkpoint holds a key for each, and whoever restores it says what stands for the key.
"""

from __future__ import annotations

import os

import msgspec

from barque.errors import Unsupported
from barque.oci.runtime_spec import Linux, Spec
from barque.runtime import devices, mounts, plan, rootfs, targets
from barque.runtime.cgroups import CgroupManager, known_layout
from barque.runtime.cgroups.base import unescape
from barque.runtime.step import Step

#: By criu's names; other namespaces are joined by a process of criu's, these are inherited.
INHERITED = {"network": "net", "pid": "pid"}
NULL = "/dev/null"


class NotRestorable(Unsupported):
    text = "containers with {what} cannot be checkpointed or restored"


class External(msgspec.Struct, frozen=True):
    """``path`` in the container, which is also the key, shows ``source`` of the host."""

    path: str
    source: str


def key_of(kind: str) -> str:
    """runc's key for a namespace that was joined, such as ``extRootNetNS``."""
    return f"extRoot{INHERITED[kind].title()}NS"


def check(spec: Spec) -> None:
    """Raises :class:`NotRestorable` for what would not be the same afterwards."""
    linux = spec.linux or Linux()
    kinds = {item.type: item.path for item in linux.namespaces}
    if kinds.get("mount") != "":
        raise NotRestorable(what="no mount namespace of their own")
    if kinds.get("cgroup") or kinds.get("user"):
        raise NotRestorable(what="a user or cgroup namespace joined by path")
    if any(item.container_id == 0 and item.host_id for item in (*linux.uid_mappings, *linux.gid_mappings)):
        # criu reads its images, which are root's alone, as root of the container.
        raise NotRestorable(what="a user namespace whose root is not the host's")
    if linux.seccomp is not None and linux.seccomp.listener_path:
        raise NotRestorable(what="a seccomp listener")
    below = _mount_points() if "user" in kinds else []
    for mount in spec.mounts:
        if mount.uid_mappings:
            raise NotRestorable(what=f"an id-mapped mount ({mount.destination})")
        if mount.source.startswith("/") and any(point.startswith(f"{mount.source.rstrip('/')}/") for point in below):
            # They are locked there (mount_namespaces(7)), and criu binds what is without them.
            raise NotRestorable(what="a user namespace and something mounted below the source of "
                                     f"{mount.destination}")


def _mount_points() -> list[str]:
    with open("/proc/self/mountinfo", errors="surrogateescape") as file:
        return [unescape(line.split()[4]) for line in file]


def steps_of(spec: Spec, root_path: str, cgroup: CgroupManager) -> list[Step]:
    """What was done, or would be done, to make the container's mounts."""
    return plan.build(spec, root_path, (), cgroup, known_layout(), make_cwd=False)[0]


def mounts_of(steps: list[Step]) -> list[External]:
    """The mounts that show something of the host's."""
    found = []
    for step in steps:
        if isinstance(step, mounts.Bind):
            found.append(External(os.path.normpath(step.destination), step.path))
        elif isinstance(step, mounts.CgroupBinds):
            found += [External(os.path.normpath(os.path.join(step.destination, name)), path)
                      for name, path in step.directories.items()]
    return found


def devices_of(steps: list[Step]) -> list[External]:
    """Nodes that are the host's own, bound, where they cannot be made: in a user namespace."""
    return [External(os.path.normpath(device.path), device.path)
            for step in steps if isinstance(step, devices.MakeDevices) for device in step.devices]


def masked(spec: Spec) -> list[str]:
    return spec.linux.masked_paths if spec.linux is not None else []


class MountTable:
    """The mounts of a running process, by what its paths lead to."""

    def __init__(self, pid: int) -> None:
        with open(f"/proc/{pid}/mountinfo", errors="surrogateescape") as file:
            rows = [line.split() for line in file]
        self._points = {int(row[0]): unescape(row[4]) for row in rows}
        self._root = os.open(f"/proc/{pid}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)

    def close(self) -> None:
        os.close(self._root)

    def point(self, path: str) -> tuple[str, bool] | None:
        """The mount point that ``path`` is on, and whether that is a directory; None where there is no such path."""
        try:
            fd = targets.find(self._root, path)
        except (FileNotFoundError, NotADirectoryError):
            return None
        try:
            return self._points.get(rootfs.mount_of(fd), ""), targets.is_directory(fd)
        finally:
            os.close(fd)

    def __contains__(self, mount: int) -> bool:
        return mount in self._points


def streams(pid: int, table: MountTable) -> list[str]:
    """The keys of standard input, output and error; what is the container's own has none, and stands as its link."""
    found = []
    for number in range(3):
        link = _link(pid, number)
        if link.startswith("/"):
            status = os.stat(f"/proc/{pid}/fd/{number}")
            mount = rootfs.mount_of(number, str(pid))
            if mount not in table:
                link = f"file[{mount:x}:{status.st_ino:x}]"
        found.append(link)
    return found


def _link(pid: int, number: int) -> str:
    try:
        return os.readlink(f"/proc/{pid}/fd/{number}")
    except FileNotFoundError:
        return ""


def inherited(link: str) -> bool:
    """Whether a standard stream came from outside of the container."""
    return link.startswith(("pipe:", "file["))
