"""Further processes in a running container."""

from __future__ import annotations

import asyncio
import contextlib
import shlex
from dataclasses import dataclass, field
from typing import Any

import msgspec

from barque.engine import names
from barque.engine.containers import machine, security, to_spec
from barque.engine.containers.context import Context
from barque.engine.containers.ports import Monitor
from barque.engine.containers.registry import Live, Streams
from barque.engine.containers.start_errors import exec_refused
from barque.errors import Conflict, InvalidArgument, NotFound
from barque.oci import runtime_spec as oci
from barque.runtime.failure import RuntimeFailure
from barque.supervise.messages import ExecOrder

#: An exec that has ended can be looked at for so long (seconds).
KEPT = 300.0
#: How long the end of a process may come after the end of its output (seconds).
END_PATIENCE = 10.0


class NoSuchExec(NotFound):
    text = "No such exec instance: {id}"


class ExecStarted(Conflict):
    """It was started before; a client that attaches hears of it on the stream."""


class ExecOptions(msgspec.Struct, frozen=True, kw_only=True, rename="pascal"):
    """The body of ``POST /containers/{id}/exec``."""

    attach_stdin: bool = False
    attach_stdout: bool = False
    attach_stderr: bool = False
    console_size: list[int] | None = None
    detach_keys: str = ""
    tty: bool = False
    env: list[str] | None = None
    cmd: str | list[str] | None = None
    privileged: bool = False
    user: str = ""
    working_dir: str = ""
    detach: bool = False


@dataclass
class Exec:
    id: str
    live: Live
    options: ExecOptions
    command: list[str]
    pid: int = 0
    running: bool = False
    started: bool = False
    exit_code: int | None = None
    monitor: Monitor | None = None
    ended: asyncio.Event = field(default_factory=asyncio.Event)

    async def wait_ended(self) -> None:
        """Until the exit code is known; not for ever, since the output has ended already."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(END_PATIENCE):
                await self.ended.wait()


class Execs:
    """The exec instances of all containers."""

    def __init__(self, ctx: Context) -> None:
        self._ctx = ctx
        self._by_id: dict[str, Exec] = {}

    def create(self, ref: str, options: ExecOptions) -> str:
        """Register a command; raises Conflict where the container does not run."""
        command = [options.cmd] if isinstance(options.cmd, str) else list(options.cmd or ())
        if not command:
            raise InvalidArgument("No exec command specified")
        live = self._ctx.registry.find(ref)
        machine.check_exec(live.facts, live.id)
        made = Exec(names.new_id(), live, options, command)
        self._by_id[made.id] = made
        live.exec_ids.append(made.id)
        self._ctx.event(live, f"exec_create: {shlex.join(command)}", execID=made.id)
        return made.id

    def get(self, exec_id: str) -> Exec:
        found = self._by_id.get(exec_id)
        if found is None:
            raise NoSuchExec(id=exec_id)
        return found

    def startable(self, exec_id: str) -> Exec:
        """The instance, if its container can run it now; raises Conflict, NoSuchExec."""
        item = self.get(exec_id)
        machine.check_exec(item.live.facts, item.live.id)
        return item

    async def start(self, item: Exec, *, attached: bool, tty: bool,
                    console_size: tuple[int, int] | None) -> Streams | None:
        """Run it; gives the streams where ``attached``. Raises ExecRefused where the command cannot be
        executed, ExecStarted the second time.

        A client that goes away meanwhile does not leave it half started.
        """
        work = self._start(item, attached=attached, tty=tty, console_size=console_size)
        return await self._ctx.tasks.shielded(work, f"exec {item.id[:12]}")

    async def _start(self, item: Exec, *, attached: bool, tty: bool,
                     console_size: tuple[int, int] | None) -> Streams | None:
        self.startable(item.id)
        if item.started:
            state = "is already running" if item.running else "has already run"
            raise ExecStarted(f"exec command {item.id} {state}")
        monitor = item.live.monitor
        if monitor is None:
            raise machine.NotRunning(id=item.live.id)
        item.started = True
        order = self._order(item, attached=attached, tty=tty, console_size=console_size)
        streams = None
        self._ctx.event(item.live, f"exec_start: {shlex.join(item.command)}", execID=item.id)
        try:
            with item.live.execs:
                if order.attached:
                    streams = await monitor.attach(item.id, stdin=order.stdin, stdout=order.stdout,
                                                   stderr=order.stderr)
                item.pid = await monitor.exec(order)
        except BaseException as error:
            if streams is not None:
                streams[1].close()
            item.exit_code = 126
            self._forget_later(item)
            if isinstance(error, RuntimeFailure):
                refused = exec_refused(error, item.command[0])
                item.exit_code = refused.exit_code
                raise refused from error
            raise
        item.running = True
        item.monitor = monitor
        self._ctx.tasks.spawn(self._watch(item, monitor), f"exec {item.id[:12]}")
        return streams

    async def _watch(self, item: Exec, monitor: Monitor) -> None:
        try:
            item.exit_code = await monitor.wait_exec(item.id)
        finally:
            item.running = False
            item.pid = 0
            item.ended.set()
            self._forget_later(item)
        self._ctx.event(item.live, "exec_die", execID=item.id, exitCode=str(item.exit_code))

    def _forget_later(self, item: Exec) -> None:
        asyncio.get_running_loop().call_later(KEPT, self._forget, item)

    def _forget(self, item: Exec) -> None:
        self._by_id.pop(item.id, None)
        if item.id in item.live.exec_ids:
            item.live.exec_ids.remove(item.id)

    def _order(self, item: Exec, *, attached: bool, tty: bool, console_size: tuple[int, int] | None) -> ExecOrder:
        options = item.options
        return ExecOrder(
            exec_id=item.id, process=build_process(self._ctx, item.live, options, item.command, tty=tty), terminal=tty,
            console_size=console_size, stdin=attached and options.attach_stdin,
            stdout=attached and options.attach_stdout, stderr=attached and options.attach_stderr)

    async def resize(self, exec_id: str, height: int, width: int) -> None:
        item = self.get(exec_id)
        if not item.running or item.monitor is None:
            raise Conflict(f"cannot resize exec {exec_id}: it is not running")
        await item.monitor.resize(height, width, item.id)
        self._ctx.event(item.live, "exec_resize", execID=item.id, height=str(height), width=str(width))

    def detached(self, item: Exec) -> None:
        """The client left with the detach keys; the process runs on."""
        self._ctx.event(item.live, "exec_detach", execID=item.id)

    def inspect(self, exec_id: str) -> dict[str, Any]:
        item = self.get(exec_id)
        options = item.options
        return {
            "ID": item.id, "Running": item.running, "ExitCode": item.exit_code,
            "ProcessConfig": {"tty": options.tty, "entrypoint": item.command[0], "arguments": item.command[1:],
                              "privileged": options.privileged, "user": options.user},
            "OpenStdin": options.attach_stdin, "OpenStderr": options.attach_stderr, "OpenStdout": options.attach_stdout,
            "CanRemove": item.exit_code is not None, "ContainerID": item.live.id, "DetachKeys": options.detach_keys,
            "Pid": item.pid}


def build_process(ctx: Context, live: Live, options: ExecOptions, command: list[str], *, tty: bool) -> oci.Process:
    """The OCI process of an exec: the container's own settings, with what the exec changes.

    The user travels as docker writes it in ``user.username``: who it is only the container's own files can tell.
    """
    container = live.container
    host = container.host_config
    available = ctx.host.capabilities
    capabilities = list(available) if options.privileged else to_spec.capability_names(host, available)
    environment = to_spec.environment(container, container.config.hostname)
    if tty and not container.config.tty:
        environment = to_spec.merge_env(["TERM=xterm"], environment)
    return oci.Process(
        terminal=tty, user=oci.User(username=options.user or container.config.user or to_spec.ROOT), args=command,
        env=to_spec.merge_env(environment, options.env or []),
        cwd=options.working_dir or container.config.working_dir or "/",
        capabilities=oci.Capabilities(bounding=capabilities, effective=capabilities, permitted=capabilities),
        no_new_privileges=security.no_new_privileges(host, ctx.config.no_new_privileges),
        apparmor_profile=security.apparmor_profile(host, ctx.host), selinux_label=container.process_label)
