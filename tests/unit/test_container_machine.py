"""The life of a container: which changes are allowed, and what each makes of the facts."""

from __future__ import annotations

import pytest

from barque.engine.containers import machine
from barque.engine.containers.machine import Facts, Status
from barque.errors import Conflict, NotModified

AT = "2026-01-02T03:04:05.000000000Z"


def running() -> Facts:
    return machine.started(Facts(), 42, AT)


def test_a_start_forgets_the_last_end() -> None:
    ended = machine.exited(running(), 137, AT, oom_killed=True, error="x")
    again = machine.started(machine.stop_asked(ended), 43, AT)
    assert (again.status, again.pid, again.exit_code, again.oom_killed, again.error, again.stopped_by_user) == (
        Status.RUNNING, 43, 0, False, "", False)


def test_a_container_that_never_ran_stays_created() -> None:
    assert machine.start_failed(Facts(), 127, "no").status is Status.CREATED
    assert machine.start_failed(machine.exited(running(), 0, AT), 127, "no").status is Status.EXITED


def test_restarts_are_counted_until_a_start_by_hand() -> None:
    waiting = machine.exited(running(), 1, AT, restarting=True)
    assert (waiting.status, waiting.restart_count, waiting.pid) == (Status.RESTARTING, 1, 0)
    assert machine.restart_reset(machine.restart_given_up(waiting)).restart_count == 0


@pytest.mark.parametrize(("change", "facts"), [
    (lambda facts: machine.paused(facts), Facts()),
    (lambda facts: machine.resumed(facts), Facts(status=Status.RUNNING)),
    (lambda facts: machine.exited(facts, 0, AT), Facts()),
    (lambda facts: machine.started(facts, 1, AT), Facts(status=Status.RUNNING)),
    (lambda facts: machine.removing(facts), Facts(status=Status.RUNNING)),
    (lambda facts: machine.removing(facts), Facts(status=Status.REMOVING)),
])
def test_what_the_state_forbids_is_a_bug(change: object, facts: Facts) -> None:
    with pytest.raises(machine.IllegalTransition):
        change(facts)  # type: ignore[operator]


def test_checks_speak_dockerds_language() -> None:
    with pytest.raises(NotModified):
        machine.check_start(running())
    with pytest.raises(Conflict, match="cannot start a paused container, try unpause instead"):
        machine.check_start(machine.paused(running()))
    with pytest.raises(Conflict, match="container abc is not running"):
        machine.check_exec(Facts(), "abc")
