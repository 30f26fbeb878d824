"""The content of one file into another: shared on disk where the file system can, else copied with its holes."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator

_BLOCK = 1 << 24
#: Smaller files are not searched for holes.
_SMALL = 1 << 16
#: ioctl_ficlone(2): both files have the same blocks until one of them is written to.
_FICLONE = 0x40049409
_NO_SHARING = (errno.EOPNOTSUPP, errno.EXDEV, errno.EINVAL, errno.ENOTTY, errno.EPERM)


def share_data(reader: int, writer: int) -> bool:
    """True where ``writer``, an empty file, has the blocks of ``reader`` now."""
    try:
        fcntl.ioctl(writer, _FICLONE, reader)
    except OSError as error:
        if error.errno not in _NO_SHARING:
            raise
        return False
    return True


def copy_data(reader: int, writer: int) -> None:
    """All bytes of a file; holes stay holes, since a small archive can hold a huge one."""
    size = os.fstat(reader).st_size
    if size <= _SMALL:
        while os.sendfile(writer, reader, None, _BLOCK):
            pass
        return
    for position, length in segments(reader, size):
        end = position + length
        os.lseek(writer, position, os.SEEK_SET)
        while position < end and (count := os.sendfile(writer, reader, position, min(_BLOCK, end - position))):
            position += count
    os.ftruncate(writer, size)


def segments(fd: int, size: int) -> Iterator[tuple[int, int]]:
    """Offset and length of what is no hole in the first ``size`` bytes of a file."""
    position = 0
    while position < size:
        try:
            position = os.lseek(fd, position, os.SEEK_DATA)
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            return  # nothing but a hole is left
        end = min(os.lseek(fd, position, os.SEEK_HOLE), size)
        if position < end:
            yield position, end - position
        position = end
