"""Running confined workers from the daemon, and what they answer as values or exceptions."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Sequence
from typing import Protocol

from barque.errors import DataLoss, Internal
from barque.store.tar.messages import (
    CopyUpRequest,
    CopyUpResult,
    RemoveRequest,
    RemoveResult,
    UnpackRequest,
    UnpackResult,
    WorkerError,
    decode,
    encode,
)


class Workers(Protocol):
    async def run(self, kind: str, request: bytes, fds: Sequence[int]) -> bytes:
        """Run a worker of ``kind`` (see store.tar.child.WORKERS) in a forked process; ``fds`` stay the caller's."""


class WorkerDied(Internal):
    text = "worker {kind} ended with {status}: {detail}"


class InvalidArchive(DataLoss):
    """The archive is truncated, corrupt, hostile or not the one that its config names."""

    text = "failed to register layer: {reason}"


class UnpackFailed(Internal):
    """The machine is at fault; ``fields`` has errno."""

    text = "failed to register layer: {reason}"


class CopyUpFailed(Internal):
    text = "failed to copy content into the volume: {reason}"


class RemovalFailed(Internal):
    text = "failed to delete a snapshot: {reason}"



class SubprocessWorkers:
    """Workers as fresh interpreters: slower to start than forks of the zygote, and independent of it."""

    async def run(self, kind: str, request: bytes, fds: Sequence[int]) -> bytes:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-I", "-m", "barque.store.tar.child", kind, *map(str, fds), pass_fds=tuple(fds), env={},
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE)
        try:
            answer, errors = await process.communicate(request)
        except BaseException:
            if process.returncode is None:
                process.kill()
                await process.wait()
            raise
        if process.returncode != 0 or not answer:
            detail = errors.decode("utf-8", "replace").strip().rpartition("\n")[2]
            raise WorkerDied(kind=kind, status=process.returncode, detail=detail or "no answer")
        return answer


async def unpack_layer(workers: Workers, source: int, directory: str, request: UnpackRequest) -> UnpackResult:
    """Unpack the stream behind ``source`` (the caller's) into ``directory``.

    Raises :class:`InvalidArchive`, :class:`UnpackFailed`, :class:`WorkerDied`. The caller removes what is left.
    """
    target = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        result = decode(await workers.run("unpack", encode(request), (source, target)), UnpackResult)
    finally:
        os.close(target)
    if result.error is not None:
        raise _failure(result.error)
    return result


def _failure(error: WorkerError) -> InvalidArchive | UnpackFailed:
    if error.kind == "invalid":
        return InvalidArchive(reason=error.message)
    return UnpackFailed(reason=error.message, errno=error.errno)


async def copy_up(workers: Workers, lower: Sequence[str], path: str, volume: str) -> int:
    """Copy what the image made of ``lower`` (topmost first) has at ``path`` into the directory ``volume``.

    Returns how many entries were copied; 0 where the image has no such directory. Raises :class:`CopyUpFailed`.
    """
    return await _fill(workers, CopyUpRequest(list(lower), os.fsencode(path)), volume)


async def copy_volume(workers: Workers, source: str, volume: str) -> int:
    """Copy what the directory ``source`` has, itself included, into the empty directory ``volume``.

    Blocks are shared where the file system can. Returns how many entries; raises :class:`CopyUpFailed`.
    """
    return await _fill(workers, CopyUpRequest(), volume, source)


async def _fill(workers: Workers, request: CopyUpRequest, *directories: str) -> int:
    fds: list[int] = []
    try:
        for path in directories:
            fds.append(os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
        result = decode(await workers.run("copyup", encode(request), fds), CopyUpResult)
    finally:
        for fd in fds:
            os.close(fd)
    if result.error is not None:
        raise CopyUpFailed(reason=result.error.message, errno=result.error.errno)
    return result.copied


async def remove_trees(workers: Workers, directory: str, request: RemoveRequest) -> None:
    """Delete trees in ``directory``, when nothing else needs the processor. Raises :class:`RemovalFailed`."""
    target = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        result = decode(await workers.run("remove", encode(request), (target,)), RemoveResult)
    finally:
        os.close(target)
    if result.error is not None:
        raise RemovalFailed(reason=result.error.message, errno=result.error.errno)
