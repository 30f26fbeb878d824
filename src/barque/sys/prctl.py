"""Attributes of the calling process that have no better home: prctl(2), personality(2), keyrings, scheduling."""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Iterable

from barque.sys.libc import check, libc, number, syscall

_PR_SET_PDEATHSIG = 1
_PR_SET_DUMPABLE = 4
_PR_SET_CHILD_SUBREAPER = 36
_KEYCTL_JOIN_SESSION_KEYRING = 1
_IOPRIO_WHO_PROCESS = 1
_IOPRIO_CLASS_SHIFT = 13

PERSONALITIES = {"LINUX": 0x0000, "LINUX32": 0x0008}
SCHED_POLICIES = {"SCHED_OTHER": 0, "SCHED_FIFO": 1, "SCHED_RR": 2, "SCHED_BATCH": 3, "SCHED_ISO": 4, "SCHED_IDLE": 5,
                  "SCHED_DEADLINE": 6}
SCHED_FLAGS = {"SCHED_FLAG_RESET_ON_FORK": 0x01, "SCHED_FLAG_RECLAIM": 0x02, "SCHED_FLAG_DL_OVERRUN": 0x04,
               "SCHED_FLAG_KEEP_POLICY": 0x08, "SCHED_FLAG_KEEP_PARAMS": 0x10, "SCHED_FLAG_UTIL_CLAMP_MIN": 0x20,
               "SCHED_FLAG_UTIL_CLAMP_MAX": 0x40}
IO_CLASSES = {"IOPRIO_CLASS_RT": 1, "IOPRIO_CLASS_BE": 2, "IOPRIO_CLASS_IDLE": 3}
MEMORY_POLICIES = {"MPOL_DEFAULT": 0, "MPOL_PREFERRED": 1, "MPOL_BIND": 2, "MPOL_INTERLEAVE": 3, "MPOL_LOCAL": 4,
                   "MPOL_PREFERRED_MANY": 5, "MPOL_WEIGHTED_INTERLEAVE": 6}
MEMORY_POLICY_FLAGS = {"MPOL_F_STATIC_NODES": 0x8000, "MPOL_F_RELATIVE_NODES": 0x4000, "MPOL_F_NUMA_BALANCING": 0x2000}


#: Without errno, and the types said here: both cost a freshly forked process copies of thirty pages at its first call.
_prctl_alone = ctypes.CDLL(None).prctl
_prctl_alone.argtypes = [ctypes.c_int, *[ctypes.c_ulong] * 4]


def _prctl(option: int, value: int) -> None:
    if _prctl_alone(option, value, 0, 0, 0) < 0:
        zero = ctypes.c_ulong(0)
        check(libc.prctl(option, ctypes.c_ulong(value), zero, zero, zero), f"prctl({option})")


def set_dumpable(dumpable: bool) -> None:
    """Whether others of the same user may look into the process (ptrace, /proc/PID/{exe,mem,fd}); exec resets it."""
    _prctl(_PR_SET_DUMPABLE, int(dumpable))


def set_death_signal(signum: int) -> None:
    """The signal to get when the parent thread dies."""
    _prctl(_PR_SET_PDEATHSIG, signum)


def set_subreaper() -> None:
    """Become the parent of orphaned descendants."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def set_personality(persona: int) -> None:
    check(libc.personality(ctypes.c_ulong(persona)), "personality")


def join_session_keyring(name: str) -> None:
    """Start a session keyring of that name (keyctl(2)); raises OSError(ENOSYS) on a kernel without keys."""
    syscall(number("keyctl"), _KEYCTL_JOIN_SESSION_KEYRING, name.encode(), what="keyctl")


def set_io_priority(io_class: int, priority: int) -> None:
    syscall(number("ioprio_set"), _IOPRIO_WHO_PROCESS, 0, io_class << _IOPRIO_CLASS_SHIFT | priority,
            what="ioprio_set")


def set_scheduler(policy: int, *, flags: int = 0, nice: int = 0, priority: int = 0,
                  deadline: tuple[int, int, int] = (0, 0, 0)) -> None:
    """sched_setattr(2) on oneself; ``deadline`` is (runtime, deadline, period) in nanoseconds."""
    attr = struct.pack("=IIQiIQQQ", 48, policy, flags, nice, priority, *deadline)
    syscall(number("sched_setattr"), 0, attr, 0, what="sched_setattr")


def set_memory_policy(mode: int, nodes: Iterable[int]) -> None:
    """set_mempolicy(2), kept across fork and exec; ``mode`` with its flags. Raises OSError, EINVAL for absent nodes."""
    mask = sum(1 << node for node in nodes)
    # The kernel reads one bit less than it is told, and whole longs.
    words = mask.bit_length() // 64 + 1
    syscall(number("set_mempolicy"), mode, mask.to_bytes(words * 8, "little") if mask else 0,
            words * 64 + 1 if mask else 0, what="set_mempolicy")


def set_domain_name(name: str) -> None:
    """The NIS domain name of the own UTS namespace."""
    raw = name.encode()
    check(libc.setdomainname(raw, ctypes.c_size_t(len(raw))), "setdomainname")
