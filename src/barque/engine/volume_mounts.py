"""What is mounted on this host for containers: volumes whose options name something to mount, views of images, parts of
volumes. Each is there for as long as any container uses it.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import stat
from collections.abc import Callable
from functools import partial

from barque.errors import Internal
from barque.oci.mount import Mount
from barque.runtime import options
from barque.runtime.mounts import finish
from barque.runtime.rootfs import open_overlay
from barque.store.locks import KeyedLocks
from barque.store.threads import to_the_end
from barque.sys import mounts
from barque.sys.unmount import detach

log = logging.getLogger("barque.engine")


class MountFailed(Internal):
    text = ("error while mounting volume '{target}': failed to mount local volume: mount {source}:{target}{data}: "
            "{reason}")


class VolumeMounts:
    """Who uses which mount. The kernel keeps them over a restart of the daemon; :meth:`adopt` counts them anew."""

    def __init__(self) -> None:
        self._users: dict[str, set[str]] = {}
        self._locks = KeyedLocks()

    def adopt(self, target: str, container_id: str) -> None:
        """A container that runs already uses what is mounted at ``target``."""
        self._users.setdefault(target, set()).add(container_id)

    async def mount(self, backing: Mount, container_id: str) -> None:
        """Mount it for ``container_id``, unless it is mounted. Raises :class:`MountFailed`."""
        try:
            await self.hold(backing.target, partial(_open, backing), container_id)
        except (OSError, ValueError) as error:
            reason = (error.strerror or "").lower() if isinstance(error, OSError) else str(error)
            data = f", data: {','.join(backing.options)}" if backing.options else ""
            raise MountFailed(target=backing.target, source=backing.source, data=data, reason=reason) from None

    async def hold(self, target: str, open_mount: Callable[[], int], container_id: str) -> None:
        """See to it that the detached mount that ``open_mount`` (run in a thread) opens is at ``target``.

        Raises what that raises.
        """
        await self._locks.acquire(target)
        try:
            if not await asyncio.to_thread(mounted, target):
                await to_the_end(_attach, target, open_mount)
            self.adopt(target, container_id)
        finally:
            self._locks.release(target)

    async def release(self, target: str, container_id: str) -> None:
        """``container_id`` no longer uses it; the last user takes the mount away. Fine where there is none."""
        await self._locks.acquire(target)
        try:
            users = self._users.get(target, set())
            users.discard(container_id)
            if not users:
                self._users.pop(target, None)
                try:
                    await to_the_end(unmount, target)
                except OSError as error:
                    log.warning("volume mount %s stays: %s", target, error)
        finally:
            self._locks.release(target)

    def used(self, target: str) -> bool:
        return target in self._users


def mounted(target: str) -> bool:
    """Whether something is mounted at ``target``; a comparison of device numbers does not see a bind mount."""
    with open("/proc/self/mountinfo", "rb") as file:
        return any(line.split(b" ", 5)[4] == _escaped(target) for line in file)


def _escaped(path: str) -> bytes:
    """As the kernel shows a path (proc_pid_mountinfo(5))."""
    result = os.fsencode(path).replace(b"\\", b"\\134")
    for character in b" \t\n#":
        result = result.replace(bytes([character]), b"\\%03o" % character)
    return result


def unmount(target: str) -> None:
    """Take away all that is mounted at ``target``, if anything is. Raises OSError where that fails."""
    while True:
        try:
            detach(target)
        except (FileNotFoundError, NotADirectoryError):
            return
        except OSError as error:
            if error.errno == errno.EINVAL:
                return  # nothing is mounted there
            raise


def _attach(target: str, open_mount: Callable[[], int]) -> None:
    place = os.open(target, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        made = open_mount()
        try:
            mounts.attach(made, place)
        finally:
            os.close(made)
    finally:
        os.close(place)


def _open(backing: Mount) -> int:
    """As mount(8) would with these words, detached; ``bind`` shows a directory of this host."""
    words = options.parse(backing.options)
    if backing.type == "overlay" and backing.lower:
        made = open_overlay(backing)
        if made < 0:
            raise ValueError("a view of an image needs Linux 6.8")
    elif words.bind:
        made = mounts.clone_tree(backing.source, recursive=words.recursive_bind)
    else:
        made = mounts.make(backing.type, [("source", backing.source), *words.data], words.add | words.deep_add)
    try:
        if words.bind and not stat.S_ISDIR(os.fstat(made).st_mode):
            raise NotADirectoryError(20, os.strerror(20), backing.source)
        finish(made, words if words.bind else words.without_attributes(), default_private=words.bind)
    except BaseException:
        os.close(made)
        raise
    return made
