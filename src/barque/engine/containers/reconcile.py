"""At boot: make the records agree with the world. What runs is adopted, what ended meanwhile is recorded and told."""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import time

from barque.engine import clock
from barque.engine.containers import exits, health, log_keeping, machine, start, volume_use
from barque.engine.containers.context import Context
from barque.engine.containers.machine import Status
from barque.engine.containers.ports import Monitor
from barque.engine.containers.registry import Live
from barque.engine.volume_mounts import unmount
from barque.errors import BarqueError
from barque.network.model import Sandbox
from barque.supervise.messages import ExitRecord
from barque.supervise.restart_policy import Backoff, at_boot, resumed

log = logging.getLogger("barque.engine")


async def adopt_all(ctx: Context) -> list[Sandbox]:
    """Load the containers and take over those that run; returns the sandboxes that the network has to keep.

    Exits are recorded here and now; restarts and removals follow with :func:`settle`, when the network stands.
    """
    found: list[tuple[Live, Monitor | ExitRecord | None]] = []
    for live in await ctx.registry.load():
        found.append((live, await ctx.supervisor.adopt(live.id)))
    for live, what in found:
        if what is None or isinstance(what, ExitRecord):
            await _record_end(ctx, live, what)
            if what is not None:
                await ctx.supervisor.forget(live.id)
        else:
            await _take_over(ctx, live, what)
    return [live.container.sandbox for live in ctx.registry if live.container.sandbox is not None and live.facts.alive]


async def _take_over(ctx: Context, live: Live, monitor: Monitor) -> None:
    if not live.facts.alive:
        if monitor.state != "running":
            # Created but never started: the daemon died in the middle of a start that nobody heard of.
            log.warning("container %s: dropping a start that was not finished", live.id[:12])
            await _drop(monitor)
            return
        # It was let go before the row said so.
        live.container.facts = machine.started(_startable(live.facts), monitor.pid, monitor.started_at or clock.now())
        await ctx.registry.save(live)
        ctx.event(live, "start")
    live.monitor = monitor
    live.backoff = Backoff(live.facts.restart_count)
    for target in volume_use.held(ctx, live.container):
        ctx.volume_mounts.adopt(target, live.id)
    log.info("container %s: adopted, pid %d", live.id[:12], monitor.pid)


def _startable(facts: machine.Facts) -> machine.Facts:
    return machine.restart_given_up(facts) if facts.status is Status.RESTARTING else facts


async def _drop(monitor: Monitor) -> None:
    try:
        if monitor.state == "created":
            await monitor.signal(9)
            await monitor.wait_exit()
        await monitor.release()
    except (BarqueError, OSError) as error:
        log.warning("monitor %s: %s", monitor.id[:12], error)


async def _record_end(ctx: Context, live: Live, record: ExitRecord | None) -> None:
    """A container that the row calls running, and that is not: how it ended, or that nobody knows (137, as docker)."""
    if not live.facts.alive:
        return
    record = record or ExitRecord(exit_code=137, finished_at=clock.now(), error="the record of the exit was lost")
    live.container.facts = machine.exited(live.facts, record.exit_code, record.finished_at or clock.now(),
                                          oom_killed=record.oom_killed, error=record.error)
    live.container.sandbox = None
    await ctx.registry.save(live)
    if record.oom_killed:
        ctx.event(live, "oom")
    ctx.event(live, "die", exitCode=str(record.exit_code))


async def settle(ctx: Context) -> None:
    """When everything stands: restart what its policy wants back, remove what was to go, drop what has no row.

    Only from here on ends are noted: before, the network would bring back what an end has given back.
    """
    ended: list[tuple[Live, Monitor]] = []
    for live in ctx.registry:
        if live.monitor is None:
            continue
        if live.monitor.state == "exited":
            ended.append((live, live.monitor))
        else:
            exits.watch(ctx, live, live.monitor, start.restart_later)
            health.watch(ctx, live)
            log_keeping.resume(ctx, live)
    for target in {target for live in ctx.registry for target in volume_use.held(ctx, live.container)}:
        if not ctx.volume_mounts.used(target):
            await asyncio.to_thread(unmount, target)
    for live in ctx.registry:
        status = live.facts.status
        if live.facts.alive:
            continue
        if status is Status.RESTARTING or (
                status is Status.EXITED and live.facts.has_been_started
                and at_boot(exits.policy(live), stopped=live.facts.stopped_by_user)):
            delay = 0.0
            if status is Status.EXITED:
                live.container.facts = machine.will_restart(live.facts)
            else:
                delay = _resume_backoff(live)
            start.restart_later(ctx, live, delay)
        elif live.container.host_config.auto_remove and live.facts.has_been_started:
            exits.remove_soon(ctx, live)
    await _drop_strays(ctx)
    for live, monitor in ended:
        # Not in the background: the first client would be told that it runs.
        await exits.finish(ctx, live, await monitor.wait_exit(), monitor, start.restart_later)


def _resume_backoff(live: Live) -> float:
    """How many seconds of the delay that the daemon before this one had begun are left."""
    finished = clock.parse(live.facts.finished_at)
    live.backoff = resumed(live.facts.restart_count, (finished - clock.parse(live.facts.started_at)) / 1e9)
    return max(0.0, live.backoff.delay - max(0.0, (time.time_ns() - finished) / 1e9))


async def _drop_strays(ctx: Context) -> None:
    """Directories of containers whose row is gone, or was never written; the store has dropped their layers."""
    known = {live.id for live in ctx.registry}
    for name in os.listdir(ctx.containers_dir):
        if name not in known:
            shutil.rmtree(f"{ctx.containers_dir}/{name}", ignore_errors=True)
    for name in _listed(f"{ctx.config.exec_root}/containers"):
        if name not in known:
            await _end_stray(ctx, name)


def _listed(path: str) -> list[str]:
    try:
        return os.listdir(path)
    except FileNotFoundError:
        return []


async def _end_stray(ctx: Context, container_id: str) -> None:
    """A monitor of a container that has no row: end it."""
    what = await ctx.supervisor.adopt(container_id)
    if what is None or isinstance(what, ExitRecord):
        await ctx.supervisor.forget(container_id)
    else:
        log.warning("ending container %s, which has no record", container_id[:12])
        await what.signal(9)
        await what.wait_exit()
        await what.release()
