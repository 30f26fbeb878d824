"""Connect a client to the streams of a container, running or about to."""

from __future__ import annotations

from barque.engine.containers.context import Context
from barque.engine.containers.machine import Status
from barque.engine.containers.registry import Live, PendingAttach, Streams
from barque.errors import Conflict


class Paused(Conflict):
    text = "container {id} is paused, unpause the container before attach"


def check(live: Live) -> None:
    """Before the answer begins: raises what can still have a status of its own."""
    if live.facts.status is Status.PAUSED:
        raise Paused(id=live.id)


class Attachment:
    """One client of one container, registered for the next start when it is made; end it with :meth:`close`."""

    def __init__(self, ctx: Context, live: Live, *, stdin: bool, stdout: bool, stderr: bool) -> None:
        self._ctx = ctx
        self._live = live
        self._flags = {"stdin": stdin and self._live.container.config.open_stdin, "stdout": stdout, "stderr": stderr}
        self.stdin = self._flags["stdin"]
        self.tty = self._live.container.config.tty
        self.container_id = self._live.id
        self._pending: PendingAttach | None = None
        if not self._live.facts.alive:
            self._pending = PendingAttach(**self._flags)
            self._live.attaching.append(self._pending)

    async def streams(self) -> Streams | None:
        """The process's end of the connection, once there is a process; None where it never came to run."""
        monitor = self._live.monitor
        if self._pending is None:
            if monitor is None:
                return None
            streams = await monitor.attach(None, **self._flags)
        else:
            maybe = await self._pending.streams()
            if maybe is None:
                return None
            streams = maybe
        self._ctx.event(self._live, "attach")
        return streams

    def close(self) -> None:
        """Wait for a start no longer."""
        if self._pending is not None and self._pending in self._live.attaching:
            self._live.attaching.remove(self._pending)

    def detached(self) -> None:
        """The client left with the detach keys."""
        self._ctx.event(self._live, "detach")


async def resize(ctx: Context, ref: str, height: int, width: int) -> None:
    live = ctx.registry.find(ref)
    if live.monitor is None or not live.facts.alive:
        raise Conflict(f"container {live.id} is not running")
    await live.monitor.resize(height, width)
    ctx.event(live, "resize", height=str(height), width=str(width))
