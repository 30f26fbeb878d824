"""Images that a container shows at a path (``--mount type=image``), read-only.

Each is held like the container's own layers, by a snapshot of its own, so that it stays whatever becomes of its names.
"""

from __future__ import annotations

import os

import msgspec

from barque.engine.containers.context import Context
from barque.engine.containers.model import Container, MountPoint
from barque.errors import NotFound
from barque.oci.mount import Mount


def _key(container: Container, point: MountPoint) -> str:
    # What the store finds beside the containers at boot begins with the id of one.
    return f"{container.id}:{point.destination}"


async def hold(ctx: Context, container: Container) -> None:
    """Find the images and hold them; ``container.mounts`` says which they are. Raises NotFound for one that is not
    here. What was held goes with :func:`drop`.
    """
    for index, point in enumerate(container.mounts):
        if point.type != "image":
            continue
        # An inherited one is that of the other container, whatever has the name now.
        image = await ctx.images.get(point.image_id) if point.image_id else await ctx.images.resolve(point.name)
        if image is None:
            raise NotFound(f"No such image: {point.name}")
        await ctx.snapshots.create_container(None, _key(container, point), image.chain_id)
        container.mounts[index] = msgspec.structs.replace(
            point, image_id=image.id, source=os.path.join(ctx.state_dir(container.id), "images", str(index)))


async def drop(ctx: Context, container: Container) -> None:
    for point in container.mounts:
        if point.type == "image":
            await ctx.snapshots.remove_container(_key(container, point))


async def view(ctx: Context, container: Container, point: MountPoint) -> Mount:
    """What is to be mounted at ``point.source`` as long as the container runs."""
    mount = await ctx.snapshots.container_mount(_key(container, point), readonly=True)
    return msgspec.structs.replace(mount, target=point.source)
