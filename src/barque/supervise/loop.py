"""The event loop of a monitor: epoll, timers and a task for idle moments, in one thread."""

from __future__ import annotations

import heapq
import select
import time
from collections.abc import Callable

IN = select.EPOLLIN
OUT = select.EPOLLOUT
PRI = select.EPOLLPRI
HANG_UP = select.EPOLLHUP | select.EPOLLERR

Callback = Callable[[int], None]


class Timer:
    """A call that is due at ``when`` (monotonic seconds) unless it is cancelled before."""

    __slots__ = ("when", "call")

    def __init__(self, when: float, call: Callable[[], None]) -> None:
        self.when = when
        self.call: Callable[[], None] | None = call

    def cancel(self) -> None:
        self.call = None

    def __lt__(self, other: Timer) -> bool:
        return self.when < other.when


class Loop:
    """Level-triggered. A callback gets the epoll events of its descriptor; it may add and forget any descriptor.

    A descriptor that is watched with no events still reports EPOLLHUP and EPOLLERR, over and over: forget it to pause.
    Forget a descriptor before it is closed: a callback that runs late would meet its successor otherwise.
    """

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._callbacks: dict[int, Callback] = {}
        self._events: dict[int, int] = {}
        self._timers: list[Timer] = []
        self._running = False
        #: Does one piece of background work and says whether there is more; called when nothing else is to be done.
        self.idle: Callable[[], bool] | None = None
        self._patience = -1.0
        self._quiet: Callable[[], None] | None = None

    def watch(self, fd: int, events: int, callback: Callback) -> None:
        """Call ``callback`` on ``events`` of ``fd``; replaces what was said about ``fd`` before."""
        self._callbacks[fd] = callback
        known = self._events.get(fd)
        if known is None:
            self._epoll.register(fd, events)
        elif known != events:
            self._epoll.modify(fd, events)
        self._events[fd] = events

    def forget(self, fd: int) -> None:
        if self._events.pop(fd, None) is not None:
            del self._callbacks[fd]
            self._epoll.unregister(fd)

    def call_later(self, seconds: float, call: Callable[[], None]) -> Timer:
        timer = Timer(time.monotonic() + seconds, call)
        heapq.heappush(self._timers, timer)
        return timer

    def call_when_quiet(self, seconds: float, call: Callable[[], None]) -> None:
        """Call ``call`` when nothing has happened for ``seconds`` and no timer is set; again after the next event."""
        self._patience, self._quiet = seconds, call

    def stop(self) -> None:
        self._running = False

    def run(self) -> None:
        """Serve until :meth:`stop`."""
        self._running = True
        quiet = False
        while self._running:
            timeout = self._timeout()
            waits = timeout < 0 and not quiet and self._quiet is not None
            ready = self._epoll.poll(self._patience if waits else timeout)
            for fd, events in ready:
                callback = self._callbacks.get(fd)
                if callback is not None:
                    callback(events)
            self._run_timers()
            if self.idle is not None and not self.idle():
                self.idle = None
            quiet = waits and not ready
            if quiet and self._quiet is not None:
                self._quiet()

    def _timeout(self) -> float:
        if self.idle is not None:
            return 0
        while self._timers and self._timers[0].call is None:
            heapq.heappop(self._timers)
        if not self._timers:
            return -1
        # epoll counts in milliseconds and rounds up, so a timer is never early.
        return max(0.0, self._timers[0].when - time.monotonic())

    def _run_timers(self) -> None:
        now = time.monotonic()
        while self._timers and self._timers[0].when <= now:
            timer = heapq.heappop(self._timers)
            if timer.call is not None:
                timer.call()
