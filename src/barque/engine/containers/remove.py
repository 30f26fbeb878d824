"""Remove containers: one, or all that are stopped. The row goes first; what is left behind by a crash goes at boot."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Any

import msgspec

from barque.engine import clock, filters
from barque.engine.containers import machine, stop
from barque.engine.containers.context import Context
from barque.engine.containers.registry import Live, Outcome
from barque.engine.containers.removal import RemovalInProgress, StillRunning, remove_stopped
from barque.errors import BarqueError, Conflict, InvalidArgument, NotFound

log = logging.getLogger("barque.engine")
#: Beyond what SIGKILL needs on a loaded machine, something is stuck in the kernel.
_KILL_TIMEOUT = 30.0


class StillPaused(Conflict):
    text = 'cannot remove container "{name}": container is paused and must be unpaused first'


async def remove(ctx: Context, ref: str, *, force: bool, volumes: bool, link: bool) -> None:
    if link:
        await ctx.tasks.shielded(_remove_link(ctx, ref), f"remove link {ref}")
        return
    live = ctx.registry.find(ref)
    status = live.facts.status
    if (live.facts.alive or status is machine.Status.RESTARTING) and not force:
        raise StillPaused(name=live.container.slashed) if status is machine.Status.PAUSED else StillRunning(
            name=live.container.slashed, state=status)
    await ctx.tasks.shielded(_remove(ctx, live, force=force, volumes=volumes), f"remove {live.id[:12]}")


async def _remove_link(ctx: Context, ref: str) -> None:
    """``parent/alias``: the parent no longer knows that name of another container; neither is removed."""
    parent, slash, alias = ref.strip("/").partition("/")
    if not slash:
        raise InvalidArgument(f"Conflict, cannot remove the default link name of the container: {ref}")
    live = ctx.registry.find(parent)
    async with live.lock:
        links = live.container.host_config.links or []
        kept = [text for text in links if (text.partition(":")[2] or text).rpartition("/")[2] != alias]
        if len(kept) == len(links):
            raise NotFound(f"Could not get entity for {alias}")
        live.container.host_config = msgspec.structs.replace(live.container.host_config, links=kept or None)
        await ctx.registry.save(live)


async def _remove(ctx: Context, live: Live, *, force: bool, volumes: bool) -> None:
    if not force:
        await remove_stopped(ctx, live, volumes=volumes)
        return
    gone = asyncio.get_running_loop().create_future()
    live.removals.add(gone)
    live.doomed = True
    try:
        await _end(ctx, live)
        await remove_stopped(ctx, live, volumes=volumes)
    except RemovalInProgress:
        # --rm took it while it was being killed: that is what was asked for.
        await gone
    finally:
        live.doomed = False


async def _end(ctx: Context, live: Live) -> None:
    """Kill it and keep it from coming back."""
    async with live.lock:
        live.container.facts = machine.stop_asked(live.facts)
        ended = stop.cancel_restart(live)
        waiter = stop.exit_of(live) if live.facts.alive else None
    if ended:
        live.resolve(live.exits, Outcome(live.facts.exit_code))
    if waiter is not None:
        await stop.deliver(ctx, live, 9)
        try:
            async with asyncio.timeout(_KILL_TIMEOUT):
                await waiter
        except TimeoutError:
            raise Conflict(f"cannot remove container \"{live.container.slashed}\": could not kill container: tried to "
                           "kill container, but did not receive an exit event") from None


async def prune(ctx: Context, wanted: filters.Filters) -> dict[str, Any]:
    """Remove the stopped containers that pass ``wanted`` (label, label!, until); docker's answer."""
    limit = [_until(value) for value in wanted.get("until", [])]
    deleted, space = [], 0
    for live in ctx.registry:
        container = live.container
        if live.facts.alive or live.facts.status in (machine.Status.RESTARTING, machine.Status.REMOVING):
            continue
        if any(clock.parse(container.created) > moment for moment in limit):
            continue
        labels = container.config.labels
        if not filters.match_labels(wanted.get("label", []), labels) or (
                "label!" in wanted and filters.match_labels(wanted["label!"], labels)):
            continue
        try:
            size = await ctx.snapshots.container_size(live.id)
            await ctx.tasks.shielded(remove_stopped(ctx, live, volumes=False), f"prune {live.id[:12]}")
        except BarqueError as error:
            log.warning("container %s cannot be pruned: %s", live.id[:12], error.message)
            continue
        deleted.append(live.id)
        space += size
    ctx.emit("container", "prune", "", {"reclaimed": str(space)})
    return {"ContainersDeleted": deleted or None, "SpaceReclaimed": space}


def _until(text: str) -> int:
    """Nanoseconds since the epoch of a time, Unix seconds or an age such as ``24h``; raises InvalidArgument."""
    moment = clock.parse_moment(text, time.time_ns())
    if moment is None:
        raise filters.InvalidFilterValue(key="until", value=text)
    return moment
