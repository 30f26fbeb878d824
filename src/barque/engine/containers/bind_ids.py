"""``bind-idmap=match-user``: the mappings by which a bind mount's owner and the container's user are the same."""

from __future__ import annotations

import os

from barque.engine.containers.context import Context
from barque.engine.containers.model import Container, MountPoint
from barque.errors import InvalidArgument
from barque.oci.runtime_spec import IDMapping
from barque.runtime import users
from barque.runtime.failure import RuntimeFailure
from barque.runtime.rootfs import open_overlay
from barque.store.threads import to_the_end

#: Ids below this can be mapped; the last one means "nobody" to the kernel.
_IDS = 2**32 - 1


async def mappings(ctx: Context, container: Container, point: MountPoint) -> tuple[list[IDMapping], list[IDMapping]]:
    """For users and groups of the mount (mount_setattr(2)): none where they are the same already.

    The container's user is looked up in its own files, as they are now. Raises InvalidArgument.
    """
    mount = await ctx.snapshots.container_mount(container.id, readonly=True)

    def resolve() -> users.Identity:
        root = open_overlay(mount)
        if root < 0:
            raise InvalidArgument("bind-idmap needs Linux 6.8")
        try:
            return users.resolve(root, container.config.user)
        finally:
            os.close(root)

    try:
        user = await to_the_end(resolve)
    except RuntimeFailure as failure:
        raise InvalidArgument(failure.detail) from None
    owner = os.stat(point.source)
    if (owner.st_uid, owner.st_gid) == (user.uid, user.gid):
        return [], []
    if owner.st_uid == 0 and user.uid != 0:
        # A program that it makes there with the set-user-ID bit would be root's for everybody on this host.
        raise InvalidArgument(f'invalid mount config for type "bind": {point.source} belongs to root, and what a '
                              "container's user makes may not")
    return exchange(owner.st_uid, user.uid), exchange(owner.st_gid, user.gid)


def exchange(stored: int, seen: int) -> list[IDMapping]:
    """Let the id ``stored`` on disk be ``seen`` in the container, and all others be themselves.

    What ``seen`` itself has on disk is nobody's in the container: it cannot have two owners' files.
    """
    if stored == seen:
        return [IDMapping(0, 0, _IDS)]
    low, high = sorted((stored, seen))
    pieces = ((0, low), (low + 1, high), (high + 1, _IDS))
    return [IDMapping(stored, seen, 1), *(IDMapping(first, first, end - first) for first, end in pieces if first < end)]
