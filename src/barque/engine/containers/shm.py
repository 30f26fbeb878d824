"""The /dev/shm that containers with shareable IPC have in common: a tmpfs mounted on the host, bound into each."""

from __future__ import annotations

import contextlib
import os

from barque.sys import mounts
from barque.sys.unmount import detach


def mount_shm(path: str, size: int, label: str = "") -> None:
    """Mount it at ``path``, with an SELinux label if one is given; nothing happens where it is mounted."""
    os.makedirs(path, mode=0o700, exist_ok=True)
    if os.path.ismount(path):
        return
    labelled = [("context", label)] if label else []
    fd = mounts.make("tmpfs", [("size", str(size)), ("mode", "1777"), ("source", "shm"), *labelled],
                     mounts.ATTR_NOSUID | mounts.ATTR_NODEV | mounts.ATTR_NOEXEC)
    target = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        mounts.attach(fd, target)
    finally:
        os.close(target)
        os.close(fd)


def unmount_shm(path: str) -> None:
    """Let it go; containers that have it bound keep it."""
    with contextlib.suppress(FileNotFoundError):
        if os.path.ismount(path):
            detach(path)
        os.rmdir(path)
