"""Network namespaces: make, enter, pin by path (network_namespaces(7)).

unshare(2) and setns(2) change the calling thread alone. Everything here leaves the thread in the namespace where it
was, so the other threads of the process never notice; callers still use a thread of their own for it. A
thread or process that is started inside a block begins in the namespace of the block.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from collections.abc import Iterator

from barque.sys.libc import check, libc

CLONE_NEWNET = 0x40000000
_MS_BIND, _MS_SHARED, _MNT_DETACH, _UMOUNT_NOFOLLOW = 0x1000, 1 << 20, 2, 8
_THREAD_NS = "/proc/thread-self/ns/net"


@contextlib.contextmanager
def fresh() -> Iterator[int]:
    """Run the block in a new network namespace; yields an fd on it (O_CLOEXEC), which the block's caller closes.

    The namespace lives as long as the fd, a process in it, or a pin of it.
    """
    home = os.open(_THREAD_NS, os.O_RDONLY | os.O_CLOEXEC)
    try:
        check(libc.unshare(CLONE_NEWNET), "unshare")
        try:
            yield os.open(_THREAD_NS, os.O_RDONLY | os.O_CLOEXEC)
        finally:
            check(libc.setns(home, CLONE_NEWNET), "setns")
    finally:
        os.close(home)


@contextlib.contextmanager
def entered(fd: int) -> Iterator[None]:
    """Run the block in the network namespace of ``fd``."""
    home = os.open(_THREAD_NS, os.O_RDONLY | os.O_CLOEXEC)
    try:
        check(libc.setns(fd, CLONE_NEWNET), "setns")
        try:
            yield
        finally:
            check(libc.setns(home, CLONE_NEWNET), "setns")
    finally:
        os.close(home)


@contextlib.contextmanager
def locked() -> Iterator[None]:
    """Run the block while no other process runs such a block in the same network namespace (flock(2) on its inode)."""
    fd = os.open(_THREAD_NS, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def share(directory: str) -> None:
    """Make ``directory`` a shared mount of its own, as ip-netns(8) does.

    Without it a mount namespace that was copied while a pin existed would keep its copy, and with it the network
    namespace, alive for good: an unmount propagates only between shared mounts.
    """
    target = os.fsencode(directory)
    try:
        check(libc.mount(b"none", target, None, _MS_SHARED, None), "mount", target)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        # EINVAL: not a mount yet.
        check(libc.mount(target, target, None, _MS_BIND, None), "mount", target)
        check(libc.mount(b"none", target, None, _MS_SHARED, None), "mount", target)


def pin(fd: int, path: str) -> None:
    """Keep the namespace of ``fd`` alive at ``path``, a new file. Raises FileExistsError if it is there already."""
    os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDONLY | os.O_CLOEXEC, 0o400))
    try:
        check(libc.mount(f"/proc/thread-self/fd/{fd}".encode(), os.fsencode(path), None, _MS_BIND, None), "mount", path)
    except OSError:
        os.unlink(path)
        raise


def unpin(path: str) -> None:
    """Undo :func:`pin`; nothing happens if there is no such file. Does not wait for the namespace to die."""
    unmount(path)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)


def unmount(path: str) -> None:
    """Detach all mounts on ``path``; nothing happens if there is none."""
    try:
        while True:
            check(libc.umount2(os.fsencode(path), _MNT_DETACH | _UMOUNT_NOFOLLOW), "umount", path)
    except OSError as error:
        # EINVAL: no mount (any more). A mount of a directory on itself cannot be told from it by its device.
        if error.errno not in (errno.EINVAL, errno.ENOENT):
            raise


def is_pinned(path: str) -> bool:
    """Is there a namespace at ``path``? Left-over plain files, on the device of their directory, are none."""
    try:
        return os.lstat(path).st_dev != os.lstat(os.path.dirname(path)).st_dev
    except FileNotFoundError:
        return False
