"""Detach mounts (umount2(2))."""

from __future__ import annotations

import os

from barque.sys.libc import check, libc

_MNT_DETACH = 2
_UMOUNT_NOFOLLOW = 8


def detach_mount(fd: int) -> None:
    """As :func:`detach`, of the mount at whose root ``fd`` is open."""
    check(libc.umount2(f"/proc/self/fd/{fd}".encode(), _MNT_DETACH), "umount2")


def detach(path: str) -> None:
    """Take the topmost mount at ``path`` out of the tree now; it goes away with its last user. Links are not
    followed.
    """
    check(libc.umount2(os.fsencode(path), _MNT_DETACH | _UMOUNT_NOFOLLOW), "umount2", path)
