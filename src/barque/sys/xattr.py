"""Extended attributes of an entry of an open directory, never following a symbolic link (xattr(7)).

Before setxattrat(2) (Linux 6.13) no call takes a directory descriptor for them, so entries that cannot be opened
without side effects (links, devices, FIFOs) are reached through ``/proc/self/fd``, and where there is no /proc, through
the working directory.
"""

from __future__ import annotations

import errno
import os

#: What a file system without extended attributes, or a namespace without the right to set them, answers.
UNSUPPORTED = (errno.ENOTSUP, errno.EPERM, errno.ENODATA)


def get_all(dir_fd: int, name: bytes) -> dict[str, bytes]:
    """All attributes of ``name`` below ``dir_fd``; empty where the file system has none. Raises OSError."""
    path = b"/proc/self/fd/%d/%b" % (dir_fd, name)
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
    here = os.open(".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fchdir(dir_fd)
        try:
            os.setxattr(name, key, value, follow_symlinks=False)
        finally:
            os.fchdir(here)
    finally:
        os.close(here)
