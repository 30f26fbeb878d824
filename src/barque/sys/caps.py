"""Capabilities (capabilities(7), linux/capability.h): the names, and the calls that change a thread's sets."""

from __future__ import annotations

import ctypes
import os
from functools import cache

from barque.sys.libc import check, libc, number, syscall

#: By number; new ones are only ever added at the end.
NAMES = (
    "CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_DAC_READ_SEARCH", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL", "CAP_SETGID",
    "CAP_SETUID", "CAP_SETPCAP", "CAP_LINUX_IMMUTABLE", "CAP_NET_BIND_SERVICE", "CAP_NET_BROADCAST", "CAP_NET_ADMIN",
    "CAP_NET_RAW", "CAP_IPC_LOCK", "CAP_IPC_OWNER", "CAP_SYS_MODULE", "CAP_SYS_RAWIO", "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE", "CAP_SYS_PACCT", "CAP_SYS_ADMIN", "CAP_SYS_BOOT", "CAP_SYS_NICE", "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME", "CAP_SYS_TTY_CONFIG", "CAP_MKNOD", "CAP_LEASE", "CAP_AUDIT_WRITE", "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP", "CAP_MAC_OVERRIDE", "CAP_MAC_ADMIN", "CAP_SYSLOG", "CAP_WAKE_ALARM", "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ", "CAP_PERFMON", "CAP_BPF", "CAP_CHECKPOINT_RESTORE",
)
NUMBERS = {name: value for value, name in enumerate(NAMES)}

_VERSION_3 = 0x20080522
_PR_CAPBSET_READ = 23
_PR_CAPBSET_DROP = 24
_PR_GET_KEEPCAPS = 7
_PR_SET_KEEPCAPS = 8
_PR_CAP_AMBIENT = 47
_AMBIENT_RAISE = 2
_AMBIENT_CLEAR_ALL = 4


class _Header(ctypes.Structure):
    _fields_ = [("version", ctypes.c_uint32), ("pid", ctypes.c_int)]


class _Data(ctypes.Structure):
    _fields_ = [("effective", ctypes.c_uint32), ("permitted", ctypes.c_uint32), ("inheritable", ctypes.c_uint32)]


@cache
def last() -> int:
    """The highest capability that the kernel knows (/proc/sys/kernel/cap_last_cap)."""
    fd = os.open("/proc/sys/kernel/cap_last_cap", os.O_RDONLY | os.O_CLOEXEC)
    try:
        return int(os.read(fd, 16))
    finally:
        os.close(fd)


def to_mask(names: list[str] | tuple[str, ...] | frozenset[str]) -> int:
    """The bit mask of ``names``; raises KeyError for a name that is not one."""
    mask = 0
    for name in names:
        mask |= 1 << NUMBERS[name]
    return mask


def to_names(mask: int) -> list[str]:
    """The names of the bits of ``mask``, by number."""
    return [name for value, name in enumerate(NAMES) if mask >> value & 1]


def get_sets(pid: int = 0) -> tuple[int, int, int]:
    """(effective, permitted, inheritable) of thread ``pid`` (0: the caller) as masks."""
    header, data = _Header(_VERSION_3, pid), (_Data * 2)()
    syscall(number("capget"), ctypes.byref(header), ctypes.byref(data), what="capget")
    low, high = data
    return (low.effective | high.effective << 32, low.permitted | high.permitted << 32,
            low.inheritable | high.inheritable << 32)


def set_sets(effective: int, permitted: int, inheritable: int) -> None:
    """Set the calling thread's sets; raises PermissionError for what it does not have itself."""
    header, data = _Header(_VERSION_3, 0), (_Data * 2)()
    for half, shift in ((0, 0), (1, 32)):
        data[half].effective = effective >> shift & 0xFFFFFFFF
        data[half].permitted = permitted >> shift & 0xFFFFFFFF
        data[half].inheritable = inheritable >> shift & 0xFFFFFFFF
    syscall(number("capset"), ctypes.byref(header), ctypes.byref(data), what="capset")


def bounding() -> int:
    """The calling thread's bounding set."""
    mask = 0
    for value in range(last() + 1):
        if _prctl(_PR_CAPBSET_READ, value):
            mask |= 1 << value
    return mask


def drop_from_bounding(mask: int) -> None:
    """Take the bits of ``mask`` out of the calling thread's bounding set, for good. Needs CAP_SETPCAP."""
    for value in range(last() + 1):
        if mask >> value & 1 and _prctl(_PR_CAPBSET_READ, value):
            _prctl(_PR_CAPBSET_DROP, value)


def clear_ambient() -> None:
    _prctl(_PR_CAP_AMBIENT, _AMBIENT_CLEAR_ALL)


def raise_ambient(mask: int) -> None:
    """Add to the ambient set; each bit must be permitted and inheritable (else PermissionError)."""
    for value in range(last() + 1):
        if mask >> value & 1:
            _prctl(_PR_CAP_AMBIENT, _AMBIENT_RAISE, value)


def keep_on_setuid(keep: bool) -> None:
    """Whether the permitted set survives leaving uid 0 (PR_SET_KEEPCAPS; exec resets it)."""
    _prctl(_PR_SET_KEEPCAPS, int(keep))


def keeps_on_setuid() -> bool:
    return bool(_prctl(_PR_GET_KEEPCAPS))


def _prctl(option: int, *args: int) -> int:
    padded = [ctypes.c_ulong(a) for a in (*args, 0, 0, 0, 0)[:4]]
    return check(libc.prctl(option, *padded), f"prctl({option})")
