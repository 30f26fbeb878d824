"""Give a container another name."""

from __future__ import annotations

from barque.engine.containers import machine
from barque.engine.containers.context import Context
from barque.engine.containers.registry import Live
from barque.errors import Conflict, InvalidArgument


async def rename(ctx: Context, ref: str, name: str) -> None:
    live = ctx.registry.find(ref)
    new = name.removeprefix("/")
    if not new:
        raise InvalidArgument("Neither old nor new names may be empty")
    if new == live.container.name:
        raise InvalidArgument("Renaming a container with the same name as its current name")
    await ctx.tasks.shielded(_rename(ctx, live, new), f"rename {live.id[:12]}")


async def _rename(ctx: Context, live: Live, new: str) -> None:
    async with live.lock:
        if live.facts.status in (machine.Status.REMOVING, machine.Status.DEAD):
            raise Conflict("container is marked for removal and cannot be renamed")
        old = live.container.name
        ctx.registry.reserve(new, live.id)
        live.container.name = new
        try:
            await ctx.registry.save(live)
        except BaseException:
            live.container.name = old
            ctx.registry.unreserve(new)
            raise
        ctx.registry.unreserve(old)
        if live.container.sandbox is not None:
            live.container.sandbox = await ctx.networks.rename(live.id, new)
            await ctx.registry.save(live)
    ctx.event(live, "rename", oldName="/" + old)
