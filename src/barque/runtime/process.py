"""Joining a running container: exec_process(), the counterpart of create()."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import NoReturn

import msgspec

from barque.oci.runtime_spec import Linux, Process, Spec
from barque.runtime import init, intermediary, listener, rootfs, sync, userns, validate
from barque.runtime.birth import Birthplace, birthplace
from barque.runtime.cgroups import CgroupManager
from barque.runtime.create import Stdio, adjust_oom_score
from barque.runtime.devices import open_terminal
from barque.runtime.failure import RuntimeFailure
from barque.runtime.payload import GROUPS_ANNOTATION, Payload
from barque.runtime.step import Context
from barque.sys import namespaces, process

__all__ = ["Executed", "Target", "exec_process"]


class Target(msgspec.Struct, frozen=True):
    """A running container: its first process (caller's number and pidfd), its document and its cgroup.

    ``state`` is its OCI state as JSON, for a seccomp agent.
    """

    pid: int
    pidfd: int
    spec: Spec
    cgroup: CgroupManager
    state: bytes = b"{}"


class Executed(msgspec.Struct, frozen=True):
    """The program runs. ``pid`` is the caller's number for it; ``pidfd`` and ``console`` (the terminal's master) are
    the caller's to close.
    """

    pid: int
    pidfd: int
    console: int | None
    warnings: list[str]


def exec_process(target: Target, spec: Process, stdio: Stdio, *, preserve_fds: int = 0) -> Executed:
    """Run ``spec`` in the container, as a child of the caller; returns when the program runs.

    ``spec.user.username`` is docker's raw ``user[:group]``, looked up in the container, and gets the additional groups
    that the container was created with. Raises RuntimeFailure, also
    (stage "enter") when the container has ended or is about to; and InvalidArgument for a process that makes no sense.
    """
    validate.check_process(spec)
    linux = target.spec.linux or Linux()
    groups = target.spec.annotations.get(GROUPS_ANNOTATION, "") if spec.user.username else ""
    payload = Payload(spec, {GROUPS_ANNOTATION: groups}, linux, keyring=None)
    caller_socket, child_socket = sync.pair()
    caller = sync.CallerEnd(caller_socket)
    with ExitStack() as undo:
        undo.callback(caller.close)
        with child_socket:
            child, joins = _fork(target, payload, stdio, preserve_fds, sync.ChildEnd(child_socket), caller)
        undo.callback(process.kill_and_reap, child)
        if not joins:
            _join(target, child, caller)
        payload.warnings += adjust_oom_score(child.pid, spec.oom_score_adj)
        caller.go()
        # Nobody decides anything between the two: the order to start may wait in the socket.
        caller.order_start()
        warnings, console = caller.wait_ready()
        if console is not None:
            undo.callback(os.close, console)
        caller.wait_exec(_take_listener(target, child))
        undo.pop_all()
    caller.close()
    return Executed(child.pid, child.pidfd, console, warnings)


def _take_listener(target: Target, child: process.Clone) -> Callable[[int], None] | None:
    profile = (target.spec.linux or Linux()).seccomp
    if profile is None:
        return None
    return partial(listener.hand_over, profile, child.pidfd, child.pid, target.state)


def _join(target: Target, child: process.Clone, caller: sync.CallerEnd) -> None:
    try:
        target.cgroup.add(child.pid, beside=target.pid)
    except OSError as error:
        if process.ended(child.pidfd):
            # It failed first, and has said why.
            caller.wait_ready()
        raise _dying(target, "cgroup", error) from None


def _dying(target: Target, stage: str, error: OSError) -> RuntimeFailure:
    if error.errno in (errno.ENOMEM, errno.ESRCH) and process.ended(target.pidfd):
        return RuntimeFailure("enter", errno=errno.ESRCH, detail="cannot exec in a stopped container")
    return RuntimeFailure.of(stage, error)


def _fork(target: Target, payload: Payload, stdio: Stdio, preserve_fds: int, channel: sync.ChildEnd,
          caller: sync.CallerEnd) -> tuple[process.Clone, bool]:
    """The child, and whether it joins the cgroup by itself."""
    try:
        if userns.rootless():
            place = Birthplace()
            child, joins = intermediary.clone(partial(_become_root, target), 0), False
            if child is None:
                caller.close()
                _run(target, payload, stdio, preserve_fds, channel, place, {"pid", "user"})
            return child, joins
        with birthplace(target.cgroup) as place, namespaces.visiting([("pid", target.pidfd)]):
            try:
                child, joins = place.clone(0), place.complete
            except OSError as error:
                if error.errno not in (errno.EBUSY, errno.EOPNOTSUPP):
                    raise
                # On version 2 a container that has made cgroups of its own has its processes further down.
                place.close()
                child, joins = place.clone(0), False
            if child is None:
                caller.close()
                _run(target, payload, stdio, preserve_fds, channel, place, {"pid"})
    except OSError as error:
        raise _dying(target, "enter", error) from None
    return child, joins


def _become_root(target: Target) -> None:
    """An ordinary user has rights in the container's namespaces only once it is in the user namespace."""
    namespaces.setns(target.pidfd, namespaces.CLONE_NEWUSER)
    init.become_namespace_root()
    namespaces.setns(target.pidfd, namespaces.CLONE_NEWPID)


def _run(target: Target, payload: Payload, stdio: Stdio, preserve_fds: int, channel: sync.ChildEnd,
         place: Birthplace, entered: set[str]) -> NoReturn:
    """The child's side; ends in the program or, after telling the failure, in exit. It was born in ``entered``."""
    progress = init.Progress()
    try:
        progress.stage = "cgroup"
        place.enter()
        _enter(target, payload, stdio, preserve_fds, channel, progress, entered)
    except BaseException as error:
        # Whatever it was: the child must never return into the caller's code.
        channel.failed(RuntimeFailure.of(progress.stage, error))
    finally:
        os._exit(1)


def _enter(target: Target, payload: Payload, stdio: Stdio, preserve_fds: int, channel: sync.ChildEnd,
           at: init.Progress, entered: set[str]) -> None:
    affinity = payload.process.exec_cpu_affinity
    if affinity is not None and affinity.initial:
        os.sched_setaffinity(0, validate.parse_numbers(affinity.initial))
    init.separate(preserve_fds)
    payload.open_labels()
    at.stage = "enter"
    paths = {item.type: item.path for item in (target.spec.linux or Linux()).namespaces}
    # In a mount namespace that is shared the container is told by its root, which no setns enters.
    root = -1 if paths.get("mount") == "" else os.open(f"/proc/{target.pid}/root", os.O_PATH | os.O_CLOEXEC)
    kinds = set(paths) - entered
    namespaces.setns(target.pidfd, sum(namespaces.FLAGS[kind] for kind in kinds))
    if "user" in kinds:
        init.become_namespace_root()
    if root >= 0:
        rootfs.enter_root(root)
    context = Context(channel)
    context.root = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    if stdio.fds is None:
        at.stage = "make the console"
        context.console = open_terminal(context.root)
    channel.wait_go()
    if affinity is not None and affinity.final:
        os.sched_setaffinity(0, validate.parse_numbers(affinity.final))
    path = init.prepare(payload, context, stdio.fds, at)
    at.stage = "start"
    channel.ready(payload.warnings, context.console[0] if context.console else None)
    channel.wait_start()
    at.stage = "exec"
    payload.execute(path, channel.offer_listener)
