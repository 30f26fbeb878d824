"""What a container mounts: volumes made with it and filled from the image on first use, views of images, mapped binds.
"""

from __future__ import annotations

import errno
import logging
import os
import stat
from collections.abc import Iterator
from functools import partial

import msgspec

from barque.engine.containers import bind_ids, image_mounts, propagation, to_spec
from barque.engine.containers.context import Context
from barque.engine.containers.model import Container, MountPoint
from barque.engine.volume_mounts import mounted
from barque.errors import BarqueError, Conflict, InvalidArgument, NotFound
from barque.oci import runtime_spec as oci
from barque.sys import mounts
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
    """Before the start: make missing sources of binds, fill new volumes from the image, mount what has to be mounted.

    Returns the mounts of volumes, images and mapped binds by destination. What is mounted on this host for the
    container stays until :func:`release`.
    """
    result: dict[str, oci.Mount] = {}
    for number, point in enumerate(container.mounts):
        if point.type == "bind":
            _check_bind(point)
            propagation.check(point.source, point.propagation)
            if point.match_user:
                result[point.destination] = await _mapped(ctx, container, point)
        elif point.type in ("volume", "image"):
            source = await (_volume if point.type == "volume" else _image)(ctx, container, point)
            if point.subpath:
                source = await _part(ctx, container, number, source)
            result[point.destination] = oci.Mount(point.destination, "bind", source,
                                                  ["rbind", *to_spec.read_only(point), "rprivate"])
        if point.type == "volume":
            ctx.emit("volume", "mount", point.name, _told(container, point))
    return result


async def _volume(ctx: Context, container: Container, point: MountPoint) -> str:
    volume = await ctx.volumes.get(point.name)
    if point.copy and container.chain_id:
        await ctx.volumes.copy_up(point.name, await ctx.snapshots.image_mount(container.chain_id), point.destination)
    if volume.backing is not None:
        await ctx.volume_mounts.mount(volume.backing, container.id)
    return volume.mountpoint


async def _image(ctx: Context, container: Container, point: MountPoint) -> str:
    os.makedirs(point.source, mode=0o700, exist_ok=True)
    await ctx.volume_mounts.mount(await image_mounts.view(ctx, container, point), container.id)
    return point.source


async def _mapped(ctx: Context, container: Container, point: MountPoint) -> oci.Mount:
    mount = to_spec.bind(point)
    uids, gids = await bind_ids.mappings(ctx, container, point)
    if not uids:
        return mount
    options = [*mount.options, "ridmap" if point.recursive else "idmap"]
    return msgspec.structs.replace(mount, options=options, uid_mappings=uids, gid_mappings=gids)


async def release(ctx: Context, container: Container) -> None:
    """The container has ended: mounts that nobody else uses go away."""
    for target in held(ctx, container):
        if ctx.volume_mounts.used(target):
            await ctx.volume_mounts.release(target, container.id)
    for point in container.mounts:
        if point.type == "volume":
            ctx.emit("volume", "unmount", point.name, {"container": container.id, "driver": "local"})


def held(ctx: Context, container: Container) -> Iterator[str]:
    """Where something may be mounted on this host for the container while it runs."""
    for number, point in enumerate(container.mounts):
        if point.type in ("volume", "image"):
            if point.subpath:
                yield _place(ctx, container, number)
            yield point.source


def _place(ctx: Context, container: Container, number: int) -> str:
    return os.path.join(ctx.state_dir(container.id), "parts", str(number))


def _told(container: Container, point: MountPoint) -> dict[str, str]:
    return {"container": container.id, "destination": point.destination, "driver": "local", "propagation": "",
            "read/write": str(point.rw).lower()}


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


async def _part(ctx: Context, container: Container, number: int, source: str) -> str:
    """Show what is at the mount point's subpath of ``source`` at a path of the container's own.

    No link in there leads out; and by name it could be another thing by the time that it is mounted.
    """
    point = container.mounts[number]
    root = os.open(source, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fd = open_in_root(root, point.subpath, os.O_PATH)
    except OSError as error:
        raise InvalidArgument(f"cannot access path {point.subpath} in {point.type} {point.name}: "
                              f"{os.strerror(error.errno or errno.EIO).lower()}") from None
    finally:
        os.close(root)
    place = _place(ctx, container, number)
    try:
        _make_place(place, directory=stat.S_ISDIR(os.fstat(fd).st_mode))
        await ctx.volume_mounts.hold(place, partial(mounts.clone_tree, "", at=fd, recursive=True), container.id)
    finally:
        os.close(fd)
    return place


def _make_place(path: str, *, directory: bool) -> None:
    """Something to mount on, of the right kind."""
    os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
    if os.path.lexists(path) and os.path.isdir(path) != directory and not mounted(path):
        (os.unlink if directory else os.rmdir)(path)
    if directory:
        os.makedirs(path, mode=0o700, exist_ok=True)
    else:
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600))
