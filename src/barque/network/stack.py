"""The network as the engine sees it: asynchronous, one change at a time.

All work is done by one thread. The kernel serialises link changes anyway (RTNL), entering a namespace concerns the
thread alone, and neither netlink sockets nor libnftables may be shared.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import queue
import socket
from collections.abc import Callable, Collection, Coroutine, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from barque.network.keeper_client import KeeperProcess
from barque.network.model import (
    Attachment,
    Blockers,
    NetworkInfo,
    NetworkSettings,
    NetworkSpec,
    PortBinding,
    PublishedPort,
    Sandbox,
    SandboxRequest,
)
from barque.network.sandboxes import Sandboxes
from barque.sys import nft

log = logging.getLogger(__name__)

T = TypeVar("T")
#: Containers that start one after another get their slots first; the pool is filled when they pause.
_REFILL_AFTER = 0.05
#: Namespaces die within milliseconds; deleting an interface that will go by itself would make the kernel wait for it.
_SWEEP_AFTER = 3.0
#: Containers that start see what has become of other firewalls since so many seconds.
_LOOK_AGAIN = 5.0


class Network:
    """Networking of one engine. Made by :meth:`open`; :meth:`reconcile` comes before the first :meth:`setup`."""

    def __init__(self, worker: ThreadPoolExecutor, sandboxes: Sandboxes) -> None:
        self._worker = worker
        self._sandboxes = sandboxes
        self._loop = asyncio.get_running_loop()
        self._refill: asyncio.TimerHandle | None = None
        self._broom: asyncio.TimerHandle | None = None
        self._watched: dict[str, int] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._blockers, self._looked = Blockers(), 0.0
        self._leaving: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._changes: socket.socket | None = None
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
        return self._sandboxes.networks.infos()

    async def setup(self, request: SandboxRequest) -> Sandbox:
        """Make the container's namespace with all that is in it, reserve and publish its ports; all or nothing.

        Raises BarqueErrors in dockerd's words, OSError where the kernel refuses.
        """
        sandbox = await self._run(self._sandboxes.setup, request)
        self._refill_later()
        self._watch_keepers()
        return sandbox

    async def teardown(self, container_id: str) -> None:
        """Unmake it: ports are free when this returns, the namespace dies on its own time. May be repeated."""
        self._leaving.put(container_id)
        await self._run(self._teardown_all)
        if self._broom is None and not self._closing:
            self._broom = self._loop.call_later(_SWEEP_AFTER, self._spawn, self._sweep)

    async def connect(self, container_id: str, attachment: Attachment) -> Sandbox:
        """Put a running container on one more network; returns its sandbox as it is then. All or nothing."""
        sandbox = await self._run(self._sandboxes.connect, container_id, attachment)
        self._watch_keepers()
        return sandbox

    async def disconnect(self, container_id: str, network_id: str) -> Sandbox:
        """Take a running container off one network; returns its sandbox as it is then."""
        return await self._run(self._sandboxes.disconnect, container_id, network_id)

    async def republish(self, container_id: str, add: Sequence[PortBinding], remove: Sequence[PublishedPort]
                        ) -> Sandbox:
        """Change the published ports of a running container, all or nothing; returns its sandbox as it is then."""
        sandbox = await self._run(self._sandboxes.republish, container_id, tuple(add), tuple(remove))
        self._watch_keepers()
        return sandbox

    async def rename(self, container_id: str, name: str) -> Sandbox | None:
        """A running container has another name; returns its sandbox as it is then, None if it has none."""
        return await self._run(self._sandboxes.rename, container_id, name)

    async def create_network(self, spec: NetworkSpec) -> NetworkSpec:
        """Make a network in the kernel; returns ``spec`` completed, to be stored and handed to :meth:`reconcile`."""
        return await self._run(self._sandboxes.create_network, spec)

    async def remove_networks(self, network_ids: Collection[str]) -> None:
        """All of them or none; raises NetworkInUse while a container runs on one, NetworkMissing."""
        await self._run(self._sandboxes.remove_networks, network_ids)

    def known_blockers(self) -> Blockers:
        """As :meth:`blockers`, as they were a few containers ago: costs nothing."""
        return self._blockers

    async def blockers(self) -> Blockers:
        self._blockers = await self._run(self._sandboxes.rules.blockers)
        self._looked = self._loop.time()
        return self._blockers

    async def reconcile(self, live: Iterable[Sandbox], networks: Iterable[NetworkSpec] = ()) -> None:
        """At boot: these are the networks and the containers that run; everything else of this engine's goes."""
        await self._run(self._sandboxes.reconcile, list(live), list(networks))
        self._watch_keepers()
        self._watch_tables()
        self._refill_later()
        for chain in (await self.blockers()).forward:
            log.warning("the firewall chain %s drops forwarded packets by default: containers may not reach other "
                        "networks, nor be reached through published ports, unless it accepts them", chain)

    async def close(self, remove: bool = False) -> None:
        """Stop; running containers keep their network unless ``remove``."""
        self._closing = True
        for timer in (self._refill, self._broom):
            if timer is not None:
                timer.cancel()
        for what in list(self._watched):
            self._unwatch(what)
        if self._changes is not None:
            self._loop.remove_reader(self._changes)
            self._changes.close()
        await self._run(self._sandboxes.close, remove)
        self._worker.shutdown()

    async def _run(self, call: Callable[..., T], *args: object) -> T:
        # A caller that is cancelled must not leave the change half known: the thread ends it either way.
        return await asyncio.shield(self._loop.run_in_executor(self._worker, call, *args))

    def _teardown_all(self) -> None:
        """Unmake all that wait for it, in one transaction: the caller's is among them, or went with an earlier batch,
        whose first caller hears of errors."""
        leaving = []
        with contextlib.suppress(queue.Empty):
            while True:
                leaving.append(self._leaving.get_nowait())
        if leaving:
            self._sandboxes.teardown(leaving)

    def _refill_later(self) -> None:
        if self._refill is not None:
            self._refill.cancel()
        self._refill = self._loop.call_later(_REFILL_AFTER, self._spawn, self._warm_up)

    async def _sweep(self) -> None:
        self._broom = None
        if not self._closing:
            await self._run(self._sandboxes.sweep)

    async def _warm_up(self) -> None:
        try:
            if not self._closing and await self._run(self._sandboxes.warm_up):
                self._refill_later()
            elif not self._closing and self._loop.time() - self._looked > _LOOK_AGAIN:
                await self.blockers()
        except OSError as error:
            log.warning("cannot keep a network namespace ready: %s", error)

    def _watch_keepers(self) -> None:
        """Be told when a keeper dies (somebody killed it): another one takes its sockets over."""
        self._watch(self._sandboxes.keeper, self._sandboxes.restart_keeper, "port keeper")
        self._watch(self._sandboxes.names.process, self._sandboxes.restart_names, "name keeper")

    def _watch_tables(self) -> None:
        """Be told when another program removes tables: "flush ruleset" takes ours along, and all isolation with it."""
        if self._changes is None:
            self._changes = nft.watched()
            self._loop.add_reader(self._changes, self._tables_changed, self._changes)

    def _tables_changed(self, changes: socket.socket) -> None:
        removed = False
        try:
            while True:
                removed |= nft.tells_of_removal(changes.recv(1 << 16))
        except BlockingIOError:
            pass
        except OSError:
            removed = True  # more than the socket holds (ENOBUFS): look
        if removed:
            self._spawn(self._put_back)

    async def _put_back(self) -> None:
        try:
            if not self._closing:
                await self._run(self._sandboxes.rules.put_back)
        except OSError as error:
            log.error("cannot put the firewall's rules back: %s", error)

    def _watch(self, keeper: KeeperProcess, restart: Callable[[], None], what: str) -> None:
        if what in self._watched or self._closing:
            return
        pidfd = keeper.pidfd()
        if pidfd is not None:
            self._watched[what] = pidfd
            self._loop.add_reader(pidfd, self._keeper_died, what, restart)

    def _unwatch(self, what: str) -> None:
        pidfd = self._watched.pop(what)
        self._loop.remove_reader(pidfd)
        os.close(pidfd)

    def _keeper_died(self, what: str, restart: Callable[[], None]) -> None:
        with contextlib.suppress(ChildProcessError):
            os.waitid(os.P_PIDFD, self._watched[what], os.WEXITED | os.WNOHANG)
        self._unwatch(what)
        if self._closing:
            return
        log.warning("the %s has died: starting another one", what)
        self._spawn(lambda: self._restart(restart))

    async def _restart(self, restart: Callable[[], None]) -> None:
        await self._run(restart)
        self._watch_keepers()

    def _spawn(self, work: Callable[[], Coroutine[None, None, None]]) -> None:
        task = self._loop.create_task(work())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
