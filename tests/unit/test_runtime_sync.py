"""The talk between caller and child: nothing that the child said is lost."""

from __future__ import annotations

import pytest

from barque.runtime import sync
from barque.runtime.failure import RuntimeFailure


def test_a_failure_is_heard_although_the_child_left_an_order_unread():
    caller_socket, child_socket = sync.pair()
    caller, child = sync.CallerEnd(caller_socket), sync.ChildEnd(child_socket)
    caller.go()
    caller.order_start()
    child.failed(RuntimeFailure("exec", errno=2, detail="why"))
    child_socket.close()
    with pytest.raises(RuntimeFailure) as caught:
        caller.wait_ready()
    caller.close()
    assert (caught.value.stage, str(caught.value)) == ("exec", "why")


def test_a_silent_end_is_a_failure_before_the_start_and_success_after():
    caller_socket, child_socket = sync.pair()
    caller = sync.CallerEnd(caller_socket)
    child_socket.close()
    with pytest.raises(RuntimeFailure, match="died before it was set up"):
        caller.wait_ready()
    caller.wait_exec()
    caller.close()
