"""Wait for a container to end or to be gone. The caller is registered before this returns, so that nothing is
missed.
"""

from __future__ import annotations

import asyncio

from barque.engine.containers.context import Context
from barque.engine.containers.machine import Status
from barque.engine.containers.registry import Outcome
from barque.engine.containers.stop import exit_of
from barque.errors import InvalidArgument

CONDITIONS = ("", "not-running", "next-exit", "removed")


def wait(ctx: Context, ref: str, condition: str) -> asyncio.Future[Outcome]:
    """``condition`` is not-running (also ""), next-exit or removed; raises InvalidArgument, NoSuchContainer."""
    if condition not in CONDITIONS:
        raise InvalidArgument(f'invalid condition: "{condition}"')
    live = ctx.registry.find(ref)
    if condition == "removed":
        future: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        live.removals.add(future)
        future.add_done_callback(live.removals.discard)
        return future
    if condition != "next-exit" and not live.facts.alive and live.facts.status is not Status.RESTARTING:
        done: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        done.set_result(Outcome(live.facts.exit_code, live.facts.error))
        return done
    return exit_of(live)
