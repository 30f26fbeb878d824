"""Writing the state of a running container to files, by criu."""

from __future__ import annotations

import os
from contextlib import ExitStack

import msgspec

from barque.oci.runtime_spec import Linux, Spec
from barque.runtime.cgroups import UNIFIED, CgroupManager
from barque.runtime.criu import externals, session, wire
from barque.runtime.criu.options import DESCRIPTORS, Options, common, naming, open_directories

_LOG = "dump.log"


class Subject(msgspec.Struct, frozen=True):
    """The container: its first process, its document, the directory that its root was made at, its cgroup."""

    pid: int
    spec: Spec
    rootfs: str
    cgroup: CgroupManager


def dump(subject: Subject, options: Options) -> None:
    """Write a checkpoint; the container has ended then, unless ``options`` let it go on.

    Raises RuntimeFailure, after which the container runs on, and NotRestorable.
    """
    externals.check(subject.spec)
    program = session.find(options.program, "checkpoint")
    for directory in (options.images, options.work):
        if directory:
            os.makedirs(directory, mode=0o700, exist_ok=True)
    request = {**common(options, subject.spec, _LOG), **_of_dump(subject, options)}
    if not options.pre_dump:
        request["external"] = _keep(subject, options)
    with ExitStack() as stack:
        directories = open_directories(options)
        for fd in directories:
            stack.callback(os.close, fd)
        run = session.Run(program, "checkpoint", log=options.log(_LOG))
        stack.callback(run.close)
        run.send(wire.PRE_DUMP if options.pre_dump else wire.DUMP, {**request, **naming(directories)})
        run.finish()


def _of_dump(subject: Subject, options: Options) -> dict[str, wire.Value]:
    found: dict[str, wire.Value] = {
        "pid": subject.pid, "root": subject.rootfs, "leave_running": options.leave_running,
        "tcp_skip_in_flight": options.tcp_skip_in_flight, "link_remap": options.link_remap}
    if options.parent:
        found["parent_img"] = options.parent
    if options.parent or options.pre_dump:
        found["track_mem"] = True
    paths = subject.cgroup.paths()
    if freezer := paths.get("freezer") or paths.get(UNIFIED):
        found["freeze_cgroup"] = freezer
    return found


def _keep(subject: Subject, options: Options) -> list[str]:
    """criu's words for all that is outside of the container; those of its standard streams are kept with the images."""
    found = []
    table = externals.MountTable(subject.pid)
    try:
        steps = externals.steps_of(subject.spec, subject.rootfs, subject.cgroup)
        for item in externals.mounts_of(steps):
            if place := table.point(item.path):
                found.append(f"mnt[{place[0]}]:{item.path}")
        found += [f"mnt[{item.path}]:{item.path}" for item in externals.devices_of(steps)
                  if (place := table.point(item.path)) and place[0] == item.path]
        for path in externals.masked(subject.spec):
            place = table.point(path)
            if place and not place[1]:
                found.append(f"mnt[{place[0]}]:{externals.NULL}")
        streams = externals.streams(subject.pid, table)
    finally:
        table.close()
    with open(os.path.join(options.images, DESCRIPTORS), "wb") as file:
        file.write(msgspec.json.encode(streams))
    found += [link for link in streams if link.startswith("file[")]
    joined = {item.type for item in (subject.spec.linux or Linux()).namespaces if item.path}
    for kind, name in externals.INHERITED.items():
        if kind in joined:
            inode = os.stat(f"/proc/{subject.pid}/ns/{name}").st_ino
            found.append(f"{name}[{inode}]:{externals.key_of(kind)}")
    return found
