"""How often a client may ask: one token bucket per user, or per address for those without a name."""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from collections.abc import Callable

from barque.registry.errors import RegistryError

#: Clients remembered at most; the one that asked longest ago is forgotten first.
_CLIENTS = 100_000


class RateLimiter:
    """``rate`` requests a second, and ``burst`` at once after a pause."""

    def __init__(self, rate: float, burst: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate = rate
        self._burst = burst
        self._clock = clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def spend(self, client: str) -> None:
        """Raise TOOMANYREQUESTS, with the seconds until the next one is allowed, if the client asked too often."""
        now = self._clock()
        left, at = self._buckets.pop(client, (float(self._burst), now))
        left = min(self._burst, left + (now - at) * self._rate)
        allowed = left >= 1
        self._buckets[client] = (left - 1 if allowed else left, now)
        if len(self._buckets) > _CLIENTS:
            self._buckets.popitem(last=False)
        if not allowed:
            raise RegistryError("TOOMANYREQUESTS", f"at most {self._rate:g} requests a second",
                                headers={"Retry-After": str(math.ceil((1 - left) / self._rate))})
