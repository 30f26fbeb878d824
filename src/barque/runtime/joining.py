"""The command exec."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from barque.errors import Conflict, InvalidArgument
from barque.oci import runtime_spec
from barque.oci.runtime_spec import Capabilities, Process
from barque.runtime import cgroups, foreground, state
from barque.runtime.cgroups import CgroupManager
from barque.runtime.create import Stdio
from barque.runtime.lifecycle import hook_state, send_console, write_pid_file
from barque.runtime.process import Target, exec_process

if TYPE_CHECKING:
    from barque.runtime.dispatch import Invocation

def exec_command(invocation: Invocation) -> int:
    """Run a program in a running container; returns its exit code, or 0 at once with ``--detach``."""
    options = invocation.options
    container = state.load(invocation.root, invocation.container_id)
    status = container.status()
    if status == "paused" and not options.flag("ignore-paused"):
        raise Conflict("cannot exec in a paused container (use --ignore-paused to override)")
    if status == "stopped":
        raise Conflict("cannot exec in a stopped container")
    process = _process(invocation, container)
    detach = options.flag("detach")
    if process.terminal and detach and not options.text("console-socket"):
        raise InvalidArgument("cannot allocate tty if runc will detach without setting console socket")
    if options.text("console-socket") and not (process.terminal and detach):
        raise InvalidArgument("cannot use console socket if runc will not detach or allocate tty")
    relayed = process.terminal and not detach
    if relayed:
        foreground.size_console(process)
    with foreground.Signals() as signals, container.pidfd() as pidfd:
        target = Target(container.state.pid, pidfd, container.state.spec,
                        _cgroup(options.texts("cgroup"), container), hook_state(container, "running"))
        done = exec_process(target, process, Stdio(None if process.terminal else (0, 1, 2), relayed),
                            preserve_fds=options.number("preserve-fds") or 0)
        for warning in done.warnings:
            invocation.warn(warning)
        write_pid_file(options.text("pid-file"), done.pid)
        if done.console is not None and options.text("console-socket"):
            send_console(options.text("console-socket"), done.console)
        if detach:
            return 0
        return foreground.wait(done.pidfd, signals, done.console)


def _cgroup(texts: list[str], container: state.Container) -> CgroupManager:
    """The container's cgroup, or with ``--cgroup [CONTROLLERS:]PATH`` ones below it, which must exist."""
    if not texts:
        return container.cgroup
    return cgroups.load(cgroups.beneath(container.state.cgroup_paths, texts))


def _process(invocation: Invocation, container: state.Container) -> Process:
    """The process document of ``--process``, or the container's own with what the flags change."""
    options = invocation.options
    if options.text("process"):
        with open(options.text("process"), "rb") as file:
            return runtime_spec.decode_process(file.read())
    own = container.state.spec.process
    assert own is not None
    user = msgspec.structs.replace(own.user)
    if options.text("user"):
        uid, _, gid = options.text("user").partition(":")
        user.uid, user.gid = _number(uid), _number(gid or "0")
    user.additional_gids = [*user.additional_gids, *map(_number, options.texts("additional-gids"))]
    capabilities = own.capabilities or Capabilities()
    extra = options.texts("cap")
    if extra:
        # Never inheritable or ambient: those would outlive a change of user (CVE-2022-29162).
        capabilities = msgspec.structs.replace(
            capabilities, bounding=[*capabilities.bounding, *extra], effective=[*capabilities.effective, *extra],
            permitted=[*capabilities.permitted, *extra])
    return msgspec.structs.replace(
        own, args=options.rest[1:], cwd=options.text("cwd") or own.cwd, env=[*own.env, *options.texts("env")],
        terminal=options.flag("tty"), user=user, capabilities=capabilities, console_size=None,
        apparmor_profile=options.text("apparmor") or own.apparmor_profile,
        selinux_label=options.text("process-label") or own.selinux_label,
        no_new_privileges=own.no_new_privileges or options.flag("no-new-privs"))


def _number(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 10):
        raise InvalidArgument(f'invalid id "{text}"')
    return int(text)
