"""RUN steps as containers of this engine: created, followed, and gone when the step is over."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

from barque.build.ports import STDERR, STDOUT, RunOrder, StepExit
from barque.engine.containers import create, remove, start, wait
from barque.engine.containers.attach import Attachment
from barque.engine.containers.context import Context
from barque.engine.containers.options import (
    ContainerConfig,
    HostConfig,
    LogConfig,
    MountSpec,
    TmpfsOptions,
    Ulimit,
)
from barque.engine.containers.ports import ResolvedImage
from barque.engine.containers.registry import NoSuchContainer, Outcome
from barque.oci.image import ImageConfig
from barque.oci.platform import Platform

#: Marks the containers of builds, so that boot removes those of a daemon that died.
BUILD = "org.barque.build"
_HEADER = 8
_STREAMS = {1: STDOUT, 2: STDERR}


class _StepImage:
    """What the container is made from: layers that no image has yet."""

    def __init__(self, image_id: str, chain_id: str | None) -> None:
        self.id = image_id
        self.chain_id = chain_id
        self.config = ImageConfig()
        self.size = 0


class _StepImages:
    """Meets ImageResolver for one container."""

    def __init__(self, image: _StepImage) -> None:
        self._image = image

    async def resolve(self, text: str, platform: Platform | None = None) -> ResolvedImage:
        return self._image

    async def get(self, image_id: str) -> ResolvedImage | None:
        return self._image


class RunningContainer:
    def __init__(self, container_id: str, attachment: Attachment, outcome: asyncio.Future[Outcome], ctx: Context,
                 mount_points: tuple[str, ...]) -> None:
        self.id = container_id
        self.mount_points = mount_points
        self._attachment = attachment
        self._outcome = outcome
        self._ctx = ctx

    async def output(self) -> AsyncIterator[tuple[int, bytes]]:
        streams = await self._attachment.streams()
        if streams is None:
            return
        reader, writer = streams
        try:
            while True:
                try:
                    header = await reader.readexactly(_HEADER)
                    data = await reader.readexactly(int.from_bytes(header[4:], "big"))
                except (asyncio.IncompleteReadError, ConnectionError):
                    return
                yield _STREAMS.get(header[0], STDOUT), data
        finally:
            writer.close()

    async def wait(self) -> StepExit:
        outcome = await self._outcome
        facts = self._ctx.registry.find(self.id).facts
        return StepExit(outcome.exit_code, facts.oom_killed, outcome.error)


class ContainerSteps:
    """Meets ``barque.build.ports.StepRunner``."""

    def __init__(self, ctx: Context) -> None:
        self._ctx = ctx

    @asynccontextmanager
    async def run(self, order: RunOrder) -> AsyncIterator[RunningContainer]:
        image = _StepImage(order.image_id, order.chain_id)
        made = await create.create(replace(self._ctx, images=_StepImages(image)), "", _config(order), _host(order),
                                   None)
        try:
            attachment = Attachment(self._ctx, self._ctx.registry.find(made.id), stdin=False, stdout=True, stderr=True)
            outcome = wait.wait(self._ctx, made.id, "next-exit")
            await start.start(self._ctx, made.id)
            # Volumes stay, as docker leaves them in layers too.
            own = (*(bind.target for bind in order.binds), *(mount.target for mount in order.tmpfs))
            yield RunningContainer(made.id, attachment, outcome, self._ctx, own)
        finally:
            await asyncio.shield(self._gone(made.id))

    async def _gone(self, container_id: str) -> None:
        try:
            await remove.remove(self._ctx, container_id, force=True, volumes=True, link=False)
        except NoSuchContainer:
            return  # someone else removed it

    async def clean(self) -> None:
        """At boot: remove what is left of steps whose build died with its daemon."""
        for live in list(self._ctx.registry):
            if BUILD in (live.container.host_config.annotations or {}):
                await self._gone(live.id)


def _config(order: RunOrder) -> ContainerConfig:
    return ContainerConfig(
        image=order.image_id or "scratch", cmd=list(order.command), env=list(order.env), user=order.user,
        working_dir=order.working_dir, attach_stdout=True, attach_stderr=True,
        volumes={path: {} for path in order.volumes} or None)


def _host(order: RunOrder) -> HostConfig:
    limits = order.limits
    mounts = [MountSpec(type="bind", source=bind.source, target=bind.target, read_only=bind.readonly)
              for bind in order.binds]
    mounts += [MountSpec(type="tmpfs", target=mount.target, read_only=mount.readonly,
                         tmpfs_options=TmpfsOptions(size_bytes=mount.size)) for mount in order.tmpfs]
    return HostConfig(
        annotations={BUILD: "true"}, log_config=LogConfig(type="none"), network_mode=order.network,
        privileged=order.privileged, extra_hosts=list(order.extra_hosts) or None, mounts=mounts or None,
        memory=limits.memory, memory_swap=limits.memory_swap, cpu_shares=limits.cpu_shares,
        cpu_period=limits.cpu_period, cpu_quota=limits.cpu_quota, cpuset_cpus=limits.cpuset_cpus,
        cpuset_mems=limits.cpuset_mems, cgroup_parent=limits.cgroup_parent, shm_size=limits.shm_size,
        security_opt=list(limits.security_opt) or None,
        ulimits=[Ulimit(name=name, soft=soft, hard=hard) for name, soft, hard in limits.ulimits] or None)
