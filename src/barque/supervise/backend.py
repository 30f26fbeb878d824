"""What a monitor needs of an OCI runtime.

Synchronous; a call may take as long as the start of a process does. All but ``oom_kills`` and ``cgroup`` may raise
RuntimeFailure or OSError.
"""

from __future__ import annotations

import errno
from typing import NamedTuple, Protocol

from barque.errors import BarqueError
from barque.runtime.failure import RuntimeFailure
from barque.supervise.messages import CreateOrder, ExecOrder, Failure
from barque.supervise.rest import Luggage

#: Errors that are an answer to a request; any other one is a bug.
REFUSALS = (RuntimeFailure, BarqueError, OSError, ValueError)
#: Standard input, output and error of the process; None: it gets a terminal.
Fds = tuple[int, int, int] | None


class Process(Protocol):
    """A child of the monitor: its pid in the host's namespace, a pidfd, and the master of its terminal if it has one.

    The descriptors are the receiver's.
    """

    @property
    def pid(self) -> int: ...
    @property
    def pidfd(self) -> int: ...
    @property
    def console(self) -> int | None: ...


class Child(NamedTuple):
    pid: int
    pidfd: int
    console: int | None = None


class Backend(Protocol):
    """One container. ``create`` comes first; ``kill_all`` and ``cleanup`` may come at any time, and more than once."""

    def create(self, order: CreateOrder, fds: Fds) -> Process: ...

    def start(self) -> None: ...

    def exec(self, order: ExecOrder, fds: Fds) -> Process: ...

    def kill_all(self) -> None:
        """SIGKILL everything that is left of the container."""

    def oom_fd(self) -> int | None:
        """A descriptor that turns readable when the container is out of memory; the caller closes it."""

    def oom_kills(self) -> int: ...

    def cgroup(self) -> dict[str, str]:
        """Controller -> directory, enough for ``cgroups.load``."""

    def pack(self, luggage: Luggage) -> list[int]:
        """The places of what :meth:`unpack` needs beyond the process. The container runs."""

    def unpack(self, order: CreateOrder, child: Process, cgroup: dict[str, str], fds: list[int]) -> None:
        """Instead of ``create`` and ``start``: go on with a container that another process has started."""

    def cleanup(self) -> None:
        """Remove what the container leaves in the system (cgroup), run the poststop hooks."""


class Backends(Protocol):
    """What makes the backend of a monitor."""

    def prepare(self) -> None:
        """Do ahead what the order of a new container may need."""

    def make(self, order: CreateOrder) -> Backend: ...

    def close(self) -> None:
        """Undo what was prepared and is not needed. Idempotent."""


def as_failure(stage: str, error: BaseException) -> Failure:
    """``error`` as data for the wire; a refused document has the stage "validate" and EINVAL."""
    if isinstance(error, BarqueError):
        return Failure(stage="validate", errno=errno.EINVAL, detail=error.message)
    failure = RuntimeFailure.of(stage, error)
    return Failure(stage=failure.stage, syscall=failure.syscall, errno=failure.errno, path=failure.path,
                   detail=failure.detail)


def as_error(failure: Failure) -> RuntimeFailure:
    return RuntimeFailure(failure.stage, syscall=failure.syscall, errno=failure.errno, path=failure.path,
                          detail=failure.detail)
