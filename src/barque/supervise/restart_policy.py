"""When a container that ended is started again, and after how long: docker's rules as plain functions.

docker: ``always`` and ``unless-stopped`` restart whatever the exit code, ``on-failure[:n]`` only after a failure and at
most n times; a stop by the user ends it. ``on-unhealthy`` is ours: as on-failure, and also after the engine has ended
a container whose health check said that it is unhealthy. The delay doubles from 100 ms up to a minute, and falls back
to 100 ms once the container has run for ten seconds.
"""

from __future__ import annotations

from dataclasses import dataclass

FIRST_DELAY = 0.1
LONGEST_DELAY = 60.0
STEADY_AFTER = 10.0


@dataclass(frozen=True)
class Policy:
    """``name`` is no (or empty), always, unless-stopped, on-failure or on-unhealthy; ``maximum`` 0: without limit."""

    name: str = "no"
    maximum: int = 0


@dataclass(frozen=True)
class Backoff:
    """What has to be remembered between two exits: restarts in a row so far and the last delay in seconds."""

    restarts: int = 0
    delay: float = 0.0


def after_exit(policy: Policy, backoff: Backoff, *, exit_code: int, ran_for: float, stopped: bool,
               unhealthy: bool = False) -> Backoff | None:
    """The new state, whose ``delay`` is the time in seconds to wait before the start; None: it stays down.

    ``ran_for`` is in seconds; ``stopped`` says that the user asked for the end (stop, or kill with a stop signal),
    ``unhealthy`` that the engine did because of the health check.
    """
    if stopped or not _wants(policy, backoff.restarts, failed=exit_code != 0 or unhealthy):
        return None
    if backoff.delay == 0.0 or ran_for >= STEADY_AFTER:
        return Backoff(backoff.restarts + 1, FIRST_DELAY)
    return Backoff(backoff.restarts + 1, min(backoff.delay * 2, LONGEST_DELAY))


def resumed(restarts: int, ran_for: float) -> Backoff:
    """The state that an earlier daemon had when the container ended for the ``restarts``-th time in a row."""
    if restarts == 0 or ran_for >= STEADY_AFTER:
        return Backoff(restarts, FIRST_DELAY)
    return Backoff(restarts, min(FIRST_DELAY * 2.0 ** min(restarts - 1, 32), LONGEST_DELAY))


def at_boot(policy: Policy, *, stopped: bool) -> bool:
    """Whether the daemon starts, when it comes up, a container that ended while the daemon was down.

    ``unless-stopped`` and ``always`` differ only here: after the user had stopped it, ``always`` comes up again.
    """
    if policy.name == "always":
        return True
    return policy.name == "unless-stopped" and not stopped


def _wants(policy: Policy, restarts: int, *, failed: bool) -> bool:
    if policy.name in ("always", "unless-stopped"):
        return True
    if policy.name in ("on-failure", "on-unhealthy"):
        return failed and (policy.maximum == 0 or restarts < policy.maximum)
    return False
