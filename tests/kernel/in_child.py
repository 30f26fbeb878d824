"""Running a function in a forked child, for what a process can do to itself only once."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


class Died(Exception):
    """The child ended by the signal ``number``."""

    def __init__(self, number: int) -> None:
        super().__init__(f"signal {number}")
        self.number = number


def in_child(body: Callable[[], T]) -> T:
    """What ``body`` returns, or its exception, or :class:`Died`."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            try:
                answer: tuple[bool, object] = (True, body())
            except BaseException as error:
                answer = (False, error)
            os.write(writer, pickle.dumps(answer))
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as file:
        data = file.read()
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if status < 0:
        raise Died(-status)
    good, value = pickle.loads(data)
    if not good:
        raise value
    return value
