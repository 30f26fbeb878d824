"""Extended attributes of an entry of an open directory, never following a symbolic link (xattr(7)).

Before setxattrat(2) (Linux 6.13) no call takes a directory descriptor for them, so entries that cannot be opened
without side effects (links, devices, FIFOs) are reached through ``/proc/self/fd``, and where there is no /proc, through
the working directory.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager

from barque.sys.mounts import PROC_MAGIC, filesystem_type

#: What a file system without extended attributes, or a namespace without the right to set them, answers.
UNSUPPORTED = (errno.ENOTSUP, errno.EPERM, errno.ENODATA)


def get_all(dir_fd: int, name: bytes) -> dict[str, bytes]:
    """All attributes of ``name`` below ``dir_fd``; empty where the file system has none. Raises OSError.

    A process without /proc must be single-threaded: see :func:`set_at`.
    """
    if _has_proc():
        return _get_all(b"/proc/self/fd/%d/%b" % (dir_fd, name))
    with _inside(dir_fd):
        return _get_all(name)


def _has_proc() -> bool:
    """Not merely a directory of that name, which a stranger's tree may have."""
    try:
        fd = os.open("/proc/self/fd", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        return filesystem_type(fd) == PROC_MAGIC
    finally:
        os.close(fd)


def _get_all(path: bytes) -> dict[str, bytes]:
    try:
        names = os.listxattr(path, follow_symlinks=False)
    except OSError as error:
        if error.errno == errno.ENOTSUP:
            return {}
        raise
    found = {}
    for key in names:
        try:
            found[key] = os.getxattr(path, key, follow_symlinks=False)
        except OSError as error:
            if error.errno not in UNSUPPORTED:
                raise
    return found


def set_at(dir_fd: int, name: bytes, key: str, value: bytes) -> None:
    """Set one attribute of ``name`` below ``dir_fd``; changes the working directory for the time. Raises OSError.

    Only for single-threaded processes: the working directory belongs to all threads.
    """
    with _inside(dir_fd):
        os.setxattr(name, key, value, follow_symlinks=False)


@contextmanager
def _inside(dir_fd: int) -> Iterator[None]:
    here = os.open(".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fchdir(dir_fd)
        try:
            yield
        finally:
            os.fchdir(here)
    finally:
        os.close(here)
