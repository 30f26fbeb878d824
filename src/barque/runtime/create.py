"""Creating a container: the caller's side, from a validated document to a first process that waits to be started.

Synchronous, for a single-threaded caller. Nothing is left behind when it fails.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial

import msgspec

from barque.oci.mount import Mount
from barque.oci.runtime_spec import OCI_VERSION, Linux, Resources, Spec
from barque.runtime import hooks, init, intermediary, links, listener, plan, rootfs, security, sync, userns, validate
from barque.runtime.birth import birthplace
from barque.runtime.cgroups import CgroupManager, known_layout
from barque.runtime.cgroups.base import InvalidResources
from barque.runtime.failure import RuntimeFailure
from barque.runtime.payload import CWD_ANNOTATION, Payload
from barque.runtime.step import Step
from barque.sys import namespaces, prctl, process
from barque.sys.sockets import Socket

__all__ = ["CreateRequest", "Created", "RuntimeFailure", "Stdio", "create"]

#: Entered by the caller for the moment of the fork; the child is born into them.
_BORN_INTO = ("network", "ipc", "uts", "cgroup", "pid", "time")


class Stdio(msgspec.Struct, frozen=True):
    """Descriptors of the caller to become 0, 1 and 2; ``None``: a terminal is made and its master handed back.

    The caller keeps its own copies. ``relayed``: it shows the terminal on another one, which makes its own carriage
    returns.
    """

    fds: tuple[int, int, int] | None
    relayed: bool = False


class CreateRequest(msgspec.Struct):
    """``rootfs`` is mounted at ``spec.root.path`` in the container's mount namespace; empty: that directory is used.

    ``cgroup`` is made, given the document's limits, and removed again on failure; on success its owner is the caller.
    ``pid_namespace_ready``: the caller has unshared CLONE_NEWPID, so its next child is process 1. ``gate``: a
    listening SOCK_SEQPACKET that the start comes over instead of through :meth:`Created.start`.
    """

    id: str
    bundle: str
    spec: Spec
    stdio: Stdio
    cgroup: CgroupManager
    rootfs: tuple[Mount, ...] = ()
    preserve_fds: int = 0
    pid_namespace_ready: bool = False
    new_keyring: bool = True
    gate: Socket | None = None
    no_pivot: bool = False


class Created:
    """A container whose first process waits. ``pid`` is the caller's number for it; ``console`` the terminal's master.

    The descriptors are the caller's to close.
    """

    def __init__(self, child: process.Clone, channel: sync.CallerEnd, warnings: list[str], console: int | None, *,
                 take_listener: Callable[[int], None] | None, after_start: Callable[[], None]) -> None:
        self.pid = child.pid
        self.pidfd = child.pidfd
        self.console = console
        self.warnings = warnings
        self._channel = channel
        self._take_listener = take_listener
        self._after_start = after_start

    def start(self) -> None:
        """Let the process exec; returns when the program runs. Raises RuntimeFailure; the process has ended then.

        Hooks of ``poststart`` run afterwards; their failure is a warning, as runc has it.
        """
        try:
            self._channel.order_start()
            self._channel.wait_exec(self._take_listener)
        finally:
            self._channel.close()
        try:
            self._after_start()
        except RuntimeFailure as failure:
            self.warnings.append(str(failure))

    def close_channel(self) -> None:
        """For a caller that leaves the start to a gate; without one the process gives up and ends."""
        self._channel.close()


def create(request: CreateRequest) -> Created:
    """Make the namespaces, the cgroup and the first process; returns when all is done but the exec.

    Raises RuntimeFailure, and the InvalidArgument of a document that cannot be honoured.
    """
    spec = request.spec
    validate.check(spec)
    assert spec.process is not None
    linux = spec.linux or Linux()
    rootless = userns.rootless()
    if rootless:
        validate.check_rootless(linux)
    payload = Payload(spec.process, spec.annotations, linux,
                      keyring=f"_ses.{request.id}" if request.new_keyring else None)
    with ExitStack() as undo:
        with _stage("cgroup"):
            _refuse_unusable(request.cgroup)
            undo.callback(request.cgroup.destroy)
            request.cgroup.create()
            payload.warnings += request.cgroup.apply(limits(linux, rootless))
        steps, leaving = plan.build(spec, root_path(request), request.rootfs, request.cgroup, known_layout(),
                                    make_cwd=spec.annotations.get(CWD_ANNOTATION) != "false",
                                    no_pivot=request.no_pivot)
        if not any(item.type == "mount" and not item.path for item in linux.namespaces):
            undo.callback(rootfs.take_away, root_path(request), rootfs.mount_at(root_path(request)))
        late = rootless or _reaches_the_host(linux)
        sources = undo.enter_context(_prepared(() if late else steps))
        order = init.Order(spec, payload, steps, leaving, request.stdio.fds, request.preserve_fds,
                           partial(state_document, request), rootless, late)
        if rootless:
            prctl.set_dumpable(True)
        caller, child, joins = _fork(request, linux, order)
        undo.callback(process.kill_and_reap, child)
        undo.callback(caller.close)
        sources.close()
        try:
            _join(request, linux, payload, child.pid, caller, joins=joins)
            if rootless:
                prctl.set_dumpable(False)
        except RuntimeFailure:
            if process.ended(child.pidfd):
                # It failed first, and has said why.
                caller.wait_ready()
            raise
        if order.outside_hooks:
            caller.wait_namespaces()
            state = state_document(request, "creating", child.pid)
            hooks.run("prestart", order.hooks.prestart, state)
            hooks.run("createRuntime", order.hooks.create_runtime, state)
            caller.resume()
        warnings, console = caller.wait_ready()
        undo.pop_all()

    def after_start() -> None:
        hooks.run("poststart", order.hooks.poststart, state_document(request, "running", child.pid))

    take_listener = None if linux.seccomp is None else partial(
        listener.hand_over, linux.seccomp, child.pidfd, child.pid, state_document(request, "created", child.pid))
    return Created(child, caller, warnings, console, take_listener=take_listener, after_start=after_start)


def _reaches_the_host(linux: Linux) -> bool:
    """Whether the child finds the host's files as its maker does: same rights, and a copy of the same mounts."""
    paths = {item.type: item.path for item in linux.namespaces}
    return "user" not in paths and not paths.get("mount")


def _refuse_unusable(cgroup: CgroupManager) -> None:
    """Whatever is in the cgroup dies when the container is deleted: so nobody else may be in there."""
    others = len(cgroup.pids()) if cgroup.paths() else 0
    if others:
        raise InvalidResources(f"container's cgroup is not empty: {others} process(es) found")
    if cgroup.frozen():
        raise InvalidResources("container's cgroup is frozen: whatever enters it would never run")


def limits(linux: Linux, rootless: bool) -> Resources:
    """The document's limits, with the devices that every container may use: config-linux.md#allowed-device-list.

    As runc has it they come after the document's own rules, and where it has none everything else is denied. An
    ordinary user makes no devices, and may not set rules for them.
    """
    wanted = linux.resources or Resources()
    if rootless:
        return msgspec.structs.replace(wanted, devices=[])
    deny, *default = security.default_device_rules()
    own = wanted.devices or [deny]
    return msgspec.structs.replace(wanted, devices=own + [rule for rule in default if rule not in own])


def root_path(request: CreateRequest) -> str:
    assert request.spec.root is not None
    return os.path.join(request.bundle, request.spec.root.path)


@contextmanager
def _stage(stage: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise RuntimeFailure.of(stage, error) from None


class _Sources:
    def __init__(self, steps: Sequence[Step]) -> None:
        self.steps = steps

    def close(self) -> None:
        for step in self.steps:
            step.release()


@contextmanager
def _prepared(steps: Sequence[Step]) -> Iterator[_Sources]:
    """Have the steps open what is the host's; the child inherits the descriptors, then they can be closed here."""
    sources = _Sources(steps)
    try:
        for step in steps:
            with _stage(step.describe()):
                step.prepare()
        yield sources
    finally:
        sources.close()


def _fork(request: CreateRequest, linux: Linux, order: init.Order) \
        -> tuple[sync.CallerEnd, process.Clone, bool]:
    """Clone the child into its namespaces; it runs init and never comes back here. The last: it joins the cgroup."""
    kinds = {item.type: item.path for item in linux.namespaces}
    flags = 0
    for kind, path in kinds.items():
        if not path and kind not in ("cgroup", "time") and not (kind == "pid" and request.pid_namespace_ready):
            flags |= namespaces.FLAGS[kind]
    caller_socket, child_socket = sync.pair()
    with ExitStack() as stack:
        stack.callback(child_socket.close)
        with _stage("namespaces"):
            place = stack.enter_context(birthplace(request.cgroup))
            joins: list[tuple[str, int]] = []
            for kind in _BORN_INTO:
                if kinds.get(kind):
                    fd = namespaces.open_namespace(kinds[kind], kind)
                    stack.callback(os.close, fd)
                    joins.append((kind, fd))
            offsets = None if kinds.get("time") != "" else {
                clock: (value.secs, value.nanosecs) for clock, value in linux.time_offsets.items()}
            if kinds.get("user"):
                # What it becomes there has no right to a cgroup of the host's.
                place.close()
                child = intermediary.clone(partial(_enter_user, kinds["user"], joins, offsets), flags)
            else:
                stack.enter_context(namespaces.visiting(joins))
                if offsets is not None:
                    stack.enter_context(namespaces.new_time(offsets))
                child = place.clone(flags)
            joins_itself = place.complete
        if child is None:
            caller_socket.close()
            init.run(order, sync.ChildEnd(child_socket, request.gate), place)
    return sync.CallerEnd(caller_socket), child, joins_itself


def _enter_user(path: str, joins: list[tuple[str, int]], offsets: dict[str, tuple[int, int]] | None) -> None:
    """Join a user namespace, with its root's rights, and the others: before where we may, else as its root."""
    user = namespaces.open_namespace(path, "user")
    refused = []
    for kind, fd in joins:
        try:
            namespaces.setns(fd, namespaces.FLAGS[kind])
        except PermissionError:
            refused.append((kind, fd))
    namespaces.setns(user, namespaces.CLONE_NEWUSER)
    init.become_namespace_root()
    for kind, fd in refused:
        namespaces.setns(fd, namespaces.FLAGS[kind])
    if offsets is not None:
        namespaces.prepare_time(offsets)


def _join(request: CreateRequest, linux: Linux, payload: Payload, pid: int, caller: sync.CallerEnd, *,
          joins: bool) -> None:
    """What only the caller can do for the child: id maps, OOM score, and the cgroup if it does not join by itself."""
    if any(item.type == "user" and not item.path for item in linux.namespaces):
        with _stage("user namespace"):
            userns.write_maps(pid, linux)
        caller.go()
    if linux.net_devices:
        links.move_devices(linux.net_devices, pid)
    if not joins:
        with _stage("cgroup"):
            request.cgroup.add(pid)
    payload.warnings += adjust_oom_score(pid, payload.process.oom_score_adj)
    caller.go()


def adjust_oom_score(pid: int, score: int | None) -> list[str]:
    """Write ``score`` for ``pid``; without CAP_SYS_RESOURCE it can only go up, which is a warning and not an error."""
    if score is None:
        return []
    with _stage("oom_score_adj"):
        try:
            fd = os.open(f"/proc/{pid}/oom_score_adj", os.O_RDWR | os.O_CLOEXEC)
        except PermissionError:
            # Hidden from an ordinary user, though its own.
            return [f"oom_score_adj stays as it is, no permission to set it to {score}"]
        try:
            if int(os.read(fd, 16)) == score:
                return []
            os.pwrite(fd, str(score).encode(), 0)
        except PermissionError:
            return [f"oom_score_adj stays as it is, no permission to lower it to {score}"]
        finally:
            os.close(fd)
    return []


def state_document(request: CreateRequest, status: str, pid: int) -> bytes:
    """The state of the container as hooks get it (runtime.md#state)."""
    return msgspec.json.encode({"ociVersion": OCI_VERSION, "id": request.id, "status": status, "pid": pid,
                                "bundle": request.bundle, "annotations": request.spec.annotations})
