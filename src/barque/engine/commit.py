"""``docker commit``: an image of what a container has become."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from barque.build.args import Expansion
from barque.build.dockerfile.instructions import Workdir
from barque.build.dockerfile.parser import parse_one
from barque.build.export import Exporter
from barque.build.layers import LayerStore
from barque.build.state import State
from barque.build.steps import config as steps
from barque.engine import clock
from barque.engine.containers import machine, stop
from barque.engine.containers.context import Context
from barque.engine.containers.options import ContainerConfig, words
from barque.engine.containers.registry import Live
from barque.errors import Conflict, InvalidArgument, NotFound
from barque.image.resolve import Images
from barque.oci import go_json
from barque.oci.image import Healthcheck, RunConfig
from barque.oci.platform import Platform
from barque.oci.reference import Reference
from barque.store.leases import Leases

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

#: What ``--change`` takes.
_CHANGES = frozenset(["cmd", "entrypoint", "healthcheck", "env", "expose", "label", "onbuild", "stopsignal", "user",
                      "volume", "workdir"])


@dataclass(frozen=True, kw_only=True)
class CommitOptions:
    """``config`` None: the container's own. ``name`` None leaves the image without a name."""

    name: Reference | None = None
    comment: str = ""
    author: str = ""
    pause: bool = True
    changes: Sequence[str] = ()
    config: ContainerConfig | None = None


class Committer:
    def __init__(self, ctx: Context, images: Images, leases: Leases, layers: LayerStore, exporter: Exporter) -> None:
        self._ctx = ctx
        self._images = images
        self._leases = leases
        self._layers = layers
        self._exporter = exporter

    async def commit(self, ref: str, options: CommitOptions) -> str:
        """Make the image and give its id. The container is frozen for the time unless told otherwise."""
        live = self._ctx.registry.find(ref)
        if live.facts.status in (machine.Status.REMOVING, machine.Status.DEAD):
            raise Conflict(f"You cannot commit container {live.id} which is {live.facts.status}")
        config = changed(live.container.config, options)
        with self._ctx.metrics.timed("container", "commit"):
            return await self._ctx.tasks.shielded(self._commit(live, config, options), f"commit {live.id[:12]}")

    async def _commit(self, live: Live, config: RunConfig, options: CommitOptions) -> str:
        container = live.container
        image = await self._images.get(container.image_id)
        if image is None:
            raise NotFound(f"No such image: {container.image_id}")
        base = image.config
        state = State(
            platform=Platform(os=base.os or "linux", architecture=base.architecture, variant=base.variant),
            config=config, layers=image.manifest.layers, diff_ids=base.rootfs.diff_ids, chain_id=image.chain_id,
            history=base.history or (), author=options.author, created=base.created, image_id=image.id)
        async with self._leases.hold(f"commit {live.id}") as lease, self._frozen(live, options.pause):
            layer = await self._layers.copy(lease, self._ctx.supervisor, live.id, container.chain_id)
            state = state.stepped(clock.now(), " ".join(words(container.config.cmd)), layer, options.comment)
            await self._exporter.export(lease, state, [options.name] if options.name else [], image.id)
        named = options.name.with_default_tag().familiar if options.name else ""
        self._ctx.event(live, "commit", comment=options.comment, imageID=state.image_id, imageRef=named)
        return state.image_id

    @asynccontextmanager
    async def _frozen(self, live: Live, wanted: bool) -> AsyncIterator[None]:
        frozen = False
        if wanted and live.facts.status is machine.Status.RUNNING:
            with contextlib.suppress(Conflict):  # it ends this very moment, or somebody else has frozen it
                await stop.pause(self._ctx, live.id)
                frozen = True
        try:
            yield
        finally:
            if frozen:
                with contextlib.suppress(stop.NotPaused):  # ended, or thawed by somebody else
                    await stop.unpause(self._ctx, live.id)


def changed(own: ContainerConfig, options: CommitOptions) -> RunConfig:
    """The image's configuration: what the client sent, or the container's own, with the changes; over both stands
    what the container has and the client left out. Raises InvalidArgument.
    """
    config = apply_changes(run_config(options.config or own), options.changes)
    return _completed(config, run_config(own)) if options.config else config


def apply_changes(config: RunConfig, changes: Sequence[str]) -> RunConfig:
    """``config`` after Dockerfile instructions, one a line. Raises InvalidArgument."""
    state = State(platform=Platform(), config=config)
    for text in changes:
        for line in filter(str.strip, text.splitlines()):
            state = _change(state, line)
    return state.config


def _change(state: State, line: str) -> State:
    step = parse_one(line)
    if step.keyword.lower() not in _CHANGES:
        raise InvalidArgument(f"{step.keyword.lower()} is not a valid change command")
    expansion = Expansion(state.env, "\\")
    step = step.expanded(expansion)
    if isinstance(step, Workdir):
        path = steps.working_directory(state.config.working_dir, step.path)
        return state.configured(msgspec.structs.replace(state.config, working_dir=path))
    return steps.apply(state, step, expansion).state


def run_config(config: ContainerConfig) -> RunConfig:
    """The part of a container's configuration that an image can have."""
    health = config.healthcheck
    return RunConfig(
        user=config.user, exposed_ports=config.exposed_ports, env=tuple(config.env or ()) or None,
        entrypoint=tuple(words(config.entrypoint)) or None, cmd=tuple(words(config.cmd)) or None,
        volumes=config.volumes, working_dir=config.working_dir, labels=config.labels or None,
        stop_signal=config.stop_signal, stop_timeout=config.stop_timeout,
        healthcheck=Healthcheck(test=tuple(health.test or ()) or None, interval=health.interval,
                                timeout=health.timeout, start_period=health.start_period,
                                start_interval=health.start_interval, retries=health.retries) if health else None,
        on_build=tuple(config.on_build or ()) or None, shell=tuple(config.shell or ()) or None)


def _completed(config: RunConfig, own: RunConfig) -> RunConfig:
    env = {item.partition("=")[0]: item for item in (*(own.env or ()), *(config.env or ()))}
    command = (config.entrypoint, config.cmd) if config.entrypoint or config.cmd else (own.entrypoint, own.cmd)
    return msgspec.structs.replace(
        own, user=config.user or own.user, env=tuple(env.values()) or None, entrypoint=command[0], cmd=command[1],
        exposed_ports=go_json.merged(own.exposed_ports, config.exposed_ports) or None,
        volumes=go_json.merged(own.volumes, config.volumes) or None,
        labels=go_json.merged(own.labels, config.labels) or None,
        working_dir=config.working_dir or own.working_dir, stop_signal=config.stop_signal or own.stop_signal,
        healthcheck=config.healthcheck or own.healthcheck, on_build=config.on_build or own.on_build,
        shell=config.shell or own.shell)
