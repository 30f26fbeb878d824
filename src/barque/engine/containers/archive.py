"""``docker cp`` and ``export``: files of a container as tar archives, by a process that sees nothing else.

A container that runs is looked at from inside its own mounts. One that does not is mounted for the occasion, under its
lock, so that it does not start over a second mount of its layer.
"""

from __future__ import annotations

import os
import posixpath
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from barque.engine import worker_streams
from barque.engine.containers import volume_use
from barque.engine.containers.context import Context
from barque.engine.containers.model import Container, MountPoint
from barque.engine.containers.registry import Live, NoSuchContainer
from barque.engine.containers.stop import exit_of
from barque.errors import BarqueError, Internal, InvalidArgument, NotFound
from barque.oci import runtime_spec as oci
from barque.store.tar.messages import WorkerError, decode, encode
from barque.store.workers import Workers
from barque.supervise.archive_messages import (
    ReadRequest,
    Result,
    StatRequest,
    StatResult,
    View,
    Volume,
    WriteRequest,
)


class NoSuchFile(NotFound):
    text = "Could not find the file {path} in container {ref}"


def _failure(error: WorkerError, ref: str, path: str) -> BarqueError:
    if error.kind == "missing":
        return NoSuchFile(path=path, ref=ref)
    if error.kind in ("invalid", "readonly"):
        return InvalidArgument(error.message)
    return Internal(error.message)


@asynccontextmanager
async def _view(ctx: Context, live: Live) -> AsyncIterator[tuple[View, list[int]]]:
    """The container's files, and the descriptors that the value speaks of."""
    while True:
        if live.facts.alive:
            fd = _mounts_of_its_process(live)
            if fd is None:
                await exit_of(live)
                continue
            try:
                yield View(namespace=0), [fd]
            finally:
                os.close(fd)
            return
        async with live.lock:
            if live.removed:
                raise NoSuchContainer(ref=live.id)
            if live.facts.alive:
                continue  # it was started meanwhile
            async with _at_rest(ctx, live.container) as view:
                yield view, []
            return


def _mounts_of_its_process(live: Live) -> int | None:
    """None: it has ended, and the engine has yet to hear of it."""
    try:
        return os.open(f"/proc/{live.facts.pid}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    except (FileNotFoundError, ProcessLookupError):
        return None


@asynccontextmanager
async def _at_rest(ctx: Context, container: Container) -> AsyncIterator[View]:
    mount = await ctx.snapshots.container_mount(container.id)
    try:
        shown = await volume_use.prepare(ctx, container)
        volumes = [Volume(_source(point, shown), point.destination, point.rw) for point in container.mounts
                   if point.type in ("bind", "volume", "image")]
        yield View(lower=list(mount.lower), upper=mount.upper, work=mount.work, volumes=volumes)
    finally:
        await volume_use.release(ctx, container)


def _source(point: MountPoint, shown: dict[str, oci.Mount]) -> str:
    return shown[point.destination].source if point.destination in shown else point.source


async def stat(ctx: Context, ref: str, path: str) -> StatResult:
    """What is at ``path``; a last link is not followed. Raises :class:`NoSuchFile`."""
    live = ctx.registry.find(ref)
    async with _view(ctx, live) as (view, fds):
        answer = await ctx.supervisor.run("archive-stat", encode(StatRequest(view, os.fsencode(path))), fds)
    result = decode(answer, StatResult)
    if result.error is not None:
        raise _failure(result.error, ref, path)
    return result


async def read(ctx: Context, ref: str, path: str) -> AsyncIterator[bytes]:
    """The tar archive of ``path``, in pieces."""
    live = ctx.registry.find(ref)
    async for piece in _read(ctx, live, path, whole=False):
        yield piece
    ctx.event(live, "archive-path")


async def export(ctx: Context, ref: str) -> AsyncIterator[bytes]:
    """The tar archive of the container's root file system, without what is mounted in it."""
    live = ctx.registry.find(ref)
    async for piece in _read(ctx, live, "/", whole=True):
        yield piece
    ctx.event(live, "export")


async def _read(ctx: Context, live: Live, path: str, *, whole: bool) -> AsyncIterator[bytes]:
    async with _view(ctx, live) as (view, fds):
        async for piece in streamed(ctx.supervisor, view, fds, path, live.id, whole=whole):
            yield piece


async def streamed(workers: Workers, view: View, fds: Sequence[int], path: str, ref: str, *,
                   whole: bool) -> AsyncIterator[bytes]:
    """The tar archive of ``path`` in the view; ``ref`` is for what may be wrong. Raises :class:`NoSuchFile`."""
    def check(answer: bytes) -> None:
        error = decode(answer, Result).error
        if error is not None:
            raise _failure(error, ref, path)

    request = ReadRequest(view, os.fsencode(path), len(fds), whole)
    async for piece in worker_streams.read(workers, "archive-read", encode(request), lambda end: [*fds, end], check):
        yield piece


async def write(ctx: Context, ref: str, path: str, archive: AsyncIterator[bytes], *,
                keep_kinds: bool, keep_owner: bool) -> None:
    """Unpack ``archive`` into the directory ``path``. ``keep_owner``: all of it belongs to the container's user then.

    Raises :class:`NoSuchFile`, InvalidArgument; what was unpacked by then stays.
    """
    live = ctx.registry.find(ref)
    _check_writable(live.container, path)
    async with _view(ctx, live) as (view, fds):
        request = WriteRequest(view, os.fsencode(path), len(fds), keep_kinds,
                               live.container.config.user if keep_owner else "")
        answer = await worker_streams.feed(ctx.supervisor, "archive-write", encode(request),
                                           lambda end: [*fds, end], archive)
    error = decode(answer, Result).error
    if error is not None:
        raise _failure(error, ref, path)
    ctx.event(live, "extract-to-dir")


def _check_writable(container: Container, path: str) -> None:
    target = posixpath.normpath("/" + path.lstrip("/"))
    below = [point for point in container.mounts
             if target == point.destination or target.startswith(point.destination + "/")]
    if below:
        if not max(below, key=lambda point: len(point.destination)).rw:
            raise InvalidArgument("mounted volume is marked read-only")
    elif container.host_config.readonly_rootfs:
        raise InvalidArgument("container rootfs is marked read-only")
