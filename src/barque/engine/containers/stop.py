"""Stop, kill, pause: what is done to a running process from outside. No lock is held while waiting for its end."""

from __future__ import annotations

import asyncio
import errno
import signal

from barque.engine.containers import machine
from barque.engine.containers.cgroup import container_cgroup
from barque.engine.containers.context import Context
from barque.engine.containers.machine import Status
from barque.engine.containers.registry import Live, Outcome
from barque.engine.signals import DEFAULT_STOP, parse_signal
from barque.errors import Conflict, Internal, NotModified
from barque.runtime.failure import RuntimeFailure

DEFAULT_TIMEOUT = 10
#: How long SIGKILL may take before it is an error (a process in uninterruptible sleep).
_KILL_PATIENCE = 10.0
#: Of a cgroup whose last process has ended: its directory, or the open file of it, is no more.
_CGROUP_GONE = (errno.ENOENT, errno.ENODEV)


class CannotKill(Conflict):
    text = "cannot kill container: {ref}: container {id} is not running"


class NotPaused(Internal):
    text = "Container {id} is not paused"


def exit_of(live: Live) -> asyncio.Future[Outcome]:
    """Resolves when the container has ended (and is not about to restart)."""
    future: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
    live.exits.add(future)
    future.add_done_callback(live.exits.discard)
    return future


def cancel_restart(live: Live) -> bool:
    """Give up a restart that is due; True where there was one. The caller holds the lock and wakes those who wait."""
    live.cancel("restart")
    if live.facts.status is Status.RESTARTING:
        live.container.facts = machine.restart_given_up(live.facts)
        return True
    return False


async def deliver(ctx: Context, live: Live, number: int) -> None:
    """Send a signal to PID 1 and say so; a frozen container is thawed so that it can take it."""
    monitor = live.monitor
    if monitor is None:
        return
    live.killed = live.killed or number == signal.SIGKILL
    try:
        await monitor.signal(number)
    except RuntimeFailure as failure:
        if failure.errno != errno.ESRCH:
            raise
        return  # it has ended by itself; the news is on its way
    if await _thaw(ctx, live):
        ctx.event(live, "unpause")
    ctx.event(live, "kill", signal=str(number))


async def kill(ctx: Context, ref: str, name: str) -> None:
    live = ctx.registry.find(ref)
    number = parse_signal(name) if name else 9
    if not live.facts.alive:
        raise CannotKill(ref=ref, id=live.id)
    stopping = parse_signal(live.container.config.stop_signal) if live.container.config.stop_signal else DEFAULT_STOP
    waiter = None
    if number in (9, stopping):
        live.container.facts = machine.stop_asked(live.facts)
    if number == 9:
        waiter = exit_of(live)
    await deliver(ctx, live, number)
    if waiter is not None:
        await _killed(live, waiter)


async def _killed(live: Live, waiter: asyncio.Future[Outcome]) -> None:
    try:
        async with asyncio.timeout(_KILL_PATIENCE):
            await waiter
    except TimeoutError:
        raise Internal(f"Container {live.id} PID {live.facts.pid} is zombie and can not be killed. Use the --init "
                       "option when creating containers to run an init inside the container that forwards signals "
                       "and reaps processes") from None


async def stop(ctx: Context, ref: str, timeout: int | None, name: str) -> None:
    """Ask it to end; after ``timeout`` seconds (negative: never) it is killed. Raises NotModified when it is not
    running.
    """
    live = ctx.registry.find(ref)
    number = parse_signal(name) if name else None
    if not live.facts.alive and live.facts.status is not Status.RESTARTING:
        raise NotModified("container already stopped")
    await ctx.tasks.shielded(end(ctx, live, timeout, number), f"stop {live.id[:12]}")
    ctx.event(live, "stop")


async def end(ctx: Context, live: Live, timeout: int | None, number: int | None = None) -> None:
    """Bring it down and wait for that, by its own stop signal and timeout unless they are given."""
    async with live.lock:
        live.container.facts = machine.stop_asked(live.facts)
        ended = cancel_restart(live)
        if ended:
            await ctx.registry.save(live)
        waiter = exit_of(live) if live.facts.alive else None
    if ended:
        live.resolve(live.exits, Outcome(live.facts.exit_code))
    if waiter is not None:
        await _bring_down(ctx, live, waiter, timeout, number)


async def bring_down(ctx: Context, live: Live) -> None:
    """End it without leaving a mark that somebody asked for it: the restart policy decides what follows."""
    if live.facts.alive:
        await _bring_down(ctx, live, exit_of(live), None, None)


async def _bring_down(ctx: Context, live: Live, waiter: asyncio.Future[Outcome], timeout: int | None,
                      number: int | None) -> None:
    config = live.container.config
    number = number or (parse_signal(config.stop_signal) if config.stop_signal else int(DEFAULT_STOP))
    if timeout is None:
        timeout = config.stop_timeout if config.stop_timeout is not None else DEFAULT_TIMEOUT
    await deliver(ctx, live, number)
    done, _ = await asyncio.wait({waiter}, timeout=None if timeout < 0 else timeout)
    if not done:
        await deliver(ctx, live, 9)
        await _killed(live, waiter)


async def pause(ctx: Context, ref: str) -> None:
    live = ctx.registry.find(ref)
    async with live.lock:
        if live.facts.status is Status.PAUSED:
            raise Conflict(f"Container {live.id} is already paused")
        if live.facts.status is not Status.RUNNING or live.killed:
            raise machine.NotRunning(id=live.id)
        cgroup = container_cgroup(live)
        live.container.facts = machine.paused(live.facts)
        try:
            await live.execs.wait_quiet()
            await asyncio.to_thread(cgroup.freeze)
        except BaseException as error:
            live.container.facts = machine.resumed(live.facts)
            if isinstance(error, OSError) and error.errno in _CGROUP_GONE:
                # It has ended by itself; the news waits for the lock.
                raise machine.NotRunning(id=live.id) from None
            raise
        await ctx.registry.save(live)
    ctx.event(live, "pause")


async def unpause(ctx: Context, ref: str) -> None:
    live = ctx.registry.find(ref)
    if not await _thaw(ctx, live):
        raise NotPaused(id=live.id)
    ctx.event(live, "unpause")


async def _thaw(ctx: Context, live: Live) -> bool:
    """False where it is not frozen (any more)."""
    if live.facts.status is not Status.PAUSED:
        return False
    async with live.lock:
        if live.facts.status is not Status.PAUSED:
            return False
        try:
            await asyncio.to_thread(container_cgroup(live).thaw)
        except OSError as error:
            if error.errno not in _CGROUP_GONE:
                raise
        await ctx.registry.set_facts(live, machine.resumed(live.facts))
    return True
