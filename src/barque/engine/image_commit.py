"""``POST /commit``: an image of a container, with its configuration or another one."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Protocol

import msgspec

from barque.engine.containers.context import Context
from barque.engine.containers.machine import Status
from barque.engine.containers.options import ContainerConfig, Healthcheck, words
from barque.engine.containers.registry import Live
from barque.engine.containers.stop import pause, unpause
from barque.errors import NotFound
from barque.image.commit import CommitRequest, Committer
from barque.image.imports import Changes
from barque.image.resolve import ResolvedImage
from barque.oci.image import Healthcheck as ImageHealthcheck
from barque.oci.image import RunConfig
from barque.oci.reference import Reference


@dataclass(frozen=True)
class CommitOrder:
    """``config`` takes the place of the container's, where given; ``changes`` are Dockerfile instructions on top."""

    container: str
    ref: Reference | None = None
    author: str = ""
    comment: str = ""
    pause: bool = True
    changes: tuple[str, ...] = ()
    config: ContainerConfig | None = None


class Parents(Protocol):
    async def get(self, image_id: str) -> ResolvedImage | None: ...


class Commits:
    def __init__(self, ctx: Context, images: Parents, committer: Committer, changes: Changes) -> None:
        self._ctx = ctx
        self._images = images
        self._committer = committer
        self._changes = changes

    async def commit(self, order: CommitOrder) -> str:
        """Returns the image's id. Raises NotFound (container, or its image), InvalidArgument (changes)."""
        live = self._ctx.registry.find(order.container)
        own = run_config(live.container.config)
        given = run_config(order.config) if order.config is not None else own
        run = merged(self._changes(given, order.changes), own)
        parent = await self._images.get(live.container.image_id) if live.container.image_id else None
        if parent is None and live.container.chain_id is not None:
            raise NotFound(f"No such image: {live.container.image_id}")
        request = CommitRequest(
            live.id, parent, run, order.author, order.comment, " ".join(words(live.container.config.cmd)), order.ref)
        async with self._still(live, order.pause):
            image_id = await self._ctx.tasks.shielded(self._committer.commit(request), f"commit of {live.id}")
        self._ctx.event(live, "commit", comment=order.comment, imageID=image_id,
                        imageRef=order.ref.familiar if order.ref else "")
        return image_id

    @asynccontextmanager
    async def _still(self, live: Live, wanted: bool) -> AsyncIterator[None]:
        """Nothing in the container runs meanwhile, unless the caller does not want that."""
        if not wanted or live.facts.status is not Status.RUNNING:
            yield
            return
        await pause(self._ctx, live.id)
        try:
            yield
        finally:
            await unpause(self._ctx, live.id)


def run_config(config: ContainerConfig) -> RunConfig:
    """What of a container's configuration belongs into an image."""
    health = config.healthcheck
    return RunConfig(
        user=config.user, exposed_ports=config.exposed_ports, env=_tuple(config.env),
        entrypoint=_tuple(words(config.entrypoint)) or None, cmd=_tuple(words(config.cmd)) or None,
        volumes=config.volumes, working_dir=config.working_dir, labels=config.labels, stop_signal=config.stop_signal,
        stop_timeout=config.stop_timeout, args_escaped=config.args_escaped, on_build=_tuple(config.on_build),
        shell=_tuple(config.shell), healthcheck=_health(health) if health is not None else None)


def _health(health: Healthcheck) -> ImageHealthcheck:
    return ImageHealthcheck(_tuple(health.test), health.interval, health.timeout, health.start_period,
                            health.start_interval, health.retries)


def _tuple(values: Sequence[str] | None) -> tuple[str, ...] | None:
    return tuple(values) if values is not None else None


def merged(given: RunConfig, own: RunConfig) -> RunConfig:
    """``given``, with what it leaves open taken from the container's: dockerd's rules."""
    env = list(given.env or ())
    set_already = {entry.partition("=")[0] for entry in env}
    env += [entry for entry in own.env or () if entry.partition("=")[0] not in set_already]
    cmd, entrypoint = given.cmd, given.entrypoint
    if not entrypoint:
        cmd = cmd or own.cmd
        entrypoint = own.entrypoint if entrypoint is None else entrypoint
    return msgspec.structs.replace(
        given, user=given.user or own.user, env=tuple(env) or None, cmd=cmd, entrypoint=entrypoint,
        exposed_ports={**(own.exposed_ports or {}), **(given.exposed_ports or {})} or None,
        volumes={**(own.volumes or {}), **(given.volumes or {})} or None,
        labels={**(own.labels or {}), **(given.labels or {})} or None,
        working_dir=given.working_dir or own.working_dir, healthcheck=given.healthcheck or own.healthcheck)
