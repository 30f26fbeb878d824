"""Into which cgroup a new process is born, or moves itself first of all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from barque.runtime.cgroups import CgroupManager
from barque.sys import process


class Birthplace:
    """Descriptors of a cgroup: the caller clones with them, the child moves in with the rest."""

    def __init__(self, for_clone: int | None, for_self: list[int]) -> None:
        self._for_clone = for_clone
        self._for_self = for_self

    @property
    def complete(self) -> bool:
        """Whether the child ends up in all of the cgroup without :meth:`CgroupManager.add`."""
        return self._for_clone is not None or bool(self._for_self)

    def clone(self, flags: int) -> process.Clone | None:
        return process.clone(flags, self._for_clone)

    def enter(self) -> None:
        """In the child, before anything else."""
        for fd in self._for_self:
            os.write(fd, b"0")


@contextmanager
def birthplace(cgroup: CgroupManager) -> Iterator[Birthplace]:
    """Open for the length of the block; raises OSError."""
    for_clone, for_self = cgroup.open_for_clone(), []
    try:
        for_self = cgroup.open_for_self()
        yield Birthplace(for_clone, for_self)
    finally:
        for fd in [*for_self, *([for_clone] if for_clone is not None else [])]:
            os.close(fd)
