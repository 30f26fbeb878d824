"""What happened, as docker's clients hear it: a bounded memory of the past and a queue for each listener."""

from __future__ import annotations

import asyncio
import json
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

from barque.engine.filters import Filters
from barque.oci import go_json
from barque.sys.fsync import atomic_write

#: dockerd remembers as many.
HISTORY = 256
#: A listener that falls this far behind is dropped: it holds memory, and its stream has a hole anyway.
BACKLOG = 4096

Event = dict[str, Any]


class EventBus:
    """Publish with :meth:`emit` (never blocks), listen with :meth:`stream`."""

    def __init__(self) -> None:
        self._past: deque[Event] = deque(maxlen=HISTORY)
        self._queues: set[asyncio.Queue[Event | None]] = set()
        #: Told of each event at once; they must not block.
        self.observers: list[Callable[[Event], None]] = []
        #: How many there were since the daemon began.
        self.emitted = 0

    @property
    def listeners(self) -> int:
        return len(self._queues)

    def emit(self, kind: str, action: str, actor_id: str, attributes: Mapping[str, str]) -> None:
        """Tell every listener; ``kind`` is container, image, volume, network or daemon."""
        nanoseconds = time.time_ns()
        event: Event = {"Type": kind, "Action": action,
                        "Actor": {"ID": actor_id, "Attributes": go_json.merged(attributes)}, "scope": "local",
                        "time": nanoseconds // 10**9, "timeNano": nanoseconds}
        if kind in ("container", "image"):
            event |= {"status": action, "id": actor_id}
            origin = attributes.get("image") if kind == "container" else attributes.get("name")
            if origin:
                event["from"] = origin
        self._past.append(event)
        for observer in self.observers:
            observer(event)
        self.emitted += 1
        for queue in tuple(self._queues):
            if queue.qsize() >= BACKLOG:
                self._queues.discard(queue)
                while not queue.empty():
                    queue.get_nowait()
                queue.put_nowait(None)
            else:
                queue.put_nowait(event)

    def load(self, path: str) -> None:
        """Remember what an earlier daemon saved; a file that is missing or damaged is no loss."""
        try:
            with open(path, "rb") as file:
                past = json.loads(file.read())
        except (OSError, ValueError):
            return
        self._past.extend(event for event in past if isinstance(event, dict) and "timeNano" in event)

    def save(self, path: str) -> None:
        """For the next daemon. Raises OSError."""
        atomic_write(path, json.dumps(list(self._past)).encode())

    async def stream(self, filters: Filters, since: int | None, until: int | None) -> AsyncIterator[Event]:
        """Events from ``since`` (only remembered ones; None: from now) to ``until`` (None: for ever), in
        nanoseconds.
        """
        queue: asyncio.Queue[Event | None] = asyncio.Queue()
        self._queues.add(queue)
        try:
            for event in tuple(self._past) if since is not None else ():
                if event["timeNano"] >= (since or 0) and (until is None or event["timeNano"] <= until) \
                        and matches(event, filters):
                    yield event
            while True:
                remaining = None if until is None else (until - time.time_ns()) / 1e9
                if remaining is not None and remaining <= 0:
                    return
                try:
                    async with asyncio.timeout(remaining):
                        received = await queue.get()
                except TimeoutError:
                    return
                if received is None:
                    return
                if matches(received, filters):
                    yield received
        finally:
            self._queues.discard(queue)


def matches(event: Event, filters: Filters) -> bool:
    """Whether ``event`` passes: the values of one key are alternatives, the keys must all agree."""
    attributes: dict[str, str] = event["Actor"]["Attributes"]
    return all(_matches_key(key, values, event, attributes) for key, values in filters.items())


def _matches_key(key: str, values: list[str], event: Event, attributes: dict[str, str]) -> bool:
    action: str = event["Action"]
    actor = str(event["Actor"]["ID"])
    if key == "event":
        return any(action == value or action.startswith(value + ":") for value in values)
    if key == "type":
        return event["Type"] in values
    if key == "scope":
        return event["scope"] in values
    if key == "label":
        return all(_has_label(value, attributes) for value in values)
    if key == "daemon":
        return any(value in (actor, attributes.get("name")) for value in values)
    if key == "image":
        named = actor if event["Type"] == "image" else attributes.get("image", "")
        repository = named.partition("@")[0].rpartition(":")[0] or named
        return any(value in (named, repository, attributes.get("name")) for value in values)
    if key == "container":
        return event["Type"] == "container" and any(
            actor.startswith(value) or attributes.get("name") == value.lstrip("/") for value in values)
    if key in ("volume", "network"):
        return event["Type"] == key and any(actor.startswith(value) or attributes.get("name") == value
                                            for value in values)
    return False


def _has_label(value: str, attributes: dict[str, str]) -> bool:
    key, equals, wanted = value.partition("=")
    return key in attributes and (not equals or attributes[key] == wanted)
