"""What the use cases of containers share: the parts below, the registry, and the settings of this engine."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any, TypeVar

from barque.config import Config
from barque.engine.containers.ports import (
    ContainerSnapshots,
    Emit,
    ImageResolver,
    Networks,
    Supervisor,
    VolumeStore,
)
from barque.engine.containers.registry import Live, Registry
from barque.engine.host import Host
from barque.engine.metrics import Metrics
from barque.engine.volume_mounts import VolumeMounts

T = TypeVar("T")
log = logging.getLogger("barque.engine")


class Tasks:
    """The parent of every task that outlives the request which began it."""

    def __init__(self) -> None:
        self._running: set[asyncio.Task[Any]] = set()

    def spawn(self, work: Coroutine[Any, Any, T], name: str) -> asyncio.Task[T]:
        """Run in the background; what it raises is logged: nobody else will hear of it."""
        task = self._start(work, name)
        task.add_done_callback(_log_failure)
        return task

    async def shielded(self, work: Coroutine[Any, Any, T], name: str) -> T:
        """Run ``work`` to its end even when the client that asked for it goes away; what it raises is the caller's."""
        task = self._start(work, name)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            task.add_done_callback(_log_failure)
            raise

    def _start(self, work: Coroutine[Any, Any, T], name: str) -> asyncio.Task[T]:
        task = asyncio.create_task(work, name=name)
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return task

    async def close(self) -> None:
        """Cancel what still runs and wait for it."""
        while self._running:
            for task in self._running:
                task.cancel()
            await asyncio.wait(self._running)


def _log_failure(task: asyncio.Task[Any]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        log.error("%s failed", task.get_name(), exc_info=error)


@dataclass(kw_only=True)
class Context:
    """Only ``config`` is ever replaced, by a reload: who keeps a part of it keeps what was so when it began."""

    config: Config
    host: Host
    registry: Registry
    images: ImageResolver
    snapshots: ContainerSnapshots
    volumes: VolumeStore
    networks: Networks
    supervisor: Supervisor
    emit: Emit
    containers_dir: str
    tasks: Tasks = field(default_factory=Tasks)
    volume_mounts: VolumeMounts = field(default_factory=VolumeMounts)
    metrics: Metrics = field(default_factory=Metrics)

    def state_dir(self, container_id: str) -> str:
        """Where hostname, hosts, resolv.conf and the log of a container are, in the data root."""
        return f"{self.containers_dir}/{container_id}"

    def run_dir(self, container_id: str) -> str:
        """Where the bundle is, in the run root; monitors own the rest of this directory."""
        return f"{self.config.exec_root}/containers/{container_id}"

    def log_socket(self, container_id: str) -> str:
        """Where a shipper takes the output of a container."""
        return f"{self.run_dir(container_id)}/log.sock"

    def event(self, live: Live, action: str, **attributes: str) -> None:
        self.emit("container", action, live.id, live.attributes(**attributes))

    async def image_size(self, image_id: str) -> int:
        """Bytes of the image's layers; 0 where it is gone."""
        image = await self.images.get(image_id)
        return image.size if image else 0
