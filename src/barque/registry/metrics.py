"""Counters of the registry in the text format of Prometheus, version 0.0.4."""

from __future__ import annotations

import bisect
from collections import Counter
from collections.abc import Iterable

import msgspec

BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class _Exported(msgspec.Struct, array_like=True):
    requests: list[tuple[tuple[str, str, int], int]]
    times: dict[str, list[int]]
    seconds: dict[str, float]
    values: dict[str, float]
    in_flight: int


class Metrics:
    """``route`` is the pattern of a path, never the path itself: the number of series stays small."""

    def __init__(self) -> None:
        self._requests: Counter[tuple[str, str, int]] = Counter()
        self._times: dict[str, list[int]] = {}
        self._seconds: Counter[str] = Counter()
        self._values: Counter[str] = Counter()
        self.in_flight = 0

    def observe(self, method: str, route: str, status: int, seconds: float) -> None:
        self._requests[method, route, status] += 1
        buckets = self._times.get(route)
        if buckets is None:
            buckets = self._times[route] = [0] * (len(BOUNDS) + 1)
        buckets[bisect.bisect_left(BOUNDS, seconds)] += 1
        self._seconds[route] += seconds  # type: ignore[assignment]

    @property
    def answered(self) -> int:
        """Requests so far."""
        return self._requests.total()

    def add(self, name: str, amount: float = 1) -> None:
        """Raise the counter ``barque_registry_<name>_total``."""
        self._values[name] += amount  # type: ignore[assignment]

    def export(self) -> bytes:
        """For :meth:`merged` in another process."""
        return msgspec.msgpack.encode(_Exported(list(self._requests.items()), self._times, dict(self._seconds),
                                                dict(self._values), self.in_flight))

    def merged(self, exports: Iterable[bytes]) -> Metrics:
        """The sum of these and of what other processes exported."""
        total = Metrics()
        for data in (self.export(), *exports):
            part = msgspec.msgpack.decode(data, type=_Exported)
            total._requests.update(dict(part.requests))
            total._seconds.update(part.seconds)
            total._values.update(part.values)
            total.in_flight += part.in_flight
            for route, buckets in part.times.items():
                known = total._times.get(route, [0] * len(buckets))
                total._times[route] = [one + two for one, two in zip(known, buckets, strict=True)]
        return total

    def text(self) -> str:
        lines = ["# TYPE barque_registry_in_flight_requests gauge",
                 f"barque_registry_in_flight_requests {self.in_flight}",
                 "# TYPE barque_registry_requests_total counter"]
        lines += [f'barque_registry_requests_total{{method="{method}",route="{route}",code="{status}"}} {count}'
                  for (method, route, status), count in sorted(self._requests.items())]
        lines.append("# TYPE barque_registry_request_seconds histogram")
        for route, buckets in sorted(self._times.items()):
            total = 0
            for bound, count in zip((*map(str, BOUNDS), "+Inf"), buckets, strict=True):
                total += count
                lines.append(f'barque_registry_request_seconds_bucket{{route="{route}",le="{bound}"}} {total}')
            lines.append(f'barque_registry_request_seconds_sum{{route="{route}"}} {self._seconds[route]:.6f}')
            lines.append(f'barque_registry_request_seconds_count{{route="{route}"}} {total}')
        for name, value in sorted(self._values.items()):
            lines += [f"# TYPE barque_registry_{name}_total counter", f"barque_registry_{name}_total {value}"]
        return "\n".join(lines) + "\n"
