"""Numbers that stand for no process."""

from __future__ import annotations

import subprocess
import sys
import threading

import pytest

from barque.sys import process


def test_the_number_of_a_thread_is_no_process() -> None:
    started, stop = threading.Event(), threading.Event()

    def wait() -> None:
        started.set()
        stop.wait()

    thread = threading.Thread(target=wait)
    thread.start()
    try:
        assert started.wait(60) and thread.native_id
        with pytest.raises(ProcessLookupError):
            process.pidfd_open(thread.native_id)
    finally:
        stop.set()
        thread.join()


def test_the_number_of_a_process_that_was_reaped() -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait(60)
    with pytest.raises(ProcessLookupError):
        process.pidfd_open(gone.pid)
