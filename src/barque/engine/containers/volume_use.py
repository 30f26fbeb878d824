"""The volumes of a container: made with it, filled from the image on first use, anonymous ones removed with it."""

from __future__ import annotations

import logging
import os

import msgspec

from barque.engine.containers.context import Context
from barque.engine.containers.model import Container, MountPoint
from barque.engine.containers.ports import Volume
from barque.errors import BarqueError, Conflict, InvalidArgument, NotFound
from barque.oci import runtime_spec as oci
from barque.sys.beneath import open_in_root

log = logging.getLogger("barque.engine")


async def make_volumes(ctx: Context, container: Container) -> None:
    """Make those that do not exist and note where they are; ``container.mounts`` names each as it is made."""
    options = {mount.target: mount.volume_options for mount in container.host_config.mounts or ()
               if mount.volume_options}
    for index, point in enumerate(container.mounts):
        if point.type != "volume":
            continue
        asked = options.get(point.destination)
        volume = await ctx.volumes.ensure(
            point.name or None, options=asked.driver_config.options if asked and asked.driver_config else None,
            labels=asked.labels if asked else None)
        container.mounts[index] = msgspec.structs.replace(point, name=volume.name, source=volume.mountpoint)


async def remove_anonymous(ctx: Context, container: Container) -> None:
    """Remove the volumes that have no name of somebody's choice, unless another container uses them."""
    for point in container.mounts:
        if point.type == "volume" and point.anonymous and point.name:
            try:
                await ctx.volumes.remove(point.name)
            except (Conflict, NotFound):
                continue
            except BarqueError as error:
                log.warning("volume %s: %s", point.name, error.message)


async def prepare(ctx: Context, container: Container) -> dict[str, oci.Mount]:
    """Before the start: make missing sources of binds, fill new volumes from the image. Returns the mounts of volumes.

    They are by destination. On return volumes with options are mounted for this container; :func:`release` lets go.
    """
    result: dict[str, oci.Mount] = {}
    for point in container.mounts:
        if point.type == "bind":
            _check_bind(point)
        elif point.type == "volume":
            volume = await ctx.volumes.get(point.name)
            if point.copy and container.chain_id:
                await ctx.volumes.copy_up(point.name, await ctx.snapshots.image_mount(container.chain_id),
                                          point.destination)
            if volume.backing is not None:
                await ctx.volume_mounts.mount(volume.backing, container.id)
            source = _subpath(volume, point.subpath) if point.subpath else volume.mountpoint
            options = ["rbind", *([] if point.rw else ["ro"]), "rprivate"]
            result[point.destination] = oci.Mount(point.destination, "bind", source, options)
    return result


async def release(ctx: Context, container: Container) -> None:
    """The container has ended: mounts of volumes that nobody else uses go away."""
    for point in container.mounts:
        if point.type == "volume" and ctx.volume_mounts.used(point.source):
            await ctx.volume_mounts.release(point.source, container.id)


def _check_bind(point: MountPoint) -> None:
    if os.path.lexists(point.source):
        return
    if not point.create_source:
        raise InvalidArgument(f'invalid mount config for type "bind": bind source path does not exist: {point.source}')
    try:
        os.makedirs(point.source, mode=0o755, exist_ok=True)
    except OSError as error:
        raise InvalidArgument(f"error while creating mount source path '{point.source}': mkdir {point.source}: "
                              f"{(error.strerror or '').lower()}") from None


def _subpath(volume: Volume, path: str) -> str:
    """The path of a directory inside the volume, resolved so that no link in the volume leads out of it."""
    root = os.open(volume.mountpoint, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fd = open_in_root(root, path, os.O_PATH)
    except OSError as error:
        raise InvalidArgument(f"cannot access path {path} in volume {volume.name}: "
                              f"{(error.strerror or '').lower()}") from None
    finally:
        os.close(root)
    try:
        return os.readlink(f"/proc/self/fd/{fd}")
    finally:
        os.close(fd)
