"""A process has ended: record how, free what it had, tell who waits, and restart or remove it where that is asked."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Coroutine
from typing import Any

from barque.engine import clock
from barque.engine.containers import machine, volume_use
from barque.engine.containers.context import Context
from barque.engine.containers.networking import tell
from barque.engine.containers.ports import Monitor
from barque.engine.containers.registry import Live, Outcome
from barque.engine.containers.removal import remove_stopped
from barque.engine.containers.shm import unmount_shm
from barque.engine.containers.surroundings import shm_dir
from barque.errors import BarqueError, Conflict
from barque.failpoints import hit
from barque.supervise.messages import ExitRecord
from barque.supervise.restart_policy import Backoff, Policy, after_exit

log = logging.getLogger("barque.engine")
#: Start a container again after so many seconds.
RestartLater = Callable[[Context, Live, float], None]


def policy(live: Live) -> Policy:
    asked = live.container.host_config.restart_policy
    return Policy(asked.name, asked.maximum_retry_count)


def watch(ctx: Context, live: Live, monitor: Monitor, restart: RestartLater) -> None:
    """Wait for the end in the background."""
    live.tasks["exit"] = ctx.tasks.spawn(_watch(ctx, live, monitor, restart), f"watch {live.id[:12]}")


async def _watch(ctx: Context, live: Live, monitor: Monitor, restart: RestartLater) -> None:
    record = await monitor.wait_exit()
    await finish(ctx, live, record, monitor, restart)


async def finish(ctx: Context, live: Live, record: ExitRecord, monitor: Monitor | None, restart: RestartLater) -> None:
    """Take note of ``record``; the network is free and the state durable before anyone hears of it."""
    async with live.lock:
        if not live.facts.alive:
            return
        live.cancel("health")
        live.cancel("log")
        if record.log_dropped:
            ctx.metrics.count("log_bytes_lost", record.log_dropped)
            log.warning("container %s: %d bytes of its log are lost", live.id[:12], record.log_dropped)
        backoff = _next(live, record)
        finished = record.finished_at or clock.now()
        facts = machine.exited(live.facts, record.exit_code, finished, oom_killed=record.oom_killed, error=record.error,
                               restarting=backoff is not None)
        live.monitor = None
        sandbox, live.container.sandbox = live.container.sandbox, None
        live.container.facts = facts
        gone = live.container.host_config.auto_remove and backoff is None and not live.keep
        hit("container.exit.before-row")
        # A container that goes away now needs no record of its end: its row is the next thing to go. The monitor's
        # record goes only after the engine's is there.
        _, recorded = await asyncio.gather(
            _tried(free(ctx, live), live), _tried(_let_go(monitor) if gone else ctx.registry.save(live), live))
        hit("container.exit.after-row")
        if recorded and not gone:
            await _let_go(monitor)
        if record.oom_killed:
            ctx.event(live, "oom")
        if sandbox is not None:
            tell(ctx, sandbox, "disconnect")
        ctx.event(live, "die", exitCode=str(record.exit_code), execDuration=str(_duration(facts)))
        # Each end wakes those who wait, as dockerd has it, also one after which it is started again.
        live.resolve(live.exits, Outcome(record.exit_code, record.error))
        if backoff is not None:
            live.backoff = backoff
            restart(ctx, live, backoff.delay)
        elif gone:
            remove_soon(ctx, live)


async def _tried(work: Coroutine[Any, Any, None], live: Live) -> bool:
    """Whether it was done; where the disk is full, or a mount stays, the end must be told all the same."""
    try:
        await work
    except (BarqueError, OSError) as error:
        log.error("after the end of container %s: %s", live.id[:12], error)
        return False
    return True


async def _let_go(monitor: Monitor | None) -> None:
    if monitor is not None:
        await monitor.release()


def _next(live: Live, record: ExitRecord) -> Backoff | None:
    if live.keep_down:
        return None
    ran_for = 0.0
    with contextlib.suppress(ValueError):
        ran_for = (clock.parse(record.finished_at or clock.now()) - clock.parse(live.facts.started_at)) / 1e9
    return after_exit(policy(live), live.backoff, exit_code=record.exit_code, ran_for=ran_for,
                      stopped=live.facts.stopped_by_user, unhealthy=live.unhealthy)


def _duration(facts: machine.Facts) -> int:
    """Whole seconds that it ran."""
    return max(0, clock.parse(facts.finished_at) - clock.parse(facts.started_at)) // 10**9


async def free(ctx: Context, live: Live) -> None:
    """Give back what it had on this host while it ran."""
    container = live.container
    if not container.network_mode.startswith("container:"):
        with ctx.metrics.timed("network", "release"):
            await ctx.networks.teardown(container.id)
    await volume_use.release(ctx, container)
    if container.host_config.ipc_mode == "shareable":
        unmount_shm(shm_dir(ctx, container.id))


def remove_soon(ctx: Context, live: Live) -> None:
    """``--rm``: take the container away in the background."""
    ctx.tasks.spawn(_auto_remove(ctx, live), f"auto-remove {live.id[:12]}")


async def _auto_remove(ctx: Context, live: Live) -> None:
    try:
        await remove_stopped(ctx, live, volumes=True)
    except Conflict:
        log.debug("container %s is being removed by someone else", live.id[:12])
    except BarqueError as error:
        log.error("container %s cannot be removed: %s", live.id[:12], error.message)
