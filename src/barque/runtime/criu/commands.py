"""The commands checkpoint and restore."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from barque.errors import Conflict, InvalidArgument, Unsupported
from barque.runtime import bundle, cgroups, foreground, lifecycle, state, userns
from barque.runtime.create import Stdio
from barque.runtime.criu.dump import Subject, dump
from barque.runtime.criu.options import Options
from barque.runtime.criu.restore import Restored, RestoreRequest, restore
from barque.sys import process

if TYPE_CHECKING:
    from barque.runtime.dispatch import Invocation

_DEFAULT_IMAGES = "checkpoint"
#: Migration without a pause needs a criu at the other end; and criu has its own way to change the root.
_REFUSED = ("lazy-pages", "page-server", "status-fd", "no-pivot")


def checkpoint_command(invocation: Invocation) -> int:
    """Write a running container's state to files; unless it shall go on, that is its end."""
    options = _options(invocation)
    if userns.rootless():
        raise Unsupported("checkpoint needs root")
    container = state.load(invocation.root, invocation.container_id)
    status = container.status()
    if status not in ("running", "paused"):
        raise Conflict(f"Container cannot be checkpointed in {status} state")
    if options.parent:
        _check_parent(options)
    facts = container.state
    dump(Subject(facts.pid, facts.spec, facts.rootfs, container.cgroup), options)
    if not options.leave_running and not options.pre_dump:
        lifecycle.remove(container)
    return 0


def _check_parent(options: Options) -> None:
    if os.path.isabs(options.parent):
        raise InvalidArgument("--parent-path must be relative")
    os.makedirs(options.images, mode=0o700, exist_ok=True)
    if not os.path.isdir(os.path.join(options.images, options.parent)):
        raise InvalidArgument(f"invalid --parent-path: {options.parent} is no directory in {options.images}")


def restore_command(invocation: Invocation) -> int:
    """Make a container of a checkpoint; without ``--detach`` stay until it ends, as run does."""
    options, detach = _options(invocation), invocation.options.flag("detach")
    with foreground.Signals() as signals, _restored(invocation, options) as restored:
        if detach and restored.console is not None:
            lifecycle.send_console(invocation.options.text("console-socket"), restored.console)
        restored.start()
        lifecycle.write_pid_file(invocation.options.text("pid-file"), restored.pid)
        if detach:
            return 0
        code = foreground.wait(restored.pidfd, signals, restored.console)
    lifecycle.remove(state.load(invocation.root, invocation.container_id))
    return code


@contextmanager
def _restored(invocation: Invocation, options: Options) -> Iterator[Restored]:
    """A container whose state is saved and whose processes wait; all of it is undone when the block fails."""
    container_id = invocation.container_id
    spec, directory = bundle.load(invocation.options.text("bundle") or ".")
    terminal = lifecycle.wants_terminal(invocation.options, spec, away=invocation.options.flag("detach"))
    cgroup = cgroups.manager((spec.linux.cgroups_path if spec.linux else "") or container_id,
                             driver="systemd" if invocation.systemd_cgroup else "cgroupfs")
    with ExitStack() as undo:
        state.reserve(invocation.root, container_id)
        undo.callback(state.remove, invocation.root, container_id)
        with state.place_for_root(invocation.root, container_id) as place:
            restored = restore(RestoreRequest(
                id=container_id, bundle=directory, spec=spec, stdio=Stdio(None if terminal else (0, 1, 2)),
                cgroup=cgroup, options=options, place=place))
        undo.callback(cgroup.destroy)
        undo.callback(process.kill_and_reap, process.Clone(restored.pid, restored.pidfd))
        state.save(invocation.root, lifecycle.state_of(container_id, directory, restored.spec, restored.pid,
                                                       cgroup.paths()))
        yield restored
        undo.pop_all()
    for warning in restored.warnings:
        invocation.warn(warning)


def _options(invocation: Invocation) -> Options:
    given = invocation.options
    for name in _REFUSED:
        if name in given.values:
            raise Unsupported(f"--{name} is not supported")
    for kind in given.texts("empty-ns"):
        if kind != "network":
            raise InvalidArgument(f'namespace "{kind}" is not supported')
    return Options(
        images=os.path.abspath(given.text("image-path") or _DEFAULT_IMAGES),
        work=os.path.abspath(given.text("work-path")) if given.text("work-path") else "",
        program=invocation.criu, parent=given.text("parent-path"), cgroups=given.text("manage-cgroups-mode"),
        lsm_profile=given.text("lsm-profile"), lsm_mount_context=given.text("lsm-mount-context"),
        **{name: given.flag(name.replace("_", "-")) for name in (
            "leave_running", "tcp_established", "tcp_skip_in_flight", "ext_unix_sk", "shell_job", "file_locks",
            "pre_dump", "auto_dedup", "link_remap")})
