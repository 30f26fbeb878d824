"""Start a container: network, files, volumes, monitor, attached clients, process. All of it or nothing."""

from __future__ import annotations

import asyncio
import contextlib
from contextlib import AsyncExitStack

from barque.engine import apparmor, clock
from barque.engine.containers import (
    bundle,
    checkpoints,
    exits,
    health,
    labelling,
    learning,
    log_keeping,
    machine,
    networking,
    surroundings,
    to_spec,
    volume_use,
)
from barque.engine.containers.context import Context
from barque.engine.containers.model import Container
from barque.engine.containers.ports import Monitor, Shipper
from barque.engine.containers.registry import Live, Outcome
from barque.engine.containers.shm import mount_shm, unmount_shm
from barque.engine.containers.start_errors import StartRefused, log_refused, start_refused
from barque.engine.logging import plan
from barque.errors import BarqueError, InvalidArgument
from barque.failpoints import hit
from barque.network.model import Sandbox
from barque.oci.runtime_spec import Spec
from barque.runtime.failure import RuntimeFailure
from barque.supervise.messages import Checkpoint, CreateOrder, LogConfig, RuntimeChoice
from barque.supervise.restart_policy import Backoff
from barque.supervise.shipping import LogTargetRefused


async def start(ctx: Context, ref: str, checkpoint: str = "", directory: str = "") -> None:
    """Start the container that ``ref`` names, from a ``checkpoint`` if one is named.

    Raises NotModified when it runs already.
    """
    if checkpoint and not ctx.config.experimental:
        raise InvalidArgument("checkpoint is only supported in experimental mode")
    live = ctx.registry.find(ref)
    machine.check_start(live.facts)
    found = checkpoints.to_start_from(ctx, live, checkpoint, directory) if checkpoint else None
    await ctx.tasks.shielded(_start_by_hand(ctx, live, found), f"start {live.id[:12]}")


async def _start_by_hand(ctx: Context, live: Live, checkpoint: Checkpoint | None) -> None:
    async with live.lock:
        machine.check_start(live.facts, doomed=live.doomed)
        live.cancel("restart")
        live.backoff = Backoff()
        live.container.facts = machine.restart_reset(live.facts)
        await run(ctx, live, checkpoint)


async def run(ctx: Context, live: Live, checkpoint: Checkpoint | None = None) -> None:
    """Bring the container up; the caller holds the lock and has checked that it may. On failure the facts say why."""
    try:
        with ctx.metrics.timed("container", "start"):
            monitor, sandbox, shipper = await _bring_up(ctx, live, checkpoint)
    except Exception as error:  # a boundary: whatever failed is recorded before the client hears of it
        await _record_failure(ctx, live, error)
        raise
    live.monitor = monitor
    live.unhealthy = live.killed = False
    live.container.sandbox = sandbox
    live.container.health = health.initial(live.container.config)
    # A power cut ends the process too: that it ran may reach the disk a little later than the client hears of it.
    before = live.facts
    try:
        await ctx.registry.set_facts(live, machine.started(before, monitor.pid, clock.now()), durable=False)
    except BaseException as error:
        # It runs and nothing says so: nobody would hear of its end.
        await _abandon(monitor)
        live.monitor, live.container.facts = None, machine.start_failed(before, 128, str(error))
        await exits.free(ctx, live)
        live.container.sandbox = None
        raise
    ctx.tasks.spawn(ctx.registry.sync(), f"sync {live.id[:12]}")
    hit("container.start.after-row")
    if sandbox is not None:
        networking.tell(ctx, sandbox, "connect")
        networking.update_links(ctx, live.container)
    ctx.event(live, "start")
    exits.watch(ctx, live, monitor, restart_later)
    health.watch(ctx, live)
    log_keeping.watch(ctx, live, shipper)


async def _bring_up(ctx: Context, live: Live, checkpoint: Checkpoint | None
                    ) -> tuple[Monitor, Sandbox | None, Shipper | None]:
    container = live.container
    async with AsyncExitStack() as undo:
        sandbox = await _setup_network(ctx, container, undo)
        files = _files(ctx, container, sandbox)
        undo.push_async_callback(volume_use.release, ctx, container)
        volumes = await volume_use.prepare(ctx, container)
        await labelling.relabel(container, files)
        if container.host_config.ipc_mode == "shareable":
            mount_shm(surroundings.shm_dir(ctx, container.id), container.host_config.shm_size, container.mount_label)
            undo.callback(unmount_shm, surroundings.shm_dir(ctx, container.id))
        spec = to_spec.build(container, surroundings.build(ctx, container, files, sandbox, volumes))
        await apparmor.make_sure(spec.process.apparmor_profile if spec.process else "", ctx.host.apparmor_parser)
        await learning.begin(ctx, container, spec, undo)
        try:
            log, shipper = await _prepare_log(ctx, container, undo)
            monitor = await ctx.supervisor.create(await _order(ctx, container, spec, log, checkpoint))
            undo.push_async_callback(_abandon, monitor)
            hit("container.start.after-create")
            for pending in live.attaching:
                await pending.connect(monitor)
            live.attaching.clear()
            await monitor.start()
        except RuntimeFailure as failure:
            raise start_refused(failure, container.path) from failure
        undo.pop_all()
        return monitor, sandbox, shipper


async def _setup_network(ctx: Context, container: Container, undo: AsyncExitStack) -> Sandbox | None:
    if container.network_mode.startswith("container:"):
        return None
    with ctx.metrics.timed("network", "allocate"):
        sandbox = await ctx.networks.setup(networking.sandbox_request(ctx, container))
    undo.push_async_callback(ctx.networks.teardown, container.id)
    return sandbox


def _files(ctx: Context, container: Container, sandbox: Sandbox | None) -> to_spec.Files:
    """A container in another's network sees that one's files."""
    if container.network_mode.startswith("container:"):
        other = surroundings.running(ctx, container.network_mode, "network").id
        directory = ctx.state_dir(other)
        return to_spec.Files(hostname=f"{directory}/hostname", hosts=f"{directory}/hosts",
                             resolv_conf=f"{directory}/resolv.conf")
    return bundle.write_files(ctx, container, sandbox, networking.linked_hosts(ctx, container))


async def _prepare_log(ctx: Context, container: Container, undo: AsyncExitStack
                       ) -> tuple[LogConfig | None, Shipper | None]:
    """What the monitor does with the output; where that goes elsewhere, its shipper is there then."""
    shipper: Shipper | None = None
    try:
        config, order = plan.plan(container, ctx.log_socket(container.id))
        if order is not None:
            shipper = await ctx.supervisor.ship(container.id, order)
            undo.callback(shipper.let_go)
    except (InvalidArgument, LogTargetRefused) as error:
        raise log_refused(error.message) from None
    return config, shipper


async def _order(ctx: Context, container: Container, spec: Spec, log: LogConfig | None,
                 checkpoint: Checkpoint | None) -> CreateOrder:
    size = container.host_config.console_size
    runtime = ctx.config.runtimes.get(container.host_config.runtime)
    return CreateOrder(
        id=container.id, bundle=bundle.write_bundle(ctx, container.id, spec),
        rootfs=(await ctx.snapshots.container_mount(container.id),), terminal=container.config.tty,
        console_size=(size[0], size[1]) if len(size) == 2 and any(size) else None,
        open_stdin=container.config.open_stdin,
        stdin_once=container.config.stdin_once, log=log, cgroup_driver=ctx.config.cgroup_driver,
        runtime=RuntimeChoice(runtime.path, runtime.args) if runtime else RuntimeChoice(),
        spool_dir=ctx.state_dir(container.id), checkpoint=checkpoint)


async def _abandon(monitor: Monitor) -> None:
    """End a monitor whose container shall not start after all; one that failed to start has ended by itself."""
    with contextlib.suppress(BarqueError, RuntimeFailure, OSError):
        await monitor.signal(9)
        await monitor.wait_exit()
        await monitor.release()


async def _record_failure(ctx: Context, live: Live, error: Exception) -> None:
    code = error.exit_code if isinstance(error, StartRefused) else 128
    message = error.message if isinstance(error, BarqueError) else str(error)
    for pending in live.attaching:
        pending.give_up()
    live.attaching.clear()
    await ctx.registry.set_facts(live, machine.start_failed(live.facts, code, message))
    if isinstance(error, StartRefused):
        ctx.event(live, "die", exitCode=str(code), execDuration="0")
    # Without the message: the caller of start has it, and docker's client would print it a second time.
    live.resolve(live.exits, Outcome(code))
    if live.container.host_config.auto_remove and not live.keep:
        exits.remove_soon(ctx, live)


def restart_later(ctx: Context, live: Live, delay: float) -> None:
    """Start it again in ``delay`` seconds unless someone stops, starts or removes it before."""
    live.tasks["restart"] = ctx.tasks.spawn(_restart(ctx, live, delay), f"restart {live.id[:12]}")


async def _restart(ctx: Context, live: Live, delay: float) -> None:
    await asyncio.sleep(delay)
    async with live.lock:
        live.tasks.pop("restart", None)
        if live.facts.status is not machine.Status.RESTARTING:
            return
        try:
            await run(ctx, live)
        except BarqueError as error:
            exits.log.error("container %s cannot be restarted: %s", live.id[:12], error.message)
