"""Copies of volumes: as a volume of its own, as an archive, and from one."""

from __future__ import annotations

import os
import secrets
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from barque.engine import worker_streams
from barque.engine.volume_mounts import VolumeMounts
from barque.engine.volumes import NoSuchVolume, Volume, Volumes, named
from barque.errors import BarqueError, Internal, InvalidArgument
from barque.store.tar.messages import PackRequest, PackResult, UnpackRequest, UnpackResult, WorkerError, decode, encode
from barque.store.workers import Workers, copy_volume


def _failure(error: WorkerError, name: str) -> BarqueError:
    return InvalidArgument(f"{error.stage} {name}: {error.message}") if error.kind == "invalid" else Internal(
        f"{error.stage} {name}: {error.message}")


class VolumeCopies:
    """A volume may be in use meanwhile: then the copy has what was there when each file's turn came."""

    def __init__(self, volumes: Volumes, mounts: VolumeMounts, workers: Workers) -> None:
        self._volumes = volumes
        self._mounts = mounts
        self._workers = workers

    async def clone(self, name: str, new: str, labels: Mapping[str, str] | None) -> Volume:
        """A plain volume ``new`` with what ``name`` has, and with its labels unless others are given.

        Raises InvalidArgument, NoSuchVolume, NameConflict, CopyUpFailed.
        """
        async with self._content(await self._volumes.get(name)) as (volume, source):
            return await self._volumes.make(new, named(volume.labels) if labels is None else labels,
                                            lambda target: copy_volume(self._workers, source, target))

    async def export(self, name: str) -> AsyncIterator[bytes]:
        """The tar archive of the volume's directory, itself included (``./``), in pieces."""
        def check(answer: bytes) -> None:
            error = decode(answer, PackResult).error
            if error is not None:
                raise _failure(error, name)

        async with self._content(await self._volumes.get(name)) as (_, source), _directory(source) as fd:
            request = encode(PackRequest(b"."))
            async for piece in worker_streams.read(self._workers, "pack", request, lambda end: [fd, end], check):
                yield piece

    async def bring_in(self, name: str, archive: AsyncIterator[bytes]) -> Volume:
        """Unpack ``archive`` into the volume; one that is not there is made, and only if all of the archive is good.

        Compressed archives will do. Raises InvalidArgument, Internal; what an existing volume got by then stays.
        """
        async def unpack(target: str) -> None:
            async with _directory(target) as fd:
                answer = await worker_streams.feed(self._workers, "unpack", encode(UnpackRequest(whiteouts=False)),
                                                   lambda end: [end, fd], archive)
            error = decode(answer, UnpackResult).error
            if error is not None:
                raise _failure(error, name)

        try:
            found = await self._volumes.get(name)
        except NoSuchVolume:
            return await self._volumes.make(name, None, unpack)
        async with self._content(found) as (_, target):
            await unpack(target)
        return found

    @asynccontextmanager
    async def _content(self, volume: Volume) -> AsyncIterator[tuple[Volume, str]]:
        """The volume and where its content is; what its options name is mounted for the time."""
        if volume.backing is None:
            yield volume, volume.mountpoint
            return
        who = f"copy-{secrets.token_hex(8)}"
        await self._mounts.mount(volume.backing, who)
        try:
            yield volume, volume.mountpoint
        finally:
            await self._mounts.release(volume.mountpoint, who)


@asynccontextmanager
async def _directory(path: str) -> AsyncIterator[int]:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)
