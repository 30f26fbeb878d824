"""Whether mounts below the source of a bind can reach a container, or the other way round, as was asked for."""

from __future__ import annotations

import os

from barque.errors import BarqueError
from barque.runtime.cgroups.base import unescape


class NotShared(BarqueError):
    """dockerd's words, and its status: 500."""

    text = "path {path} is mounted on {mountpoint} but it is not a {wanted} mount"


def check(source: str, propagation: str) -> None:
    """Raises :class:`NotShared` where the mount that ``source`` is on has no peers of that kind."""
    kind = propagation.removeprefix("r")
    if kind not in ("shared", "slave"):
        return
    mountpoint, tags = mount_of(os.path.realpath(source))
    if "shared" in tags or (kind == "slave" and "master" in tags):
        return
    raise NotShared(path=source, mountpoint=mountpoint, wanted="shared" if kind == "shared" else "shared or slave")


def mount_of(path: str, table: str | None = None) -> tuple[str, frozenset[str]]:
    """Mount point of the mount that ``path`` is on, and its tags in proc_pid_mountinfo(5): shared, master, ..."""
    if table is None:
        with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
            table = file.read()
    best, tags = "/", frozenset[str]()
    for line in table.splitlines():
        fields = line.split(" ")
        point = unescape(fields[4])
        inside = f"{path}/".startswith(point.rstrip("/") + "/")
        if inside and len(point) >= len(best):    # of several at one place the last is on top
            best = point
            tags = frozenset(tag.partition(":")[0] for tag in fields[6 : fields.index("-", 6)])
    return best, tags
