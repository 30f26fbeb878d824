"""Writing files so that they survive a power cut: fsync(2) of the bytes, rename(2), fsync of the directory."""

from __future__ import annotations

import ctypes
import os

from barque.sys.libc import check, libc

_SYNC_FILE_RANGE_WRITE = 2


def fsync_dir(path: str) -> None:
    """Make the names in directory ``path`` durable. Raises OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def syncfs(path: str) -> None:
    """Write out everything dirty on the file system that holds ``path`` (syncfs(2)). Raises OSError.

    One call for thousands of files costs one journal commit; fsync of each would cost one commit per file.
    """
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        check(libc.syncfs(fd), "syncfs", path)
    finally:
        os.close(fd)


def start_writeback(fd: int, offset: int, size: int) -> None:
    """Let the disk begin with these bytes, without waiting (sync_file_range(2)); a hint, so failure means nothing.

    It makes nothing durable: it only leaves less to do for the fsync or syncfs that will.
    """
    libc.sync_file_range(fd, ctypes.c_int64(offset), ctypes.c_int64(size), _SYNC_FILE_RANGE_WRITE)


def atomic_write(path: str, data: bytes, mode: int = 0o600, *, durable: bool = True) -> None:
    """Replace the file ``path`` by ``data``: a reader, or the machine after a crash, sees the old or the new content.

    ``durable=False`` leaves out the syncs, for files that need not survive the machine. Raises OSError.
    """
    temporary = f"{path}.{os.getpid()}.tmp"
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
    try:
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(fd, view):]
            if durable:
                os.fsync(fd)
        finally:
            os.close(fd)
        os.rename(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
    if durable:
        fsync_dir(os.path.dirname(path) or ".")
