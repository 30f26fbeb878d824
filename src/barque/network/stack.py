"""The network as the engine sees it: asynchronous, one change at a time.

All work is done by one thread. The kernel serialises link changes anyway (RTNL), entering a namespace concerns the
thread alone, and neither netlink sockets nor libnftables may be shared.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Callable, Coroutine, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from barque.network.model import NetworkInfo, NetworkSettings, Sandbox, SandboxRequest
from barque.network.sandboxes import Sandboxes

log = logging.getLogger(__name__)

T = TypeVar("T")
#: Containers that start one after another get their slots first; the pool is filled when they pause.
_REFILL_AFTER = 0.05


class Network:
    """Networking of one engine. Made by :meth:`open`; :meth:`reconcile` comes before the first :meth:`setup`."""

    def __init__(self, worker: ThreadPoolExecutor, sandboxes: Sandboxes) -> None:
        self._worker = worker
        self._sandboxes = sandboxes
        self._loop = asyncio.get_running_loop()
        self._refill: asyncio.TimerHandle | None = None
        self._watched: int | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._closing = False

    @classmethod
    async def open(cls, settings: NetworkSettings) -> Network:
        """Make or take over bridge, table and directories of ``settings.exec_root``. Ports in use go on working."""
        worker = ThreadPoolExecutor(1, thread_name_prefix="network")
        try:
            sandboxes = await asyncio.get_running_loop().run_in_executor(worker, Sandboxes, settings)
        except BaseException:
            worker.shutdown(wait=False)
            raise
        return cls(worker, sandboxes)

    @property
    def settings(self) -> NetworkSettings:
        return self._sandboxes.settings

    def networks(self) -> list[NetworkInfo]:
        """All networks that containers can be on."""
        return self._sandboxes.networks()

    async def setup(self, request: SandboxRequest) -> Sandbox:
        """Make the container's namespace with all that is in it, reserve and publish its ports; all or nothing.

        Raises BarqueErrors in dockerd's words, OSError where the kernel refuses.
        """
        sandbox = await self._run(self._sandboxes.setup, request)
        self._refill_later()
        self._watch_keeper()
        return sandbox

    async def teardown(self, container_id: str) -> None:
        """Unmake it: ports are free when this returns, the namespace dies on its own time. May be repeated."""
        await self._run(self._sandboxes.teardown, container_id)

    async def reconcile(self, live: Iterable[Sandbox]) -> None:
        """At boot: these are the containers that run; everything else of this engine's goes, in one transaction."""
        await self._run(self._sandboxes.reconcile, list(live))
        self._watch_keeper()
        self._refill_later()
        for chain in await self._run(self._sandboxes.blockers):
            log.warning("the firewall chain %s drops forwarded packets by default: containers on %s may not reach "
                        "other networks, nor be reached through published ports, unless it accepts them",
                        chain, self.settings.bridge_name)

    async def close(self, remove: bool = False) -> None:
        """Stop; running containers keep their network unless ``remove``."""
        self._closing = True
        if self._refill is not None:
            self._refill.cancel()
        self._unwatch_keeper()
        await self._run(self._sandboxes.close, remove)
        self._worker.shutdown()

    async def _run(self, call: Callable[..., T], *args: object) -> T:
        # A caller that is cancelled must not leave the change half known: the thread ends it either way.
        return await asyncio.shield(self._loop.run_in_executor(self._worker, call, *args))

    def _refill_later(self) -> None:
        if self._refill is not None:
            self._refill.cancel()
        self._refill = self._loop.call_later(_REFILL_AFTER, self._spawn, self._warm_up)

    async def _warm_up(self) -> None:
        try:
            if not self._closing and await self._run(self._sandboxes.warm_up):
                self._refill_later()
        except OSError as error:
            log.warning("cannot keep a network namespace ready: %s", error)

    def _watch_keeper(self) -> None:
        """Be told when the port keeper dies (somebody killed it): another one takes its ports over."""
        if self._watched is None and not self._closing:
            self._watched = self._sandboxes.keeper.pidfd()
            if self._watched is not None:
                self._loop.add_reader(self._watched, self._keeper_died)

    def _unwatch_keeper(self) -> None:
        if self._watched is not None:
            self._loop.remove_reader(self._watched)
            os.close(self._watched)
            self._watched = None

    def _keeper_died(self) -> None:
        assert self._watched is not None
        with contextlib.suppress(ChildProcessError):
            os.waitid(os.P_PIDFD, self._watched, os.WEXITED | os.WNOHANG)
        self._unwatch_keeper()
        log.warning("the port keeper has died: starting another one")
        self._spawn(self._restart_keeper)

    async def _restart_keeper(self) -> None:
        await self._run(self._sandboxes.restart_keeper)
        self._watch_keeper()

    def _spawn(self, work: Callable[[], Coroutine[None, None, None]]) -> None:
        task = self._loop.create_task(work())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
