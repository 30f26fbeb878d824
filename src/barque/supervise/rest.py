"""What a monitor that has nothing to do leaves to the one after it: a value, and the descriptors that it speaks of.

A monitor and its successor run the same code, forked from the same keeper, so the value has no version.
"""

from __future__ import annotations

from typing import Any

import msgspec

from barque.supervise.messages import CreateOrder

#: More descriptors go in no message (SCM_MAX_FD is 253), and a longer value in no packet.
MAX_FDS = 200
MAX_VALUE = 128 << 10


class Luggage:
    """Descriptors on their way, each known by its place among them.

    Those that wake the keeper when they are ready come first; the places of the others count from the end, -1 the last.
    """

    def __init__(self) -> None:
        self._waking: list[int] = []
        self._silent: list[int] = []

    def waking(self, fd: int) -> int:
        self._waking.append(fd)
        return len(self._waking) - 1

    def silent(self, fd: int) -> int:
        self._silent.append(fd)
        return -len(self._silent)

    @property
    def fds(self) -> list[int]:
        return [*self._waking, *reversed(self._silent)]

    @property
    def wakers(self) -> int:
        return len(self._waking)


class Caller(msgspec.Struct, frozen=True, array_like=True):
    """A control connection: its place, and the serials of its Wait and (with the count it has seen) WaitOom."""

    place: int
    waits: list[int]
    oom_waits: list[tuple[int, int]]


class FileRest(msgspec.Struct, frozen=True, array_like=True):
    """A log file: its place, and what its driver says of unfinished lines."""

    place: int
    lines: Any


class LogRest(msgspec.Struct, frozen=True, array_like=True):
    """A log: the bytes lost, its file if it has one, the place of the connection to its shipper if that lives, and the
    streams in the middle of a line that is passed on, and of one that is dropped.
    """

    dropped: int
    file: FileRest | None = None
    shipper: int | None = None
    within: list[int] = []
    dropping: list[int] = []


class Rest(msgspec.Struct, frozen=True, array_like=True):
    """A container that runs. Streams are places by number, None for input that was closed; ``drains`` are those of
    processes that have ended, held open by others that they left behind.
    """

    order: CreateOrder
    pid: int
    pidfd: int
    started_at: str
    cgroup: dict[str, str]
    exec_exits: dict[str, int]
    listener: int
    callers: list[Caller]
    streams: dict[int, int | None]
    drains: list[dict[int, int | None]]
    oom: int | None = None
    log: LogRest | None = None
    backend: list[int] = []


def unpack(places: dict[int, int | None], fds: list[int]) -> dict[int, int]:
    """Descriptors of streams by number, -1 for input that was closed."""
    return {number: -1 if place is None else fds[place] for number, place in places.items()}


encoder = msgspec.msgpack.Encoder()
#: Built before the zygote forks.
decoder = msgspec.msgpack.Decoder(Rest)
