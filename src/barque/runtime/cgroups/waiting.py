"""Waiting for a cgroup to change, on the kernel's own notice where it gives one, and taking it away."""

from __future__ import annotations

import os
import select
import time

from barque.runtime.cgroups.base import processes, walk
from barque.sys import process

#: How long dying processes may take to leave: tearing down a big address space is slow, uninterruptible I/O slower.
REMOVE_TIMEOUT = 10.0
_EBUSY = 16


def for_event(directory: str, key: str, wanted: int, timeout: float) -> bool:
    """Wait until ``key`` in version 2's cgroup.events is ``wanted``; whether it is, or the cgroup is gone."""
    deadline = time.monotonic() + timeout
    try:
        fd = os.open(os.path.join(directory, "cgroup.events"), os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return True
    try:
        poll = select.poll()
        poll.register(fd, select.POLLPRI)
        while True:
            try:
                text = os.pread(fd, 4096, 0).decode()
            except OSError as error:
                if error.errno == 19:
                    return True
                raise
            if f"{key} {wanted}" in text.splitlines():
                return True
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            poll.poll(left * 1000)
    finally:
        os.close(fd)


def for_exit(directory: str, timeout: float) -> bool:
    """Wait until all processes in ``directory`` and below have exited, by pidfd; whether they have.

    For version 1, which has no event for an empty cgroup.
    """
    deadline = time.monotonic() + timeout
    gone: set[int] = set()
    while pids := [pid for pid in processes(directory) if pid > 0 and pid not in gone]:
        left = deadline - time.monotonic()
        if left <= 0:
            return False
        try:
            fd = process.pidfd_open(pids[0])
        except ProcessLookupError:
            continue
        try:
            poll = select.poll()
            poll.register(fd, select.POLLIN)
            if poll.poll(left * 1000):
                # A zombie may stay listed, but does not keep the cgroup from being removed.
                gone.add(pids[0])
        finally:
            os.close(fd)
    return True


def remove(directory: str, timeout: float) -> None:
    """rmdir ``directory`` and all below, whose processes have exited; absent is fine.

    The kernel may count a task as present for a moment after its exit was reported, with no event for the end of that
    moment: only then it is tried again.
    """
    deadline, pause = time.monotonic() + timeout, 0.0005
    while True:
        try:
            for cgroup in walk(directory):
                os.rmdir(cgroup)
            return
        except FileNotFoundError:
            continue
        except OSError as error:
            if error.errno != _EBUSY or time.monotonic() > deadline:
                raise
        time.sleep(pause)
        pause = min(pause * 2, 0.05)
