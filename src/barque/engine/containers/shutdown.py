"""The daemon goes down and takes the containers with it: each is stopped, and its policy may bring it up next time."""

from __future__ import annotations

import asyncio
import logging

from barque.engine.containers import stop
from barque.engine.containers.context import Context
from barque.engine.containers.registry import Live
from barque.engine.signals import DEFAULT_STOP, parse_signal
from barque.errors import BarqueError
from barque.runtime.failure import RuntimeFailure

log = logging.getLogger("barque.engine")


async def stop_all(ctx: Context, timeout: float) -> None:
    """Stop what runs, all at once; a container that asks for more time than ``timeout`` seconds gets it."""
    running = [live for live in ctx.registry if live.facts.alive]
    for live in ctx.registry:
        live.keep_down = True
        live.cancel("restart")
    results = await asyncio.gather(*(_stop(ctx, live, timeout) for live in running), return_exceptions=True)
    for live, result in zip(running, results, strict=True):
        if isinstance(result, BaseException):
            log.error("container %s did not stop: %s", live.id[:12], result)


async def _stop(ctx: Context, live: Live, timeout: float) -> None:
    """Unlike a stop by hand this leaves no mark: ``unless-stopped`` comes up again."""
    config = live.container.config
    waiter = stop.exit_of(live)
    number = parse_signal(config.stop_signal) if config.stop_signal else int(DEFAULT_STOP)
    try:
        await stop.deliver(ctx, live, number)
        patience = max(timeout, config.stop_timeout or 0) if timeout >= 0 else None
        done, _ = await asyncio.wait({waiter}, timeout=patience)
        if not done:
            await stop.deliver(ctx, live, 9)
            await asyncio.wait({waiter}, timeout=timeout)
    except (BarqueError, RuntimeFailure):
        if live.facts.alive:
            raise
