"""Signal names and numbers as docker's clients write them: ``KILL``, ``SIGKILL``, ``9``, ``RTMIN+3``."""

from __future__ import annotations

import re
import signal

from barque.errors import InvalidArgument

_REALTIME = re.compile(r"RTM(IN|AX)(?:([+-])([0-9]{1,2}))?\Z", re.ASCII)
DEFAULT_STOP = signal.SIGTERM


class InvalidSignal(InvalidArgument):
    text = "invalid signal: {value}"


class UnsupportedSignal(InvalidArgument):
    text = "the linux daemon does not support signal {number}"


def parse_signal(value: str) -> int:
    """The number of ``value``; raises :class:`InvalidSignal`, :class:`UnsupportedSignal`."""
    if value.isascii() and value.isdecimal():
        number = int(value)
        if number > int(signal.SIGRTMAX):
            raise UnsupportedSignal(number=number)
        if number:
            return number
        raise InvalidSignal(value=value)
    name = value.upper().removeprefix("SIG")
    if match := _REALTIME.match(name):
        base = int(signal.SIGRTMIN) if match[1] == "IN" else int(signal.SIGRTMAX)
        number = base + int((match[2] or "+") + (match[3] or "0"))
        if int(signal.SIGRTMIN) <= number <= int(signal.SIGRTMAX):
            return number
    elif f"SIG{name}" in signal.Signals.__members__:
        return int(signal.Signals[f"SIG{name}"])
    raise InvalidSignal(value=value)
