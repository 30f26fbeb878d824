"""The commands create, run, start, kill and delete."""

from __future__ import annotations

import os
import pwd
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING

import msgspec

from barque.errors import Conflict, InvalidArgument
from barque.oci.runtime_spec import OCI_VERSION, Hooks, Spec
from barque.runtime import bundle, cgroups, foreground, hooks, listener, rootfs, state, userns
from barque.runtime.create import Created, CreateRequest, Stdio, create
from barque.runtime.failure import RuntimeFailure
from barque.runtime.flags import Parsed
from barque.runtime.sync import CallerEnd
from barque.sys import process, sockets, tty, unmount

if TYPE_CHECKING:
    from barque.runtime.dispatch import Invocation

_KILL_TIMEOUT = 10.0
_INHERITED = Stdio((0, 1, 2))


class NotRunning(Conflict):
    text = "container not running"


class NotStopped(Conflict):
    text = "cannot delete container {id} that is not stopped: {status}"


def create_command(invocation: Invocation) -> int:
    """Make a container whose process waits for ``start``; stdio is ours, or a terminal sent to the console socket."""
    with _made(invocation, gated=True) as created:
        created.close_channel()
        _hand_over_console(invocation, created)
        write_pid_file(invocation.options.text("pid-file"), created.pid)
    return 0


def run_command(invocation: Invocation) -> int:
    """create and start; without ``--detach`` stay until it ends, remove it, and return its exit code."""
    detach = invocation.options.flag("detach")
    with foreground.Signals() as signals, _made(invocation, gated=False) as created:
        if detach:
            _hand_over_console(invocation, created)
        elif created.console is not None:
            tty.keep_newlines(created.console)
        created.start()
        write_pid_file(invocation.options.text("pid-file"), created.pid)
        if detach:
            return 0
        code = foreground.wait(created.pidfd, signals, created.console)
    if not invocation.options.flag("keep"):
        remove(state.load(invocation.root, invocation.container_id))
    return code


@contextmanager
def _made(invocation: Invocation, *, gated: bool) -> Iterator[Created]:
    """A created container whose state is saved; all of it is undone when the block fails."""
    options, container_id = invocation.options, invocation.container_id
    spec, directory = bundle.load(options.text("bundle") or ".")
    away = gated or options.flag("detach")
    terminal = wants_terminal(options, spec, away=away)
    if spec.process is not None and terminal and not away:
        foreground.size_console(spec.process)
    cgroup = cgroups.manager((spec.linux.cgroups_path if spec.linux else "") or container_id,
                             driver="systemd" if invocation.systemd_cgroup else "cgroupfs")
    with ExitStack() as undo:
        state.reserve(invocation.root, container_id)
        undo.callback(state.remove, invocation.root, container_id)
        if userns.rootless():
            cgroup = cgroups.permitted(cgroup)
            undo.callback(cgroup.destroy)
        gate = state.listen_for_start(invocation.root, container_id) if gated else None
        created = create(CreateRequest(
            id=container_id, bundle=directory, spec=spec, stdio=Stdio(None) if terminal else _INHERITED, cgroup=cgroup,
            preserve_fds=options.number("preserve-fds") or 0, new_keyring=not options.flag("no-new-keyring"),
            gate=gate, no_pivot=options.flag("no-pivot")))
        undo.callback(cgroup.destroy)
        undo.callback(process.kill_and_reap, process.Clone(created.pid, created.pidfd))
        state.save(invocation.root, state_of(container_id, directory, spec, created.pid, cgroup.paths()))
        yield created
        undo.pop_all()
    for warning in created.warnings:
        invocation.warn(warning)


def wants_terminal(options: Parsed, spec: Spec, *, away: bool) -> bool:
    """``away``: nobody stays to relay it. Raises InvalidArgument."""
    terminal = spec.process is not None and spec.process.terminal
    if terminal and away and not options.text("console-socket"):
        raise InvalidArgument("cannot allocate tty if runc will detach without setting console socket")
    if options.text("console-socket") and not (terminal and away):
        raise InvalidArgument("cannot use console socket if runc will not detach or allocate tty")
    return terminal


def state_of(container_id: str, directory: str, spec: Spec, pid: int, paths: dict[str, str]) -> state.State:
    assert spec.root is not None
    now = datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
    root = os.path.join(directory, spec.root.path)
    shared = not any(item.type == "mount" for item in spec.linux.namespaces) if spec.linux else True
    return state.State(id=container_id, bundle=directory, rootfs=root, pid=pid, start_time=process.start_time(pid),
                       created=now, owner=_owner(), cgroup_paths=paths, spec=spec,
                       root_mount=rootfs.mount_at(root) if shared else None)


def _owner() -> str:
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())


def _hand_over_console(invocation: Invocation, created: Created) -> None:
    if created.console is not None:
        send_console(invocation.options.text("console-socket"), created.console)


def send_console(path: str, master: int) -> None:
    """Send the terminal's master over the unix socket at ``path``, as runc does, and close it here."""
    with sockets.Socket(sockets.AF_UNIX, sockets.SOCK_STREAM) as sock:
        sock.connect(path)
        sockets.send(sock, b"/dev/ptmx", [master])
    os.close(master)


def write_pid_file(path: str, pid: int) -> None:
    """Whole or not at all: whoever sees the file may rely on it."""
    if path:
        folder, name = os.path.split(path)
        temporary = os.path.join(folder, f".{name}")
        with open(temporary, "w") as file:
            file.write(str(pid))
        os.rename(temporary, path)


def start_command(invocation: Invocation) -> int:
    container = state.load(invocation.root, invocation.container_id)
    status = container.status()
    if status == "stopped":
        raise Conflict("cannot start a container that has stopped")
    if status != "created":
        raise Conflict("cannot start an already running container")
    try:
        sock = state.connect_to_start(invocation.root, invocation.container_id)
    except (FileNotFoundError, ConnectionRefusedError):
        raise Conflict("cannot start an already running container") from None
    # The descriptor comes first: a program that is over at once may be gone, reaped by its parent, before the answer.
    with sock, container.pidfd() as pidfd:
        gate = CallerEnd(sock)
        gate.order_start()
        gate.wait_exec(_take_listener(container, pidfd))
    hooks.run("poststart", _hooks(container).poststart, hook_state(container, "running"))
    return 0


def _take_listener(container: state.Container, pidfd: int) -> Callable[[int], None] | None:
    linux = container.state.spec.linux
    if linux is None or linux.seccomp is None:
        return None
    return partial(listener.hand_over, linux.seccomp, pidfd, container.state.pid, hook_state(container, "created"))


def kill_command(invocation: Invocation) -> int:
    container = state.load(invocation.root, invocation.container_id)
    words = invocation.options.rest
    number = parse_signal(words[1] if len(words) > 1 else "SIGTERM")
    # Where nothing dies with the first process, everything is meant: even after its end.
    whole = number == signal.SIGKILL and container.shares_pids() and container.cgroup.paths()
    if invocation.options.flag("all") or (whole and container.cgroup.pids()):
        container.cgroup.kill(number)
        return 0
    if not container.alive():
        raise NotRunning
    with container.pidfd() as pidfd:
        process.pidfd_signal(pidfd, number)
    if container.status() == "paused" and number == signal.SIGKILL:
        # A frozen process of version 1 does not even die.
        container.cgroup.thaw()
    return 0


def parse_signal(text: str) -> int:
    """``9``, ``KILL`` or ``SIGKILL`` in any case; raises InvalidArgument."""
    if text.isascii() and text.isdigit() and len(text) < 3 and int(text) <= 64:
        return int(text)
    name = text.upper()
    name = name if name.startswith("SIG") else f"SIG{name}"
    if name in signal.Signals.__members__:
        return int(signal.Signals[name])
    raise InvalidArgument(f'unknown signal "{text}"')


def delete_command(invocation: Invocation) -> int:
    force = invocation.options.flag("force")
    try:
        container = state.load(invocation.root, invocation.container_id)
    except state.NoSuchContainer:
        if force:
            return 0
        raise
    status = container.status()
    if status not in ("stopped", "created") and not force:
        raise NotStopped(id=container.state.id, status=status)
    _kill(container)
    remove(container)
    return 0


def _kill(container: state.Container) -> None:
    """SIGKILL the first process and wait for its end; what it leaves in the cgroup goes with the cgroup."""
    if not container.alive():
        return
    with container.pidfd() as pidfd:
        process.pidfd_signal(pidfd, signal.SIGKILL)
        if container.cgroup.frozen():
            container.cgroup.thaw()
        if not process.ended(pidfd, _KILL_TIMEOUT):
            raise RuntimeFailure("delete", detail="container init still running")


def remove(container: state.Container) -> None:
    cgroup = container.cgroup
    cgroup.kill()
    cgroup.destroy()
    mount = container.state.root_mount
    if mount is not None and rootfs.mount_at(container.state.rootfs) == mount:
        unmount.detach(container.state.rootfs)
    state.remove(container.root, container.state.id)
    hooks.run("poststop", _hooks(container).poststop, hook_state(container, "stopped"))


def _hooks(container: state.Container) -> Hooks:
    return container.state.spec.hooks or Hooks()


def hook_state(container: state.Container, status: str) -> bytes:
    facts = container.state
    return msgspec.json.encode({"ociVersion": OCI_VERSION, "id": facts.id, "status": status,
                                "pid": 0 if status == "stopped" else facts.pid, "bundle": facts.bundle,
                                "annotations": facts.spec.annotations})
