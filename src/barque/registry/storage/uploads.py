"""Upload sessions in a directory: the bytes so far in one file, so that every session survives the process."""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Protocol

from barque import failpoints
from barque.oci.digest import Digest
from barque.registry.storage import durable
from barque.registry.storage.base import UploadGone, WrongDigest
from barque.sys.fsync import start_writeback

_HASH_STEP = 1 << 20
#: The disk is told to begin after so many bytes, so that the fsync at the end finds little left to do.
_WRITEBACK = 8 << 20
#: Bytes after which a thread lets others have their turn.
_TURN = 4 << 20
#: Seconds between two looks at a session that another process writes to.
_POLL = 0.05


def _write_all(fd: int, data: bytes | memoryview, position: int) -> int:
    """The position behind the last byte."""
    left = memoryview(data)
    while left:
        written = os.pwrite(fd, left, position)
        position += written
        left = left[written:]
    return position


async def _flock(fd: int) -> None:
    """Asking again now and then: one that waits in a thread could not be told to stop."""
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            await asyncio.sleep(_POLL)


class UploadHome(Protocol):
    """What an upload needs of the store that it belongs to."""

    def run(self, function: Callable[..., Any], *args: Any) -> Awaitable[Any]: ...
    def adopt(self, path: str, repository: str, digest: Digest) -> None: ...
    def forget(self, id: str) -> None: ...


class FilesystemUpload:
    """Meets :class:`barque.registry.storage.base.Upload`; a running sha256 spares the commit a second reading."""

    takes_more = True

    def __init__(self, home: UploadHome, repository: str, id: str, path: str, algorithm: str = "sha256") -> None:
        self._home = home
        self._repository = repository
        self._path = path
        self._offset = os.stat(path).st_size
        self._algorithm = algorithm
        self._hash = hashlib.new(algorithm) if self._offset == 0 else None
        self._flushed = self._offset
        self._turn = asyncio.Lock()
        self.id = id

    @property
    def lock(self) -> AbstractAsyncContextManager[None]:
        return self._locked()

    @asynccontextmanager
    async def _locked(self) -> AsyncIterator[None]:
        """Alone among this process's requests and, by flock(2), among the processes that serve the directory."""
        async with self._turn:
            try:
                fd = os.open(self._path, os.O_RDWR | os.O_CLOEXEC)
            except FileNotFoundError:
                raise UploadGone from None
            try:
                await _flock(fd)
                found = os.fstat(fd)
                # Committed meanwhile: its name is another one now.
                if not self.exists():
                    raise UploadGone
                if found.st_size != self._offset:
                    self._offset, self._hash = found.st_size, None
                yield
            finally:
                os.close(fd)

    def exists(self) -> bool:
        """Not committed nor cancelled, by whomever."""
        return os.path.exists(self._path)

    @property
    def offset(self) -> int:
        return self._offset

    def expect(self, digest: Digest) -> None:
        if self._offset == 0:
            self._algorithm = digest.algorithm
            self._hash = hashlib.new(digest.algorithm)

    async def write(self, data: bytes | memoryview, more: Callable[[], memoryview] | None = None) -> None:
        await self._home.run(self._write, data, more)

    def _write(self, data: bytes | memoryview, more: Callable[[], memoryview] | None) -> None:
        end = self._offset + _TURN
        try:
            with open(self._path, "r+b", buffering=0) as file:
                while data:
                    self._append(file.fileno(), data)
                    data = more() if more is not None and self._offset < end else b""
        except OSError:
            os.truncate(self._path, self._offset)
            raise

    def _append(self, fd: int, data: bytes | memoryview) -> None:
        position = _write_all(fd, data, self._offset)
        failpoints.hit("registry.upload.written")
        if position - self._flushed >= _WRITEBACK:
            start_writeback(fd, self._flushed, position - self._flushed)
            self._flushed = position
        if self._hash is not None:
            self._hash.update(data)
        self._offset = position

    async def pause(self) -> None:
        """Nothing to do: each write is in the file already."""

    async def commit(self, digest: Digest) -> None:
        try:
            await self._home.run(self._commit, digest)
        finally:
            self._home.forget(self.id)

    def _commit(self, digest: Digest) -> None:
        running = self._hash if digest.algorithm == self._algorithm else None
        if (running.hexdigest() if running is not None else self._rehash(digest)) != digest.hex:
            os.unlink(self._path)
            raise WrongDigest
        self._home.adopt(self._path, self._repository, digest)

    def _rehash(self, digest: Digest) -> str:
        state = hashlib.new(digest.algorithm)
        with open(self._path, "rb", buffering=0) as file:
            while data := file.read(_HASH_STEP):
                state.update(data)
        return state.hexdigest()

    async def cancel(self) -> None:
        self._home.forget(self.id)
        await self._home.run(durable.remove_file, self._path)
