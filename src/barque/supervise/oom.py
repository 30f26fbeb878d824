"""What the kernel tells of a container that is out of memory, for those who asked for it (WaitOom)."""

from __future__ import annotations

import os

from barque.supervise import messages as m
from barque.supervise.backend import Backend
from barque.supervise.connection import Connection
from barque.supervise.loop import IN, PRI, Loop

#: How often, and after how many seconds each, the count of kills is looked at after the kernel told of a shortage.
LOOKS = 20
LOOK_AFTER = 0.05


class OomWatch:
    """Answers requests once the count of kills is above what they have seen, and all of them after :meth:`end`."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._backend: Backend | None = None
        #: What turns readable when memory is short, -1 where nothing tells.
        self.fd = -1
        self.waiters: list[tuple[Connection, int, int]] = []
        self._ended = False

    def watch(self, backend: Backend, fd: int | None) -> None:
        """``fd`` is what ``backend.oom_fd()`` gave, and the object's from now on."""
        self._backend = backend
        if fd is not None:
            self.fd = fd
            os.set_blocking(fd, False)
            self._loop.watch(fd, IN | PRI, lambda _: self._out_of_memory())

    def wait(self, connection: Connection, serial: int, seen: int) -> None:
        self.waiters.append((connection, serial, seen))
        self.answer()

    def forget(self, connection: Connection) -> None:
        self.waiters = [waiter for waiter in self.waiters if waiter[0] is not connection]

    def end(self) -> None:
        """The container has ended; its cgroup is still there."""
        self._ended = True
        self.answer()

    def close(self) -> None:
        """The cgroup goes away."""
        self._backend = None
        self._close()

    def answer(self) -> None:
        count = self._backend.oom_kills() if self._backend is not None else 0
        waiting, self.waiters = self.waiters, []
        for connection, serial, seen in waiting:
            if count > seen or self._ended:
                connection.answer(serial, m.OomCount(count))
            else:
                self.waiters.append((connection, serial, seen))

    def _out_of_memory(self) -> None:
        try:
            if not os.read(self.fd, 4096):
                self._close()
        except BlockingIOError:
            pass
        except OSError:
            self._close()
        self._look(LOOKS)

    def _look(self, looks: int) -> None:
        """Version 1 tells of the shortage before it has chosen whom to kill, and counts the kill without telling."""
        self.answer()
        if self.waiters and looks:
            self._loop.call_later(LOOK_AFTER, lambda: self._look(looks - 1))

    def _close(self) -> None:
        if self.fd >= 0:
            self._loop.forget(self.fd)
            os.close(self.fd)
            self.fd = -1
