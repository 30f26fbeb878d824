"""Several processes that serve together: forked from one that only watches them."""

from __future__ import annotations

import gc
import logging
import os
import signal
import time
from collections.abc import Callable

from barque.sys.prctl import set_death_signal

log = logging.getLogger("barque.registry")
_WATCHED = {signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP}
#: One that always dies at once is not started more often than this, in seconds.
_PAUSE = 1.0
#: One worker does with one processor what docker's registry does with five. More than eight seldom help, and each costs
#: memory.
_PROCESSORS, _MOST = 4, 8


def worth_their_memory() -> int:
    """How many workers are worth their memory here: transfers use the other processors from one alone."""
    return min(-(-len(os.sched_getaffinity(0)) // _PROCESSORS), _MOST)


def run(count: int, work: Callable[[int], int]) -> int:
    """Let ``count`` processes do ``work(number)`` until SIGTERM or SIGINT, which ends them all; the exit code.

    One that dies is started anew; SIGHUP is handed on. No thread may exist yet.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _WATCHED)
    gc.collect()
    gc.freeze()  # the collector's marks would copy every page that the processes share
    running = {_start(number, work, before): number for number in range(count)}
    began = dict.fromkeys(running.values(), time.monotonic())
    ending = False
    while running:
        received = signal.sigwait(_WATCHED)
        if received == signal.SIGHUP:
            _tell(running, signal.SIGHUP)
        elif received != signal.SIGCHLD:
            ending = True
            _tell(running, signal.SIGTERM)
        for number, status in _ended(running):
            if ending:
                continue
            log.error("worker %d ended with status %d and is started anew", number, status)
            time.sleep(max(0.0, began[number] + _PAUSE - time.monotonic()))
            running[_start(number, work, before)] = number
            began[number] = time.monotonic()
    signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return 0


def _start(number: int, work: Callable[[int], int], mask: set[int]) -> int:
    watcher = os.getpid()
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        set_death_signal(signal.SIGTERM)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # until ``work`` wants it
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        if os.getppid() == watcher:
            code = work(number)
    except BaseException:  # the end of this process: it must never return into the code of the one it was forked from
        log.exception("worker %d", number)
    finally:
        os._exit(code)


def _tell(running: dict[int, int], number: int) -> None:
    for pid in running:
        os.kill(pid, number)  # not reaped yet, so the id is still its own


def _ended(running: dict[int, int]) -> list[tuple[int, int]]:
    """Number and exit status (negative: the signal) of those that ended; they are taken out of ``running``."""
    found = []
    for pid in list(running):
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            found.append((running.pop(pid), os.waitstatus_to_exitcode(status)))
    return found
