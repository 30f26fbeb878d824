"""Resource limits by name (prlimit(2)): the names are the OCI's, ``RLIMIT_NOFILE``."""

from __future__ import annotations

import resource

INFINITY = (1 << 64) - 1

#: asm-generic/resource.h; also the numbers of x86 and arm.
NUMBERS = {name: number for number, name in enumerate((
    "RLIMIT_CPU", "RLIMIT_FSIZE", "RLIMIT_DATA", "RLIMIT_STACK", "RLIMIT_CORE", "RLIMIT_RSS", "RLIMIT_NPROC",
    "RLIMIT_NOFILE", "RLIMIT_MEMLOCK", "RLIMIT_AS", "RLIMIT_LOCKS", "RLIMIT_SIGPENDING", "RLIMIT_MSGQUEUE",
    "RLIMIT_NICE", "RLIMIT_RTPRIO", "RLIMIT_RTTIME"))}


class UnknownRlimit(ValueError):
    """Not the name of a resource limit."""


def number(name: str) -> int:
    """The RLIMIT_* number of ``name``; raises :class:`UnknownRlimit`."""
    try:
        return NUMBERS[name]
    except KeyError:
        raise UnknownRlimit(f"wrong rlimit value: {name}") from None


def get(name: str, pid: int = 0) -> tuple[int, int]:
    """(soft, hard) of process ``pid`` (0: the caller)."""
    soft, hard = resource.prlimit(pid, number(name))
    return _unsigned(soft), _unsigned(hard)


def set_limit(name: str, soft: int, hard: int, pid: int = 0) -> str | None:
    """Set a limit of ``pid`` (0: the caller); returns a warning where the kernel gave less, else ``None``.

    Raising a hard limit needs CAP_SYS_RESOURCE in the initial user namespace; without it the hard limit stays what
    it is and the soft one goes as high as that allows. Raises :class:`UnknownRlimit`, ValueError (soft above hard) and
    other OSErrors.
    """
    which = number(name)
    if soft > hard:
        raise ValueError(f"{name}: soft limit {soft} is above the hard limit {hard}")
    try:
        resource.prlimit(pid, which, (_signed(soft), _signed(hard)))
    except (PermissionError, ValueError):
        _, own = get(name, pid)
        if hard <= own:
            raise
        resource.prlimit(pid, which, (_signed(min(soft, own)), _signed(own)))
        return f"{name}: the hard limit stays at {_text(own)}, no permission to raise it to {_text(hard)}"
    return None


def _signed(value: int) -> int:
    return resource.RLIM_INFINITY if value >= INFINITY else value


def _unsigned(value: int) -> int:
    return INFINITY if value == resource.RLIM_INFINITY else value


def _text(value: int) -> str:
    return "unlimited" if value == INFINITY else str(value)
