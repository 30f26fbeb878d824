"""The registry as it runs from a configuration: one process, or several that share its listening sockets."""

from __future__ import annotations

import asyncio
import gc
import logging
import resource
import signal
import socket
import sys
from collections.abc import AsyncIterator, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from barque.errors import BarqueError
from barque.registry import workers
from barque.registry.app import Registry, Settings, make_app, make_status_app
from barque.registry.assemble import address, load_tls, policy_of, settings_of, storage_of, tls_of
from barque.registry.collect import collect
from barque.registry.config import Config, InvalidConfig, read_text, seconds
from barque.registry.listen import listeners, serving_on
from barque.registry.siblings import Siblings
from barque.registry.storage.base import Storage
from barque.sys.malloc import trim

if TYPE_CHECKING:
    import ssl

#: Kept back until they are handled: who has read that it serves may end it at once.
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
#: Seconds between two looks at whether it is quiet.
_QUIET = 10.0
log = logging.getLogger("barque.registry")


@dataclass(frozen=True)
class Service:
    """All that workers share, made before they are forked."""

    config: Config
    storage: Storage
    settings: Settings
    app: Registry
    tls: ssl.SSLContext | None
    sockets: list[socket.socket]
    status_sockets: list[socket.socket]
    siblings: Siblings

    async def work(self, number: int = 0) -> None:
        """Serve until SIGTERM or SIGINT. Worker 0 also collects garbage and shows the metrics of all."""
        loop, ended = asyncio.get_running_loop(), asyncio.Event()
        for each in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(each, ended.set)
        loop.add_signal_handler(signal.SIGHUP, self._reload)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
        self._reload()  # a worker that takes a dead one's place may be forked long after the files were read first
        async with AsyncExitStack() as stack:
            stack.push_async_callback(self.storage.aclose)
            if number == 0:
                await self._lead(stack)
            else:
                await stack.enter_async_context(_running(self.siblings.answer(number, self.settings.metrics)))
            await stack.enter_async_context(_running(self._give_back()))
            await stack.enter_async_context(serving_on(self.app, self.sockets, self.tls))
            await ended.wait()

    async def _lead(self, stack: AsyncExitStack) -> None:
        status = make_status_app(self.storage, self.settings.metrics, self.siblings.exports)
        await stack.enter_async_context(serving_on(status, self.status_sockets))
        if self.config.gc.interval:
            await stack.enter_async_context(_running(self._collect()))

    async def _collect(self) -> None:
        while True:
            await asyncio.sleep(seconds(self.config.gc.interval))
            try:
                log.info("garbage collection: %s", await collect(self.storage, policy_of(self.config)))
            except (BarqueError, OSError) as error:
                log.error("garbage collection: %s", error)

    async def _give_back(self) -> None:
        """Whenever it has become quiet, let the kernel have the buffers of the transfers that are over."""
        answered = 0
        while True:
            await asyncio.sleep(_QUIET)
            metrics = self.settings.metrics
            if metrics.in_flight == 0 and metrics.answered != answered:
                answered = metrics.answered
                trim()

    def _reload(self) -> None:
        """Read certificate, key and users anew; what cannot be read stays as it was."""
        try:
            if self.tls is not None and self.config.tls is not None:
                load_tls(self.tls, self.config.tls)
            if self.settings.users is not None and self.config.auth is not None:
                self.settings.users.replace(read_text(self.config.auth.htpasswd))
        except (OSError, ValueError, BarqueError) as error:
            log.error("reload: %s", error)
        else:
            log.debug("certificates and users are those of the files now")


@asynccontextmanager
async def _running(work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def worker_count(config: Config) -> int:
    """A cache of other registries is one process: who asks for a blob that is on its way reads along in memory."""
    if config.upstream and (config.workers or 1) > 1:
        raise InvalidConfig(reason="a registry with upstreams has one worker")
    return config.workers or (1 if config.upstream else workers.worth_their_memory())


def serve(config: Config) -> int:
    """Serve until SIGTERM or SIGINT; the exit code."""
    count = worker_count(config)
    host, port = address(config.listen)
    storage, settings = storage_of(config), settings_of(config)
    service = Service(
        config, storage, settings, make_app(storage, settings), tls_of(config), listeners(host, port),
        listeners(*address(config.status_listen)) if config.status_listen else [], Siblings(count))
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    where = config.storage.root or (config.storage.s3 and f"bucket {config.storage.s3.bucket}")
    bound = service.sockets[0].getsockname()[1]
    print(f"registry: {'https' if config.tls else 'http'}://{host}:{bound} serves {where}", file=sys.stderr, flush=True)
    # A connection is a descriptor, and shells give 1024 of them.
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    gc.collect()
    trim()
    if count == 1:
        asyncio.run(service.work())
        return 0

    def work(number: int) -> int:
        asyncio.run(service.work(number))
        return 0

    return workers.run(count, work)
