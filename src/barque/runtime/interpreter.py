"""Keeping containers off the interpreter's own file (the hole of CVE-2019-5736).

A process that joins a container shows its program as /proc/PID/exe there. A container that keeps an O_PATH descriptor
of it past the process's end could reopen it for writing, and the next command on the host would run what it wrote. So
whatever enters containers runs from a detached, read-only bind mount of the interpreter: the descriptor leads to that
mount, and opening for writing fails with EROFS for good. The mount belongs to no namespace once it runs, so nobody can
make it writable again. Libraries need no such care: /proc/PID/map_files is for CAP_SYS_ADMIN of the host alone.
"""

from __future__ import annotations

import fcntl
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from barque.sys import fds as sys_fds
from barque.sys import mounts, prctl, process

_EXEC_FAILED = 127


def is_readonly() -> bool:
    """Whether the running interpreter's file cannot be written through /proc/self/exe."""
    return bool(os.statvfs("/proc/self/exe").f_flag & os.ST_RDONLY)


def reexec_readonly(argv: Sequence[str]) -> NoReturn:
    """Become a new interpreter on the read-only mount, with the arguments ``argv`` (``["-m", "package", ...]``).

    The same interpreter as far as Python can tell: ``sys.executable`` and the virtual environment are found through
    ``argv[0]``. Descriptors that are inheritable stay open. Needs CAP_SYS_ADMIN; raises OSError.
    """
    program = _program(argv)
    program.execveat(_readonly_copy())


def spawn_readonly(argv: Sequence[str], fds: Sequence[int]) -> int:
    """Start such an interpreter as a child, with ``fds`` at 3, 4 ... and 0, 1, 2 as they are; returns its pid.

    For a process without threads. Raises OSError when the mount cannot be made; a failing exec is exit code 127.
    """
    program = _program(argv)
    copy = _readonly_copy()
    child = process.clone(0)
    if child is None:
        try:
            # The copy must survive the moving of the others; execveat takes it wherever it is.
            copy = fcntl.fcntl(copy, fcntl.F_DUPFD_CLOEXEC, 3 + len(fds))
            sys_fds.place(fds, 3)
            process.cloexec_from(3 + len(fds))
            program.execveat(copy)
        finally:
            os._exit(_EXEC_FAILED)
    os.close(copy)
    os.close(child.pidfd)
    return child.pid


def hide() -> None:
    """Keep processes of the same user out of /proc/PID of this one; to be called first thing, since exec undoes it."""
    prctl.set_dumpable(False)


def _program(argv: Sequence[str]) -> process.Program:
    return process.Program([sys.executable, *argv], [f"{key}={value}" for key, value in os.environ.items()])


def _readonly_copy() -> int:
    copy = mounts.clone_tree(sys.executable)
    mounts.set_attributes(copy, add=mounts.ATTR_RDONLY, propagation=mounts.PROPAGATION_PRIVATE)
    return copy
