"""Directories that outlive a build, by keys that are rows of the build cache."""

from __future__ import annotations

import asyncio
import os
from collections import defaultdict

from barque.build.cache import BuildCache
from barque.store.tree import disk_usage, remove_tree

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


class Directories:
    """Those of one ``kind`` of row, below ``root``."""

    kind: str

    def __init__(self, root: str, cache: BuildCache) -> None:
        self._root = root
        self._cache = cache
        self._users: defaultdict[str, int] = defaultdict(int)

    def path(self, key: str) -> str:
        return os.path.join(self._root, key)

    def in_use(self, key: str) -> bool:
        return self._users.get(key, 0) > 0

    def _enter(self, key: str) -> None:
        self._users[key] += 1

    def _leave(self, key: str) -> None:
        self._users[key] -= 1
        if not self._users[key]:
            del self._users[key]

    async def clean(self) -> None:
        """At boot: remove directories that no row names, of a daemon that died while it made them."""
        known = {entry.key for entry in await self._cache.all() if entry.kind == self.kind}
        for name in os.listdir(self._root) if os.path.isdir(self._root) else ():
            if name not in known:
                await self.remove(name)

    async def size(self, key: str) -> int:
        """In bytes, as they are on the disk."""
        def measure() -> int:
            try:
                fd = os.open(self.path(key), _DIRECTORY)
            except FileNotFoundError:
                return 0
            try:
                return disk_usage(fd)
            finally:
                os.close(fd)

        return await asyncio.to_thread(measure)

    async def remove(self, key: str) -> None:
        def remove() -> None:
            try:
                fd = os.open(self._root, _DIRECTORY)
            except FileNotFoundError:
                return
            try:
                remove_tree(fd, key)
            finally:
                os.close(fd)

        await asyncio.to_thread(remove)
