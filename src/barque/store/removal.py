"""Deleting the directories of snapshots that have no rows any more, behind the back of whoever removed them.

Small ones, such as the writable layers of containers, go at once in a thread. Layers may have many thousand files: a
worker process deletes them at the lowest priority, so that neither the event loop nor a pull that follows waits for it.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Sequence

from barque.errors import BarqueError
from barque.store.tar.messages import RemoveRequest
from barque.store.threads import to_the_end
from barque.store.tree import remove_tree
from barque.store.workers import Workers, remove_trees

log = logging.getLogger("barque.store.removal")
#: How long a caller waits for the files to be gone; longer ones go on behind it. Seconds.
_PATIENCE = 0.02


class Removals:
    """Deletes ``root/<number>``. ``workers`` may be set later; without it everything goes in threads."""

    def __init__(self, root: str) -> None:
        self.workers: Workers | None = None
        self.underway: set[int] = set()  # numbers
        self._root = root
        self._tasks: set[asyncio.Task[None]] = set()

    async def remove(self, numbers: Sequence[int], *, layers: bool = False) -> None:
        """Begin, and return when all is gone or after a short while; with ``layers`` at once."""
        if not numbers:
            return
        workers = self.workers if layers else None
        task = asyncio.ensure_future(self._by_worker(workers, numbers) if workers else self._by_threads(numbers))
        self._tasks.add(task)
        self.underway.update(numbers)
        task.add_done_callback(lambda done: self._ended(done, numbers))
        if not layers:
            await asyncio.wait([task], timeout=_PATIENCE)

    def _ended(self, task: asyncio.Task[None], numbers: Sequence[int]) -> None:
        self._tasks.discard(task)
        self.underway.difference_update(numbers)

    async def wait(self) -> None:
        """Until every deletion begun so far has ended."""
        while self._tasks:
            await asyncio.wait(set(self._tasks))

    async def close(self) -> None:
        """Stop; what is not gone yet goes at the next start."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _by_worker(self, workers: Workers, numbers: Sequence[int]) -> None:
        try:
            await remove_trees(workers, self._root, RemoveRequest([b"%d" % number for number in numbers]))
        except (BarqueError, OSError) as error:
            log.warning("deleting snapshots without a worker: %s", error)
            await self._by_threads(numbers)

    async def _by_threads(self, numbers: Sequence[int]) -> None:
        await asyncio.gather(*[self._in_thread(number) for number in numbers])

    async def _in_thread(self, number: int) -> None:
        try:
            await to_the_end(self._delete, number)
        except OSError as error:
            log.warning("snapshot directory %d stays until the next start: %s", number, error)

    def _delete(self, number: int) -> None:
        fd = os.open(self._root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            remove_tree(fd, str(number))
        finally:
            os.close(fd)
