"""Take a container that does not run away: the row first; what a crash leaves behind goes at the next boot."""

from __future__ import annotations

import shutil

from barque.engine.containers import image_mounts, machine, volume_use
from barque.engine.containers.context import Context
from barque.engine.containers.registry import Live, NoSuchContainer, Outcome
from barque.errors import Conflict
from barque.failpoints import hit


class StillRunning(Conflict):
    text = 'cannot remove container "{name}": container is {state}: stop the container before removing or force remove'


class RemovalInProgress(Conflict):
    text = "removal of container {id} is already in progress"


async def remove_stopped(ctx: Context, live: Live, *, volumes: bool) -> None:
    """Remove a container that does not run; raises RemovalInProgress when that is happening already."""
    if live.removed or live.facts.status is machine.Status.REMOVING:
        raise RemovalInProgress(id=live.id)
    async with live.lock:
        if live.removed:
            raise NoSuchContainer(ref=live.id)
        if live.facts.alive or live.facts.status is machine.Status.RESTARTING:
            raise StillRunning(name=live.container.slashed, state=live.facts.status)
        code = live.facts.exit_code
        live.container.facts = machine.removing(live.facts)
        try:
            with ctx.metrics.timed("container", "delete"):
                await take_away(ctx, live, volumes=volumes)
        except BaseException as error:
            live.container.facts = machine.remove_failed(live.facts, str(error))
            raise
        live.removed = True
    ctx.event(live, "destroy")
    live.resolve(live.exits, Outcome(code))
    live.resolve(live.removals, Outcome(code))
    for pending in live.attaching:
        pending.give_up()


async def take_away(ctx: Context, live: Live, *, volumes: bool) -> None:
    """The row, then the writable layer, the anonymous volumes and the files."""
    await ctx.registry.discard(live)
    hit("container.remove.after-row")
    await ctx.snapshots.remove_container(live.id)
    await image_mounts.drop(ctx, live.container)
    if volumes:
        await volume_use.remove_anonymous(ctx, live.container)
    shutil.rmtree(ctx.state_dir(live.id), ignore_errors=True)
