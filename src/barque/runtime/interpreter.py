"""Keeping containers off the interpreter's own file (the hole of CVE-2019-5736).

A process that joins a container shows its program as /proc/PID/exe there. A container that keeps an O_PATH descriptor
of it past the process's end could reopen it for writing, and the next command on the host would run what it wrote. So
whatever enters containers runs from a detached, read-only bind mount of the interpreter: the descriptor leads to that
mount, and opening for writing fails with EROFS for good. The mount belongs to no namespace once it runs, so nobody can
make it writable again. Or it runs from a sealed copy in memory (memfd_create(2)), which nobody can change either.
Libraries need no such care: /proc/PID/map_files is for CAP_SYS_ADMIN of the host alone.

Getting there takes a second start of Python, 10 ms, except where Python is in a shared library: little is mapped of the
program's own file then, and the mount can take its place in the running process. The first start imports only this.
"""

from __future__ import annotations

import fcntl
import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import NoReturn

_CHUNK = 1 << 26
#: Up to this size, in bytes, an interpreter keeps its code in a shared library, and is quickly copied.
_SMALL = 1 << 20


def is_safe() -> bool:
    """Whether the running interpreter's file cannot be written through /proc/self/exe by what a container may become.

    A container of root's may become root; that of an ordinary user nobody but the user (and its subordinate ids).
    """
    if os.statvfs("/proc/self/exe").f_flag & os.ST_RDONLY:
        return True
    with open("/proc/self/exe", "rb") as file:
        if os.geteuid() and os.fstat(file.fileno()).st_uid not in (os.geteuid(), os.getuid()) \
                and not os.access("/proc/self/exe", os.W_OK):
            return True
        try:
            return bool(fcntl.fcntl(file, fcntl.F_GET_SEALS) & fcntl.F_SEAL_WRITE)
        except OSError:
            return False


def move_readonly() -> bool:
    """Whether this process, as it runs, could be put on a file that nobody can write to."""
    if os.geteuid() != 0 or os.stat("/proc/self/exe").st_size > _SMALL:
        return False
    from barque.sys import exe

    try:
        copy = readonly_copy()
        try:
            # The mount's own descriptor is O_PATH, which cannot be mapped.
            with open(f"/proc/self/fd/{copy}", "rb") as file:
                exe.exchange(file.fileno())
        finally:
            os.close(copy)
    except OSError:
        return False
    return is_safe()


def reexec_readonly(module: str, argv: Sequence[str]) -> NoReturn:
    """Become an interpreter on a file that nobody can write to; it runs ``leave(main())`` of ``module`` with ``argv``.

    The same interpreter as far as Python can tell: ``sys.executable`` is found through ``argv[0]``, and the module path
    is handed over, which spares it the search for site-packages (-S). Descriptors that are inheritable stay open.
    Without CAP_SYS_ADMIN, which a mount needs, the file is always a copy. Raises OSError.
    """
    command = f"import sys; sys.path[:] = {sys.path!r}; from {module} import leave, main; leave(main())"
    copied = os.geteuid() != 0 or os.stat("/proc/self/exe").st_size <= _SMALL
    os.execve(_sealed_copy() if copied else readonly_copy(), [sys.executable, "-IS", "-c", command, *argv], os.environ)


def hide() -> None:
    """Keep processes of the same user out of /proc/PID of this one; to be called first thing, since exec undoes it."""
    from barque.sys import prctl

    prctl.set_dumpable(False)


def _sealed_copy() -> int:
    copy = os.memfd_create("barque-runtime", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    with open("/proc/self/exe", "rb") as source:
        while os.sendfile(copy, source.fileno(), None, _CHUNK):
            pass
    fcntl.fcntl(copy, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW
                | fcntl.F_SEAL_WRITE)
    return copy


def readonly_copy() -> int:
    """A detached read-only bind mount of the interpreter's file, which goes away with its last user. Raises OSError."""
    from barque.sys import mounts

    copy = mounts.clone_tree(os.path.realpath(sys.executable))
    mounts.set_attributes(copy, add=mounts.ATTR_RDONLY | mounts.ATTR_NOSUID | mounts.ATTR_NODEV,
                          propagation=mounts.PROPAGATION_PRIVATE)
    return copy
