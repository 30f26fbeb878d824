"""The directories of one data root, its version, and the lock that one daemon holds on it."""

from __future__ import annotations

import fcntl
import os

from barque.errors import Conflict, InvalidArgument, Unsupported
from barque.sys.fsync import atomic_write

#: Raised whenever older code would misread what newer code writes.
VERSION = 1

_DIRECTORIES = ("content", "content/ingest", "content/blobs", "content/blobs/sha256", "snapshots", "volumes",
                "containers")


class RootInUse(Conflict):
    text = "data root {root} is in use by the process with the id {pid}"


class NewerLayout(Unsupported):
    text = "data root {root} has layout version {found}, this version knows up to {known}: use a newer barque"


class BrokenLayout(InvalidArgument):
    text = "data root {root}: {path} does not hold a layout version"


class Layout:
    """Absolute paths below ``root``. Whoever holds a Layout holds the lock, until :meth:`close` or its death."""

    def __init__(self, root: str, lock_fd: int) -> None:
        self.root = root
        self.blobs = os.path.join(root, "content", "blobs")
        self.ingest = os.path.join(root, "content", "ingest")
        self.snapshots = os.path.join(root, "snapshots")
        self.volumes = os.path.join(root, "volumes")
        self.containers = os.path.join(root, "containers")
        self.database = os.path.join(root, "meta.db")
        self._lock_fd = lock_fd

    @classmethod
    def open(cls, root: str) -> Layout:
        """Make what is missing and take the lock.

        Raises :class:`RootInUse`, :class:`NewerLayout`, :class:`BrokenLayout` or OSError.
        """
        root = os.path.abspath(root)
        os.makedirs(root, mode=0o710, exist_ok=True)
        lock_fd = _lock(root)
        try:
            _check_version(root)
            # Not traversable by others: set-uid files of images would be within their reach.
            os.chmod(root, 0o710)  # noqa: S103
            for name in _DIRECTORIES:
                path = os.path.join(root, name)
                if not os.path.isdir(path):
                    os.mkdir(path, 0o700 if name.startswith("content") else 0o710)
        except BaseException:
            os.close(lock_fd)
            raise
        return cls(root, lock_fd)

    def close(self) -> None:
        """Give the lock back; idempotent."""
        if self._lock_fd >= 0:
            os.close(self._lock_fd)
            self._lock_fd = -1


def _lock(root: str) -> int:
    path = os.path.join(root, "lock")
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        pid = os.pread(fd, 32, 0).decode("ascii", "replace").strip() or "unknown"
        os.close(fd)
        raise RootInUse(root=root, pid=pid) from None
    os.ftruncate(fd, 0)
    os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
    return fd


def _check_version(root: str) -> None:
    path = os.path.join(root, "version")
    try:
        with open(path, "rb") as file:
            text = file.read(32).strip()
    except FileNotFoundError:
        atomic_write(path, f"{VERSION}\n".encode())
        return
    if not text.isdigit():
        raise BrokenLayout(root=root, path=path)
    if int(text) > VERSION:
        raise NewerLayout(root=root, found=int(text), known=VERSION)
