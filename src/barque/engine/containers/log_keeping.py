"""A log that goes elsewhere goes on: a shipper that has died is followed by another one."""

from __future__ import annotations

import asyncio
import logging
import time

from barque.engine.containers.context import Context
from barque.engine.containers.ports import Shipper
from barque.engine.containers.registry import Live
from barque.engine.logging import plan
from barque.errors import BarqueError
from barque.runtime.failure import RuntimeFailure

log = logging.getLogger("barque.engine")

#: Seconds until the first attempt, and between attempts at most; each waits twice as long as the one before it.
FIRST_DELAY, LONGEST_DELAY = 1.0, 60.0


def watch(ctx: Context, live: Live, shipper: Shipper | None) -> None:
    """Begin to look after the log of a container that has just been started, with its shipper if it has one."""
    live.shipper = shipper
    if shipper is not None:
        live.tasks["log"] = ctx.tasks.spawn(_keep(ctx, live), f"log {live.id[:12]}")


def resume(ctx: Context, live: Live) -> None:
    """The same for a container that an earlier daemon started."""
    if plan.is_shipped(live.container):
        live.tasks["log"] = ctx.tasks.spawn(_find(ctx, live), f"log {live.id[:12]}")


async def _find(ctx: Context, live: Live) -> None:
    live.shipper = await ctx.supervisor.shipper(live.id)
    await _keep(ctx, live)


async def _keep(ctx: Context, live: Live) -> None:
    delay = FIRST_DELAY
    while True:
        if live.shipper is not None:
            began = time.monotonic()
            await live.shipper.wait_end()
            if time.monotonic() - began > LONGEST_DELAY:
                delay = FIRST_DELAY
        # The end of the container is also that of its shipper, and cancels this.
        await asyncio.sleep(delay)
        log.warning("container %s: the process that passes its log on has died; starting another one", live.id[:12])
        delay = min(2 * delay, LONGEST_DELAY)
        live.shipper = await _another(ctx, live)


async def _another(ctx: Context, live: Live) -> Shipper | None:
    shipper: Shipper | None = None
    try:
        _, order = plan.plan(live.container, ctx.log_socket(live.id))
        monitor = live.monitor
        if order is not None and monitor is not None:
            shipper = await ctx.supervisor.ship(live.id, order)
            await monitor.reship()
            return shipper
    except (BarqueError, RuntimeFailure, OSError) as error:
        log.warning("container %s: its log cannot be passed on: %s", live.id[:12], error)
    if shipper is not None:
        shipper.let_go()
    return None
