"""What happened to the images, told to those who asked: events of docker's notification format, sent by webhook."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import msgspec

from barque import __version__
from barque.registry.http.messages import Request
from barque.registry.metrics import Metrics

if TYPE_CHECKING:
    import aiohttp

log = logging.getLogger("barque.registry.events")
CONTENT_TYPE = "application/vnd.docker.distribution.events.v1+json"
#: Events that wait for one receiver; further ones are dropped and counted.
QUEUE = 10_000
#: At the end receivers have so many seconds to take what waits for them.
GRACE = 5.0


class Target(msgspec.Struct, rename="camel", omit_defaults=True, kw_only=True):
    media_type: str = "application/octet-stream"
    size: int = 0
    digest: str
    repository: str
    url: str = ""
    tag: str = ""


@dataclass(frozen=True, slots=True)
class Happened:
    """``action``: push, pull, mount or delete."""

    action: str
    target: Target


def record(request: Request, action: str, repository: str, digest: str, *, size: int = 0, media_type: str = "",
           tag: str = "") -> None:
    """Note on the request what it did; the edge hands it to the receivers once the answer is a success."""
    target = Target(digest=str(digest), repository=repository, size=size, tag=tag,
                    media_type=media_type or "application/octet-stream")
    request.happened.append(Happened(action, target))


@dataclass(frozen=True)
class Receiver:
    """A webhook. ``actions``: those to be told of (empty: all); ``headers`` go with each request."""

    url: str
    actions: frozenset[str] = frozenset()
    headers: dict[str, str] = field(default_factory=dict)
    timeout: float = 10.0
    pause: float = 1.0


class Notifier:
    """Sends every event to every receiver, in order, again until it is taken; a slow receiver delays no request."""

    def __init__(self, receivers: tuple[Receiver, ...], metrics: Metrics) -> None:
        self._metrics = metrics
        self._queues = [(receiver, asyncio.Queue[msgspec.Raw](QUEUE)) for receiver in receivers]
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        self._tasks = [asyncio.create_task(self._serve(receiver, queue)) for receiver, queue in self._queues]

    async def close(self) -> None:
        """Give the receivers some seconds to take what is waiting."""
        waiting = [asyncio.create_task(queue.join()) for _, queue in self._queues]
        if waiting:
            await asyncio.wait(waiting, timeout=GRACE)
        for task in [*waiting, *self._tasks]:
            task.cancel()
        await asyncio.gather(*waiting, *self._tasks, return_exceptions=True)

    def tell(self, request: Request, status: int) -> None:
        for happened in request.happened if self._queues else ():
            event = msgspec.Raw(msgspec.json.encode(_event(happened, request, status)))
            for receiver, queue in self._queues:
                if receiver.actions and happened.action not in receiver.actions:
                    continue
                try:
                    queue.put_nowait(event)
                except asyncio.QueueFull:
                    self._metrics.add("dropped_events")

    async def _serve(self, receiver: Receiver, queue: asyncio.Queue[msgspec.Raw]) -> None:
        import aiohttp  # more memory than all the rest of the registry

        timeout = aiohttp.ClientTimeout(total=receiver.timeout)
        async with aiohttp.ClientSession(timeout=timeout, headers=receiver.headers) as session:
            while True:
                batch = [await queue.get()]
                while not queue.empty() and len(batch) < 100:
                    batch.append(queue.get_nowait())
                await self._deliver(session, receiver, msgspec.json.encode({"events": batch}))
                self._metrics.add("delivered_events", len(batch))
                for _ in batch:
                    queue.task_done()

    @staticmethod
    async def _deliver(session: aiohttp.ClientSession, receiver: Receiver, body: bytes) -> None:
        import aiohttp

        pause = receiver.pause
        while True:
            try:
                async with session.post(receiver.url, data=body, headers={"Content-Type": CONTENT_TYPE}) as answer:
                    if answer.status < 400:
                        return
                    reason = f"status {answer.status}"
            except (aiohttp.ClientError, OSError, TimeoutError) as error:
                reason = str(error) or type(error).__name__
            log.warning("webhook %s: %s, again in %g s", receiver.url, reason, pause)
            await asyncio.sleep(pause)
            pause = min(pause * 2, 60.0)


def _event(happened: Happened, request: Request, status: int) -> dict[str, Any]:
    target = happened.target
    kind = "manifests" if target.media_type != "application/octet-stream" else "blobs"
    target.url = f"{request.scheme}://{request.host}/v2/{target.repository}/{kind}/{target.digest}"
    return {
        "id": os.urandom(16).hex(), "timestamp": datetime.fromtimestamp(time.time(), UTC).isoformat(),
        "action": happened.action, "target": target,
        "request": {"id": os.urandom(8).hex(), "addr": request.remote, "host": request.host,
                    "method": request.method, "useragent": request.headers.get("user-agent", ""), "status": status},
        "actor": {"name": request.user},
        "source": {"addr": request.host, "instanceID": f"barque/{__version__}"},
    }
