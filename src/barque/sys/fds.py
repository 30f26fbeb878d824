"""Descriptors: moving them to fixed numbers for an exec."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Sequence


def place(sources: Sequence[int], first: int = 0) -> None:
    """Put copies of ``sources`` at ``first``, ``first + 1`` ... that survive an exec; sources are left open.

    Whatever was open there is closed, except that a source within the range is saved first.
    """
    end = first + len(sources)
    moved = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, end) if first <= fd < end and fd != first + index else fd
             for index, fd in enumerate(sources)]
    for index, fd in enumerate(moved):
        if fd == first + index:
            os.set_inheritable(fd, True)
        else:
            os.dup2(fd, first + index, inheritable=True)
