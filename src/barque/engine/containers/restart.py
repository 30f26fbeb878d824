"""Stop and start again."""

from __future__ import annotations

from barque.engine.containers import machine
from barque.engine.containers.context import Context
from barque.engine.containers.machine import Status
from barque.engine.containers.registry import Live
from barque.engine.containers.start import start
from barque.engine.containers.stop import end
from barque.engine.signals import parse_signal
from barque.errors import NotModified


async def restart(ctx: Context, ref: str, timeout: int | None, signal: str) -> None:
    live = ctx.registry.find(ref)
    number = parse_signal(signal) if signal else None
    if live.facts.status in (Status.REMOVING, Status.DEAD):
        machine.check_start(live.facts)
    await ctx.tasks.shielded(_restart(ctx, live, timeout, number), f"restart {live.id[:12]}")
    ctx.event(live, "restart")


async def _restart(ctx: Context, live: Live, timeout: int | None, number: int | None) -> None:
    # docker keeps a --rm container over its restart.
    live.keep = True
    try:
        await end(ctx, live, timeout, number)
        try:
            await start(ctx, live.id)
        except NotModified:
            return  # somebody else was faster
    finally:
        live.keep = False
