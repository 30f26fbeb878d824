"""Into which cgroup a new process is born, or moves itself first of all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from barque.runtime.cgroups import CgroupManager
from barque.sys import process


class Birthplace:
    """Descriptors of a cgroup: the caller clones with them, the child moves in with the rest.

    They lead to the host's cgroups, so in the child they are gone before it does anything else.
    """

    def __init__(self, for_clone: int | None = None) -> None:
        self.for_clone = for_clone
        self.for_self: list[int] = []

    @property
    def complete(self) -> bool:
        """Whether the child ends up in all of the cgroup without :meth:`CgroupManager.add`."""
        return self.for_clone is not None or bool(self.for_self)

    def clone(self, flags: int) -> process.Clone | None:
        return process.clone(flags, self.for_clone)

    def enter(self) -> None:
        """In the child, first of all."""
        for fd in self.for_self:
            os.write(fd, b"0")
        self.close()

    def close(self) -> None:
        """From here on it is a place for nobody: clones stay where the caller is."""
        for fd in [*self.for_self, *([self.for_clone] if self.for_clone is not None else [])]:
            os.close(fd)
        self.for_clone, self.for_self = None, []


@contextmanager
def birthplace(cgroup: CgroupManager) -> Iterator[Birthplace]:
    """Open for the length of the block; raises OSError."""
    place = Birthplace(cgroup.open_for_clone())
    try:
        place.for_self = cgroup.open_for_self()
        yield place
    finally:
        place.close()
