"""No cgroup at all: for an ordinary user on a host that has delegated none to it."""

from __future__ import annotations

import errno
import os
import signal as signals
from typing import NoReturn

import msgspec

from barque.oci.runtime_spec import Resources
from barque.runtime.cgroups.base import InvalidResources
from barque.runtime.cgroups.stats import Stats


class AbsentManager:
    """Meets :class:`barque.runtime.cgroups.base.CgroupManager`: what needs a cgroup is refused by name."""

    def create(self) -> None:
        """Nothing to make."""

    def apply(self, resources: Resources) -> list[str]:
        """Refuse limits; device rules need none, as an ordinary user makes no devices."""
        wanted = msgspec.to_builtins(msgspec.structs.replace(resources, devices=[]))
        named = sorted(key for key, value in wanted.items() if value)
        if named:
            raise InvalidResources(f"cannot set {named[0]} limit: container could not join or create cgroup")
        return []

    def add(self, pid: int, beside: int | None = None) -> None:
        """It stays where its maker is."""

    def open_for_clone(self) -> int | None:
        return None

    def open_for_self(self) -> list[int]:
        return []

    def freeze(self) -> None:
        _refuse("pause")

    def thaw(self) -> None:
        """Nothing is frozen."""

    def frozen(self) -> bool:
        return False

    def kill(self, signal: int = signals.SIGKILL) -> None:
        """The first process takes its PID namespace along; others cannot be told from the user's own."""
        if signal != signals.SIGKILL:
            _refuse("signal all processes")

    def pids(self) -> list[int]:
        _refuse("list the processes")

    def stats(self) -> Stats:
        _refuse("read statistics")

    def oom_fd(self) -> int | None:
        return None

    def oom_kills(self) -> int:
        return 0

    def destroy(self) -> None:
        """Nothing was made."""

    def paths(self) -> dict[str, str]:
        return {}


def _refuse(what: str) -> NoReturn:
    raise OSError(errno.EOPNOTSUPP, f"{os.strerror(errno.EOPNOTSUPP)}: cannot {what} of a container without a cgroup")
