"""Path resolution that cannot leave a directory (openat2(2)): the only way to use a path that a stranger chose."""

from __future__ import annotations

import ctypes
import os

from barque.sys.libc import OPENAT2, syscall

RESOLVE_NO_XDEV = 0x01
RESOLVE_NO_MAGICLINKS = 0x02
RESOLVE_NO_SYMLINKS = 0x04
RESOLVE_BENEATH = 0x08
RESOLVE_IN_ROOT = 0x10

_EAGAIN = 11
#: The kernel answers EAGAIN when a rename elsewhere raced with ``..``; that many tries outlast any honest load.
_TRIES = 64


class _OpenHow(ctypes.Structure):
    _fields_ = [("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64)]


def open_in_root(root_fd: int, path: bytes | str, flags: int, mode: int = 0, *,
                 resolve: int = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS) -> int:
    """Open ``path`` as if ``root_fd`` were ``/``: absolute links and ``..`` stay inside. Returns a new O_CLOEXEC fd.

    With ``resolve=RESOLVE_BENEATH`` whatever would leave the root is an error (EXDEV) instead. ``mode`` counts with
    O_CREAT or O_TMPFILE. Raises OSError.
    """
    name = os.fsencode(path)
    how = _OpenHow(flags | os.O_CLOEXEC, mode if flags & (os.O_CREAT | os.O_TMPFILE) else 0, resolve)
    for attempt in range(_TRIES):
        try:
            return syscall(OPENAT2, root_fd, name, ctypes.byref(how), ctypes.sizeof(how), what="openat2", path=name)
        except OSError as error:
            if error.errno != _EAGAIN or attempt == _TRIES - 1:
                raise
    raise AssertionError("unreachable")
