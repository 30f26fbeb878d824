"""How often a client may ask: one token bucket per address, in memory that forked workers share."""

from __future__ import annotations

import math
import mmap
import struct
import time
from collections.abc import Callable

from barque.registry.errors import RegistryError

#: Key of the client, requests left, time of the last one. An empty slot has key 0.
_BUCKET = struct.Struct("=Qdd")
#: A client may be in one of so many slots that its key leads to; who asked longest ago makes place for a new one.
_WAYS = 8
_GROUPS = 1 << 13


class RateLimiter:
    """``rate`` requests a second, and ``burst`` at once after a pause. Make it before workers are forked.

    There is no lock: two workers that serve one client in the same microsecond count one request instead of two.
    """

    def __init__(self, rate: float, burst: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate = rate
        self._burst = burst
        self._clock = clock
        self._buckets = mmap.mmap(-1, _GROUPS * _WAYS * _BUCKET.size)

    def spend(self, client: str) -> None:
        """Raise TOOMANYREQUESTS, with the seconds until the next one is allowed, if the client asked too often."""
        now = self._clock()
        # The seed of hash() is the same in all forked workers, and strangers do not know it.
        key = hash(client) & 0xFFFF_FFFF_FFFF_FFFF or 1
        where, left, at = self._find(key, now)
        left = min(self._burst, left + (now - at) * self._rate)
        allowed = left >= 1
        _BUCKET.pack_into(self._buckets, where, key, left - 1 if allowed else left, now)
        if not allowed:
            raise RegistryError("TOOMANYREQUESTS", f"at most {self._rate:g} requests a second",
                                headers={"Retry-After": str(math.ceil((1 - left) / self._rate))})

    def _find(self, key: int, now: float) -> tuple[int, float, float]:
        """Position, requests left and last time of the client's slot, or of the one that it takes over."""
        first = key % _GROUPS * _WAYS * _BUCKET.size
        oldest, since = first, math.inf
        for where in range(first, first + _WAYS * _BUCKET.size, _BUCKET.size):
            found, left, at = _BUCKET.unpack_from(self._buckets, where)
            if found == key:
                return where, left, at
            if at < since:
                oldest, since = where, at
        return oldest, float(self._burst), now
