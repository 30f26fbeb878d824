"""The containers that exist: the document of each, what lives beside it in memory, and the ways to name one."""

from __future__ import annotations

import asyncio
import bisect
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from barque.engine import names
from barque.engine.containers.machine import Facts
from barque.engine.containers.model import Container
from barque.engine.containers.ports import Monitor, Shipper
from barque.errors import Conflict, InvalidArgument, NotFound
from barque.store.db import Documents
from barque.supervise.restart_policy import Backoff


class NoSuchContainer(NotFound):
    text = "No such container: {ref}"


class NameInUse(Conflict):
    text = ('Conflict. The container name "/{name}" is already in use by container "{holder}". You have to remove '
            "(or rename) that container to be able to reuse that name.")


class InvalidName(InvalidArgument):
    text = "Invalid container name ({name}), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed"


class AmbiguousPrefix(InvalidArgument):
    text = "Multiple IDs found with provided prefix: {prefix}"


@dataclass(frozen=True)
class Outcome:
    """How a container ended, for those who wait."""

    exit_code: int
    error: str = ""


Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class PendingAttach:
    """A client that waits for a process to attach to: connected by the start, or given up."""

    def __init__(self, *, stdin: bool, stdout: bool, stderr: bool) -> None:
        self._flags = {"stdin": stdin, "stdout": stdout, "stderr": stderr}
        self._streams: asyncio.Future[Streams | None] = asyncio.get_running_loop().create_future()

    async def connect(self, monitor: Monitor) -> None:
        """Attach before the process runs, so that its first byte is not missed."""
        streams = await monitor.attach(None, **self._flags)
        if self._streams.done():
            streams[1].close()
        else:
            self._streams.set_result(streams)

    def give_up(self) -> None:
        if not self._streams.done():
            self._streams.set_result(None)

    async def streams(self) -> Streams | None:
        """None where the container went away or could not be started."""
        try:
            return await self._streams
        except asyncio.CancelledError:
            # The start may have connected this very moment: a stream that nobody reads would hold the process up.
            if self._streams.done() and not self._streams.cancelled() and (streams := self._streams.result()):
                streams[1].close()
            raise


class ExecGate:
    """Execs that are being started: a container is frozen only between them, or the monitor would wait for one of them
    until it is thawed.
    """

    def __init__(self) -> None:
        self._starting = 0
        self._quiet = asyncio.Event()
        self._quiet.set()

    def __enter__(self) -> None:
        self._starting += 1
        self._quiet.clear()

    def __exit__(self, *_: object) -> None:
        self._starting -= 1
        if not self._starting:
            self._quiet.set()

    async def wait_quiet(self) -> None:
        """Until no exec is being started; the caller has seen to it that no more come."""
        await self._quiet.wait()


@dataclass(eq=False)
class Live:
    """One container in memory. Take ``lock`` for every change of state; it is never held while waiting for an exit.

    ``attaching`` holds clients that attached while no process was there; the next start serves them first. ``keep``
    suspends ``--rm`` for the time of a restart; ``keep_down`` the restart policy while the daemon shuts down.
    ``unhealthy``: the engine is ending it because of its health check. ``killed``: SIGKILL is on its way, which a
    process that is frozen before it comes (cgroup v1) would not take. ``doomed``: it is being ended to be removed.
    ``shipper``: the last one, which may end a little later than the container.
    """

    container: Container
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    monitor: Monitor | None = None
    exits: set[asyncio.Future[Outcome]] = field(default_factory=set)
    removals: set[asyncio.Future[Outcome]] = field(default_factory=set)
    attaching: list[PendingAttach] = field(default_factory=list)
    exec_ids: list[str] = field(default_factory=list)
    backoff: Backoff = field(default_factory=Backoff)
    tasks: dict[str, asyncio.Task[None]] = field(default_factory=dict)
    removed: bool = False
    keep: bool = False
    keep_down: bool = False
    unhealthy: bool = False
    killed: bool = False
    doomed: bool = False
    execs: ExecGate = field(default_factory=ExecGate)
    shipper: Shipper | None = None

    @property
    def id(self) -> str:
        return self.container.id

    @property
    def facts(self) -> Facts:
        return self.container.facts

    def attributes(self, **more: str) -> dict[str, str]:
        """What events say about the container."""
        return {**(self.container.config.labels or {}), "image": self.container.image, "name": self.container.name,
                **more}

    def resolve(self, waiting: set[asyncio.Future[Outcome]], outcome: Outcome) -> None:
        """Wake everyone in ``waiting``."""
        for future in waiting:
            if not future.done():
                future.set_result(outcome)
        waiting.clear()

    def cancel(self, task: str) -> None:
        """Stop the background task of that name, unless it is the one that asks."""
        running = self.tasks.pop(task, None)
        if running is not None and running is not asyncio.current_task():
            running.cancel()


class Registry:
    """All containers by id and name; every change of a document passes :meth:`save`."""

    def __init__(self, documents: Documents[Container]) -> None:
        self._documents = documents
        self._by_id: dict[str, Live] = {}
        self._by_name: dict[str, str] = {}
        self._sorted: list[str] = []
        self._making: dict[str, Container] = {}

    async def load(self) -> list[Live]:
        for _, container in await self._documents.all():
            self._insert(Live(container))
        return list(self)

    def __iter__(self) -> Iterator[Live]:
        return iter(tuple(self._by_id.values()))

    @contextmanager
    def being_made(self, container: Container) -> Iterator[None]:
        """Not shown yet, but what it names is in use."""
        self._making[container.id] = container
        try:
            yield
        finally:
            del self._making[container.id]

    def holders(self) -> list[Container]:
        """Those that exist and those that are being made."""
        return [*(live.container for live in self._by_id.values()),
                *(container for container in self._making.values() if container.id not in self._by_id)]

    def _insert(self, live: Live) -> None:
        self._by_id[live.id] = live
        self._by_name[live.container.name] = live.id
        bisect.insort(self._sorted, live.id)

    def reserve(self, name: str, container_id: str) -> None:
        """Take ``name`` for ``container_id``; raises InvalidName, NameInUse. Give it back with :meth:`unreserve`."""
        if not names.valid(name):
            raise InvalidName(name=name)
        holder = self._by_name.get(name)
        if holder is not None and holder != container_id:
            raise NameInUse(name=name, holder=holder)
        self._by_name[name] = container_id

    def unreserve(self, name: str) -> None:
        self._by_name.pop(name, None)

    def free_name(self, container_id: str) -> str:
        """Reserve a made-up name."""
        retry = 0
        while (name := names.candidate(retry)) in self._by_name:
            retry += 1
        self.reserve(name, container_id)
        return name

    async def add(self, container: Container) -> Live:
        """Store and show a container whose name is reserved."""
        await self._documents.put(container.id, container.name, container)
        live = Live(container)
        self._insert(live)
        return live

    async def save(self, live: Live) -> None:
        """Make the present document durable."""
        await self._documents.put(live.id, live.container.name, live.container)

    async def set_facts(self, live: Live, facts: Facts, *, durable: bool = True) -> None:
        """Change the facts: visible at once (who looks sees the truth), stored on return.

        Without ``durable`` a power cut may undo it until :meth:`sync` has returned.
        """
        live.container.facts = facts
        await self._documents.put(live.id, live.container.name, live.container, durable=durable)

    async def sync(self) -> None:
        await self._documents.sync()

    async def discard(self, live: Live) -> None:
        """Forget the container; durable with the row of its writable layer, which goes next."""
        await self._documents.delete(live.id, durable=False)
        self._by_id.pop(live.id, None)
        if self._by_name.get(live.container.name) == live.id:
            del self._by_name[live.container.name]
        index = bisect.bisect_left(self._sorted, live.id)
        if index < len(self._sorted) and self._sorted[index] == live.id:
            del self._sorted[index]

    def find(self, ref: str) -> Live:
        """By full id, name or unambiguous id prefix, in this order; raises NoSuchContainer, AmbiguousPrefix."""
        if not ref:
            raise InvalidArgument("No container name or ID supplied")
        found = self._by_id.get(ref) or self._by_id.get(self._by_name.get(ref.removeprefix("/"), ""))
        if found is not None:
            return found
        if names.is_id_prefix(ref):
            index = bisect.bisect_left(self._sorted, ref)
            matching = [item for item in self._sorted[index:index + 2] if item.startswith(ref)]
            if len(matching) > 1:
                raise AmbiguousPrefix(prefix=ref)
            if matching:
                return self._by_id[matching[0]]
        raise NoSuchContainer(ref=ref)
