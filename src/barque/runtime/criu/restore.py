"""Making a container of a checkpoint, by criu: the counterpart of :mod:`barque.runtime.create`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial

import msgspec

from barque.errors import Unsupported
from barque.oci.mount import Mount
from barque.oci.runtime_spec import Hooks, Linux, Namespace, Spec
from barque.runtime import hooks, links, mounts, rootfs, targets, userns, validate
from barque.runtime.cgroups.base import own_cgroups, read
from barque.runtime.create import CreateRequest, limits, root_path, state_document
from barque.runtime.criu import externals, session, wire
from barque.runtime.criu.options import DESCRIPTORS, Options, common, naming, open_directories
from barque.runtime.failure import RuntimeFailure
from barque.runtime.step import Step
from barque.sys import mounts as sys_mounts
from barque.sys import namespaces, process, unmount

_LOG = "restore.log"
#: Joined by criu's own processes, by criu's names.
_JOINED = {"ipc": "ipc", "uts": "uts", "time": "time"}


class RestoreRequest(CreateRequest, kw_only=True):
    """``place`` is an empty directory for the root to be mounted on, which nobody else gets to see."""

    options: Options
    place: str


class Restored:
    """As :class:`barque.runtime.create.Created`: the processes are there, and wait to go on.

    ``spec`` is the document with the time namespace that criu puts what it restores into.
    """

    def __init__(self, run: session.Run, child: process.Clone, console: int | None, spec: Spec,
                 warnings: list[str]) -> None:
        self.pid = child.pid
        self.pidfd = child.pidfd
        self.console = console
        self.spec = spec
        self.warnings = warnings
        self._run = run

    def start(self) -> None:
        """Let the processes go on. Raises RuntimeFailure; they have ended then."""
        try:
            self._run.acknowledge()
        except RuntimeFailure:
            self._run.close()
            raise
        self._run.finish()


def restore(request: RestoreRequest) -> Restored:
    """Make the processes of a checkpoint; they are the caller's children. Nothing is left behind on failure.

    Raises RuntimeFailure, NotRestorable, and the InvalidArgument of a document that cannot be honoured.
    """
    spec, options = request.spec, request.options
    validate.check(spec)
    externals.check(spec)
    if userns.rootless():
        raise Unsupported("restore needs root")
    program = session.find(options.program, "restore")
    linux = spec.linux or Linux()
    with ExitStack() as undo:
        undo.callback(request.cgroup.destroy)
        request.cgroup.create()
        warnings = request.cgroup.apply(limits(linux, rootless=False))
        steps = externals.steps_of(spec, root_path(request), request.cgroup)
        joins = undo.enter_context(ExitStack())
        inherited = _open_joined(linux, joins)
        run = session.Run(program, "restore", log=options.log(_LOG), stdio=request.stdio.fds,
                          extra=[fd for _, fd in inherited], prepare=partial(_make_root, request, steps))
        undo.callback(run.close)
        joins.close()
        request.cgroup.add(run.pid)
        directories = run.prepared()
        try:
            run.send(wire.RESTORE, {**common(options, spec, _LOG), **naming(directories),
                                    **_of_restore(request, steps, run.pid, [key for key, _ in inherited])})
            made = _Making(request)
            while (notice := made.take(run.next())).script != "post-restore":
                run.acknowledge()
        finally:
            for fd in directories:
                os.close(fd)
        spec = _with_time(spec, notice.pid)
        child = process.Clone(notice.pid, process.pidfd_open(notice.pid))
        undo.pop_all()
    return Restored(run, child, made.console, spec, warnings)


class _Making:
    """What there is to do for the container while criu makes it."""

    def __init__(self, request: RestoreRequest) -> None:
        self._request = request
        self._pid = 0
        self.console: int | None = None

    def take(self, item: session.Notice | wire.Answer) -> session.Notice:
        if isinstance(item, wire.Answer):
            raise RuntimeFailure("restore", detail="criu has restored the container without asking")
        spec = self._request.spec
        linux = spec.linux or Linux()
        if item.script == "setup-namespaces":
            self._pid = item.pid
            wanted = spec.hooks or Hooks()
            state = state_document(self._request, "creating", item.pid)
            hooks.run("prestart", wanted.prestart, state)
            hooks.run("createRuntime", wanted.create_runtime, state)
        elif item.script == "post-setup-namespaces" and any(
                kind.type == "network" and not kind.path for kind in linux.namespaces):
            _furnish_network(linux, self._pid)
        elif item.script == "orphan-pts-master" and item.descriptors:
            self.console = item.descriptors[0]
        return item


def _furnish_network(linux: Linux, pid: int) -> None:
    """A network namespace of the container's own is empty then."""
    fd = namespaces.open_namespace(f"/proc/{pid}/ns/net", "network")
    try:
        with namespaces.visiting([("network", fd)]):
            links.bring_up_loopback()
    finally:
        os.close(fd)
    if linux.net_devices:
        links.move_devices(linux.net_devices, pid)


def _open_joined(linux: Linux, opened: ExitStack) -> list[tuple[str, int]]:
    """Keys and descriptors of the namespaces that criu inherits."""
    found = []
    for item in linux.namespaces:
        if item.path and item.type in externals.INHERITED:
            fd = namespaces.open_namespace(item.path, item.type)
            opened.callback(os.close, fd)
            found.append((externals.key_of(item.type), fd))
    return found


def _of_restore(request: RestoreRequest, steps: Sequence[Step], criu: int, keys: list[str]) -> dict[str, wire.Value]:
    options, spec = request.options, request.spec
    inherit: list[dict[str, int | str]] = [{"key": key, "fd": session.FIRST_EXTRA + index}
                                           for index, key in enumerate(keys)]
    if request.stdio.fds is not None:
        inherit += [{"key": link, "fd": number} for number, link in enumerate(_streams(options.images))
                    if externals.inherited(link)]
    joined: list[dict[str, int | str]] = [{"ns": _JOINED[item.type], "ns_file": item.path}
                                          for item in (spec.linux or Linux()).namespaces
                                          if item.path and item.type in _JOINED]
    known = [f"mnt[{item.path}]:{item.source}"
             for item in (*externals.mounts_of(list(steps)), *externals.devices_of(list(steps)))]
    if externals.masked(spec):
        known.append(f"mnt[{externals.NULL}]:{externals.NULL}")
    cgroup: list[dict[str, int | str]] = [{"ctrl": name, "path": path} for name, path in
                                          own_cgroups(read(f"/proc/{criu}", "cgroup")).items()]
    found: dict[str, wire.Value] = {
        "root": request.place, "rst_sibling": True, "evasive_devices": True, "external": known,
        "inherit_fd": inherit, "join_ns": joined, "cg_root": cgroup}
    for name, value in (("lsm_profile", options.lsm_profile), ("lsm_mount_context", options.lsm_mount_context)):
        if value:
            found[name] = value
    return found


def _streams(images: str) -> list[str]:
    """Raises RuntimeFailure where there is no checkpoint."""
    path = os.path.join(images, DESCRIPTORS)
    try:
        with open(path, "rb") as file:
            return msgspec.json.decode(file.read(), type=list[str])
    except (OSError, msgspec.DecodeError) as error:
        raise RuntimeFailure("restore", detail=f"there is no checkpoint in {images}: {error}") from None


def _make_root(request: RestoreRequest, steps: Sequence[Step]) -> list[int]:
    """In criu's process: a mount namespace with the container's root at ``place``, as criu wants it. Returns
    descriptors of the directories that it is to work in.

    The root has to be a mount whose parent nobody has mounted over, which the bundle's own directory need not be.
    """
    namespaces.unshare(namespaces.CLONE_NEWNS)
    sys_mounts.set_propagation_of_all(sys_mounts.PROPAGATION_SLAVE)
    mount = next((item for item in request.rootfs if not item.target), None)
    rootfs.mount_on(mount or Mount("bind", root_path(request), options=("rbind",)), request.place)
    root = os.open(request.place, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    _make_mount_points(root, steps)
    if request.spec.root is not None and request.spec.root.readonly:
        sys_mounts.set_attributes(root, add=sys_mounts.ATTR_RDONLY)
    os.close(root)
    return open_directories(request.options)


def _make_mount_points(root: int, steps: Sequence[Step]) -> None:
    """What an image may lack; criu makes none. Binds are there meanwhile for what is mounted within them.

    The content of a file system that is the container's own comes with the checkpoint, mount points included.
    """
    own: list[str] = []
    bound: list[int] = []
    for step in steps:
        if not isinstance(step, mounts.Bind | mounts.Filesystem | mounts.CgroupV2 | mounts.CgroupBinds):
            continue
        path = os.path.normpath(step.destination)
        if any(path.startswith(f"{other}/") for other in own):
            continue
        if not isinstance(step, mounts.Bind):
            own.append(path)
            os.close(targets.ensure_directory(root, path))
            continue
        step.prepare()
        ensure = targets.ensure_directory if targets.is_directory(step.source) else targets.ensure_file
        target = ensure(root, path)
        sys_mounts.attach(step.source, target)
        os.close(target)
        bound.append(step.source)
    for fd in reversed(bound):
        unmount.detach_mount(fd)
        os.close(fd)


def _with_time(spec: Spec, pid: int) -> Spec:
    """Where clocks have to go on as they were criu makes a time namespace: those who join the container join it."""
    linux = spec.linux or Linux()
    if any(item.type == "time" for item in linux.namespaces) or \
            os.stat(f"/proc/{pid}/ns/time").st_ino == os.stat("/proc/self/ns/time").st_ino:
        return spec
    wider = msgspec.structs.replace(linux, namespaces=[*linux.namespaces, Namespace("time")])
    return msgspec.structs.replace(spec, linux=wider)
