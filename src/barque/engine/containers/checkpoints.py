"""Checkpoints: the state of a running container as files, which a later start goes on from.

They are kept beside the container, or in a directory of the client's. One that is listed is whole.
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil

import msgspec

from barque.engine.containers import machine
from barque.engine.containers.context import Context
from barque.engine.containers.registry import Live
from barque.engine.containers.stop import exit_of
from barque.errors import Conflict, Internal, InvalidArgument, NotFound, Unsupported
from barque.supervise.backend import as_error
from barque.supervise.checkpoint import CheckpointRequest, CheckpointResult
from barque.supervise.messages import Checkpoint

_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]+\Z")


class InvalidName(InvalidArgument):
    text = "Invalid checkpoint ID ({name}), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed"


class CheckpointExists(Conflict):
    text = "cannot checkpoint container {ref}: checkpoint with name {name} already exists for container {ref}"


class NoSuchCheckpoint(NotFound):
    text = "checkpoint {name} does not exist for container {ref}"


class NotRunning(Conflict):
    text = "Container {ref} not running"


class Paused(Conflict):
    text = "Container {ref} is paused. Unpause the container before the checkpoint"


class CheckpointOptions(msgspec.Struct, rename="pascal"):
    """As the client sends it; ``checkpoint_dir`` instead of the engine's own place, ``exit`` ends the container."""

    checkpoint_id: str = msgspec.field(default="", name="CheckpointID")
    checkpoint_dir: str = ""
    exit: bool = False


def _folder(ctx: Context, live: Live, directory: str) -> str:
    if directory and not os.path.isabs(directory):
        raise InvalidArgument(f"invalid checkpoint directory {directory!r}: must be an absolute path")
    return directory or f"{ctx.state_dir(live.id)}/checkpoints"


def _work(ctx: Context, live: Live) -> str:
    """criu's logs, which say why it did not work."""
    return f"{ctx.state_dir(live.id)}/criu"


def _check_runtime(ctx: Context, live: Live) -> None:
    if live.container.host_config.runtime in ctx.config.runtimes:
        raise Unsupported("checkpoints are only for containers of the engine's own runtime")


async def create(ctx: Context, ref: str, options: CheckpointOptions) -> None:
    """Write a checkpoint; with ``exit`` the container has ended then. It runs on where this fails."""
    live = ctx.registry.find(ref)
    if not live.facts.alive:
        raise NotRunning(ref=live.container.name)
    name = options.checkpoint_id
    if not _NAME.match(name):
        raise InvalidName(name=name)
    folder = _folder(ctx, live, options.checkpoint_dir)
    path = os.path.join(folder, name)
    if os.path.lexists(path):
        raise CheckpointExists(ref=ref, name=name)
    await ctx.tasks.shielded(_create(ctx, live, ref, path, end=options.exit), f"checkpoint {live.id[:12]}")
    ctx.event(live, "checkpoint")


async def _create(ctx: Context, live: Live, ref: str, path: str, *, end: bool) -> None:
    folder, name = os.path.split(path)
    unfinished = os.path.join(folder, f".{name}")
    async with live.lock:
        if live.facts.status is machine.Status.PAUSED:
            raise Paused(ref=live.container.name)
        if live.facts.status is not machine.Status.RUNNING or live.monitor is None:
            raise NotRunning(ref=live.container.name)
        _check_runtime(ctx, live)
        before = live.facts
        waiter = exit_of(live) if end else None
        if end:
            # It ends because somebody asked for it: the restart policy stays away.
            live.container.facts = machine.stop_asked(before)
        request = CheckpointRequest(
            pid=before.pid, bundle=f"{ctx.run_dir(live.id)}/bundle", cgroup=live.monitor.cgroup,
            checkpoint=Checkpoint(unfinished, _work(ctx, live)), leave_running=not end)
        try:
            await live.execs.wait_quiet()
            await asyncio.to_thread(shutil.rmtree, unfinished, ignore_errors=True)
            answer = await ctx.supervisor.run("checkpoint", msgspec.json.encode(request), [])
            failure = msgspec.json.decode(answer, type=CheckpointResult).failure
            if failure is not None:
                raise Internal(f"Cannot checkpoint container {ref}: {as_error(failure)}")
            os.rename(unfinished, path)
        except BaseException:
            live.container.facts = before
            if waiter is not None:
                waiter.cancel()
            await asyncio.to_thread(shutil.rmtree, unfinished, ignore_errors=True)
            raise
    if waiter is not None:
        await waiter


def names(ctx: Context, ref: str, directory: str) -> list[str]:
    live = ctx.registry.find(ref)
    try:
        with os.scandir(_folder(ctx, live, directory)) as entries:
            return sorted(entry.name for entry in entries if _NAME.match(entry.name) and entry.is_dir())
    except FileNotFoundError:
        return []


async def remove(ctx: Context, ref: str, name: str, directory: str) -> None:
    live = ctx.registry.find(ref)
    await asyncio.to_thread(shutil.rmtree, _find(ctx, live, name, directory).images)


def to_start_from(ctx: Context, live: Live, name: str, directory: str) -> Checkpoint:
    """Raises :class:`NoSuchCheckpoint`, Unsupported."""
    _check_runtime(ctx, live)
    return _find(ctx, live, name, directory)


def _find(ctx: Context, live: Live, name: str, directory: str) -> Checkpoint:
    """Raises :class:`NoSuchCheckpoint`."""
    path = os.path.join(_folder(ctx, live, directory), name)
    if not _NAME.match(name) or not os.path.isdir(path):
        raise NoSuchCheckpoint(name=name, ref=live.container.slashed)
    return Checkpoint(path, _work(ctx, live))
