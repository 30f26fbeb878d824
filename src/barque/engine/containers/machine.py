"""The life of a container: one status, the facts about it, and every change that is allowed.

::

    created --started--> running --paused--> paused --resumed--> running
       |                    |  ^                |
       |                    |  +---started---+  |
       |start_failed        v                |  v
       +----------------> exited <---------- restarting        (exited reaches both: the policy decides)
    created, exited, dead --removing--> removing --remove_failed--> dead

Pure functions over frozen facts: the caller stores the result before it shows it to anyone.
"""

from __future__ import annotations

import enum

import msgspec

from barque.engine import clock
from barque.errors import Conflict, NotModified


class Status(enum.StrEnum):
    CREATED = "created"
    RUNNING = "running"
    PAUSED = "paused"
    RESTARTING = "restarting"
    EXITED = "exited"
    REMOVING = "removing"
    DEAD = "dead"


#: A process of the container exists.
ALIVE = frozenset({Status.RUNNING, Status.PAUSED})


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """What is true of one container. ``pid`` is PID 1's in the host's namespace, 0 when there is none.

    ``stopped_by_user`` keeps the restart policy away; it is forgotten by the next start.
    """

    status: Status = Status.CREATED
    pid: int = 0
    exit_code: int = 0
    error: str = ""
    oom_killed: bool = False
    started_at: str = clock.ZERO
    finished_at: str = clock.ZERO
    restart_count: int = 0
    stopped_by_user: bool = False
    has_been_started: bool = False

    @property
    def alive(self) -> bool:
        return self.status in ALIVE


class IllegalTransition(AssertionError):
    """A bug of the engine: it let something happen that the state forbids."""


def _expect(facts: Facts, action: str, *allowed: Status) -> None:
    if facts.status not in allowed:
        raise IllegalTransition(f"cannot apply {action!r} to a container that is {facts.status}")


def started(facts: Facts, pid: int, at: str) -> Facts:
    _expect(facts, "started", Status.CREATED, Status.EXITED, Status.RESTARTING)
    return msgspec.structs.replace(facts, status=Status.RUNNING, pid=pid, exit_code=0, error="", oom_killed=False,
                                   started_at=at, stopped_by_user=False, has_been_started=True)


def start_failed(facts: Facts, exit_code: int, error: str) -> Facts:
    """``created`` stays ``created`` (docker shows a container that never ran so), any other state ends in
    ``exited``.
    """
    _expect(facts, "start_failed", Status.CREATED, Status.EXITED, Status.RESTARTING)
    status = Status.CREATED if facts.status is Status.CREATED else Status.EXITED
    return msgspec.structs.replace(facts, status=status, pid=0, exit_code=exit_code, error=error)


def exited(facts: Facts, exit_code: int, at: str, *, oom_killed: bool = False, error: str = "",
           restarting: bool = False) -> Facts:
    _expect(facts, "exited", Status.RUNNING, Status.PAUSED)
    return msgspec.structs.replace(facts, status=Status.RESTARTING if restarting else Status.EXITED, pid=0,
                                   exit_code=exit_code, oom_killed=oom_killed, error=error, finished_at=at,
                                   restart_count=facts.restart_count + restarting)


def restart_given_up(facts: Facts) -> Facts:
    """The policy no longer applies: stopped by hand while it waited, or the daemon went down."""
    _expect(facts, "restart_given_up", Status.RESTARTING)
    return msgspec.structs.replace(facts, status=Status.EXITED)


def will_restart(facts: Facts) -> Facts:
    """At boot: a container that ended while no daemon ran, and whose policy wants it back."""
    _expect(facts, "will_restart", Status.EXITED)
    return msgspec.structs.replace(facts, status=Status.RESTARTING)


def restart_reset(facts: Facts) -> Facts:
    """A start by hand begins a new count."""
    return msgspec.structs.replace(facts, restart_count=0)


def stop_asked(facts: Facts) -> Facts:
    return facts if facts.stopped_by_user else msgspec.structs.replace(facts, stopped_by_user=True)


def paused(facts: Facts) -> Facts:
    _expect(facts, "paused", Status.RUNNING)
    return msgspec.structs.replace(facts, status=Status.PAUSED)


def resumed(facts: Facts) -> Facts:
    _expect(facts, "resumed", Status.PAUSED)
    return msgspec.structs.replace(facts, status=Status.RUNNING)


def removing(facts: Facts) -> Facts:
    _expect(facts, "removing", Status.CREATED, Status.EXITED, Status.DEAD)
    return msgspec.structs.replace(facts, status=Status.REMOVING)


def remove_failed(facts: Facts, error: str) -> Facts:
    _expect(facts, "remove_failed", Status.REMOVING)
    return msgspec.structs.replace(facts, status=Status.DEAD, error=error)


class NotRunning(Conflict):
    text = "container {id} is not running"


class Paused(Conflict):
    text = "container {id} is paused, unpause the container before exec"


class Restarting(Conflict):
    text = "Container {id} is restarting, wait until the container is running"


def check_start(facts: Facts, *, doomed: bool = False) -> None:
    """``doomed``: it is about to be removed. Raises NotModified when it runs, Conflict when it cannot start now."""
    if facts.status is Status.PAUSED:
        raise Conflict("cannot start a paused container, try unpause instead")
    if facts.status is Status.RUNNING:
        raise NotModified("container already started")
    if doomed or facts.status in (Status.REMOVING, Status.DEAD):
        raise Conflict("container is marked for removal and cannot be started")


def check_exec(facts: Facts, container_id: str) -> None:
    if not facts.alive:
        raise NotRunning(id=container_id)
    if facts.status is Status.PAUSED:
        raise Paused(id=container_id)
    if facts.status is Status.RESTARTING:
        raise Restarting(id=container_id)
