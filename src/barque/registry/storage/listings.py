"""Sorted lists of the names in directories, kept as long as the directory says that it has not changed."""

from __future__ import annotations

import os
import time
from collections import OrderedDict
from dataclasses import dataclass

from barque.registry.storage import durable

#: Names kept in all; a tag's takes some 70 bytes.
_MOST = 200_000
#: A directory may change twice within one tick of the clock that stamps it: what is younger is not believed, in ns.
_TICK = 20_000_000


@dataclass(frozen=True, slots=True)
class _Listing:
    changed: int
    names: list[str]


class Listings:
    """For directories that other processes change too."""

    def __init__(self) -> None:
        self._known: OrderedDict[str, _Listing] = OrderedDict()
        self._size = 0

    def names(self, path: str) -> list[str]:
        """Sorted, without leftovers; empty if there is no such directory. The caller must not change the list."""
        try:
            changed = os.stat(path).st_mtime_ns
        except (FileNotFoundError, NotADirectoryError):
            return []
        known = self._known.get(path)
        if known is not None and known.changed == changed:
            self._known.move_to_end(path)
            return known.names
        names = durable.list_directory(path)
        if time.time_ns() - changed > _TICK:
            self._keep(path, _Listing(changed, names))
        return names

    def _keep(self, path: str, listing: _Listing) -> None:
        old = self._known.pop(path, None)
        self._size += len(listing.names) - (len(old.names) if old is not None else 0)
        self._known[path] = listing
        while self._size > _MOST and len(self._known) > 1:
            _, dropped = self._known.popitem(last=False)
            self._size -= len(dropped.names)
