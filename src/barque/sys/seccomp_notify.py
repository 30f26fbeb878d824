"""The listener's side of seccomp user notification (seccomp_unotify(2))."""

from __future__ import annotations

import errno
import fcntl
import struct
from typing import NamedTuple

_RECV, _SEND = 0xC0502100, 0xC0182101
_FLAG_CONTINUE = 1
#: struct seccomp_notif: id, pid, flags, then struct seccomp_data: nr, arch, instruction_pointer, args[6].
_NOTIFICATION = struct.Struct("=QIIiIQ6Q")
#: struct seccomp_notif_resp: id, val, error, flags.
_RESPONSE = struct.Struct("=QqiI")


class Call(NamedTuple):
    """A system call that waits: ``number`` and AUDIT_ARCH_* say which, ``pid`` whose (0: not of our PID namespace)."""

    id: int
    pid: int
    number: int
    arch: int


def receive(listener: int) -> Call | None:
    """The next call; waits for one. ``None`` when its process was killed meanwhile. Raises OSError."""
    buffer = bytearray(_NOTIFICATION.size)
    try:
        fcntl.ioctl(listener, _RECV, buffer)
    except OSError as error:
        if error.errno == errno.ENOENT:
            return None
        raise
    id_, pid, _, number, arch, *_ = _NOTIFICATION.unpack(buffer)
    return Call(id_, pid, number, arch)


def let_through(listener: int, call: Call) -> None:
    """Have the kernel execute ``call``; one whose process is gone is no error."""
    try:
        fcntl.ioctl(listener, _SEND, _RESPONSE.pack(call.id, 0, 0, _FLAG_CONTINUE))
    except OSError as error:
        if error.errno != errno.ENOENT:
            raise
