"""Fetching a blob from upstream once for all who want it; they read along while it comes.

The bytes go into an unnamed file first. Nobody gets the last one before the digest has been verified, so a blob that
turns out wrong never looks complete to a client.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable

import aiohttp

from barque.errors import BarqueError
from barque.image.client.errors import BrokenTransfer, LayerVerificationFailed
from barque.image.client.repository import Repository
from barque.oci.digest import Digest
from barque.registry.storage.base import Blob, BlobStorage, WrongDigest

Ask = Callable[[Callable[[Repository], Awaitable[None]]], Awaitable[None]]
_CHUNK = 256 << 10
_INGEST = 4 << 20
_TRIES = 4


class Fetch:
    """One blob on its way."""

    def __init__(self, spool: str | None) -> None:
        self.file = tempfile.TemporaryFile(buffering=0, dir=spool)  # noqa: SIM115 - closed by the last who reads
        self.size: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self.have = 0
        self.verified = False
        self.failed: BaseException | None = None
        self.readers = 0
        self._news = asyncio.Event()

    def tell(self) -> None:
        news, self._news = self._news, asyncio.Event()
        news.set()

    def fail(self, error: BaseException) -> None:
        self.failed = error
        if not self.size.done():
            self.size.set_exception(error)
            self.size.exception()  # looked at: it may be that nobody waits
        self.tell()

    async def read(self, begin: int, end: int) -> AsyncIterator[bytes]:
        """Raises what ended the fetch."""
        self.readers += 1
        try:
            while begin < end:
                if self.failed is not None:
                    raise self.failed
                news = self._news
                limit = end if self.verified else min(end, self.have, self.size.result() - 1)
                if begin >= limit:
                    await news.wait()
                    continue
                chunk = os.pread(self.file.fileno(), min(_CHUNK, limit - begin), begin)
                begin += len(chunk)
                yield chunk
        finally:
            self.readers -= 1
            self.close_if_done()

    def close_if_done(self) -> None:
        if self.readers == 0 and (self.verified or self.failed is not None):
            self.file.close()


class Fetches:
    """``stored`` is told of each blob that has come: its repository and size."""

    def __init__(self, blobs: BlobStorage, spool: str | None, stored: Callable[[str, int], Awaitable[None]]) -> None:
        self._blobs = blobs
        self._spool = spool
        self._stored = stored
        self._running: dict[tuple[str, Digest], Fetch] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def blob(self, repository: str, digest: Digest, ask: Ask) -> Blob:
        """The blob as soon as its size is known; raises what upstream says."""
        key = (repository, digest)
        fetch = self._running.get(key)
        if fetch is None:
            fetch = self._running[key] = Fetch(self._spool)
            task = asyncio.create_task(self._run(key, fetch, ask))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return await self._following(repository, digest, fetch)

    async def _following(self, repository: str, digest: Digest, fetch: Fetch) -> Blob:
        size = await asyncio.shield(fetch.size)

        async def read(begin: int, end: int) -> AsyncIterator[bytes]:
            if fetch.file.closed:
                stored = await self._blobs.get(repository, digest)
                if stored is None:
                    raise BrokenTransfer from fetch.failed
                source = _read(stored, begin, end)
            else:
                source = fetch.read(begin, end)
            async for chunk in source:
                yield chunk

        return Blob(size, open=read)

    async def _run(self, key: tuple[str, Digest], fetch: Fetch, ask: Ask) -> None:
        repository, digest = key
        try:
            await ask(lambda remote: _download(remote, digest, fetch))
            await self._ingest(repository, digest, fetch)
            fetch.verified = True
        except (BarqueError, OSError, asyncio.CancelledError) as error:
            fetch.fail(BrokenTransfer() if isinstance(error, asyncio.CancelledError) else error)
        finally:
            del self._running[key]
            fetch.tell()
            fetch.close_if_done()
        if fetch.verified:
            await self._stored(repository, fetch.have)

    async def _ingest(self, repository: str, digest: Digest, fetch: Fetch) -> None:
        upload = await self._blobs.start_upload(repository, digest.algorithm)
        upload.expect(digest)
        try:
            for begin in range(0, fetch.have, _INGEST):
                data = await asyncio.to_thread(os.pread, fetch.file.fileno(), _INGEST, begin)
                await upload.write(data)
        except BaseException:
            await upload.cancel()
            raise
        try:
            await upload.commit(digest)
        except WrongDigest:
            raise LayerVerificationFailed(digest=digest) from None

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


async def _download(remote: Repository, digest: Digest, fetch: Fetch) -> None:
    """Into the fetch's file; a broken connection is taken up where it broke."""
    for attempt in range(_TRIES):
        headers = {"Range": f"bytes={fetch.have}-"} if fetch.have else {}
        try:
            async with remote.request("GET", remote.url(f"blobs/{digest}"), headers=headers,
                                      accept=(200, 206)) as response:
                await _receive(response, fetch)
                return
        except (aiohttp.ClientError, OSError, BrokenTransfer) as error:
            if attempt + 1 == _TRIES:
                raise BrokenTransfer from error


async def _receive(response: aiohttp.ClientResponse, fetch: Fetch) -> None:
    if response.status == 200:
        fetch.have = 0  # the whole again: the bytes are the same, readers go on where they are
    length = response.headers.get("Content-Length", "")
    if length.isdigit() and not fetch.size.done():
        fetch.size.set_result(int(length))
    while data := await response.content.readany():
        await asyncio.to_thread(os.pwrite, fetch.file.fileno(), data, fetch.have)
        fetch.have += len(data)
        fetch.tell()
    if not fetch.size.done():
        fetch.size.set_result(fetch.have)
    if fetch.have < fetch.size.result():
        raise BrokenTransfer


async def _read(blob: Blob, begin: int, end: int) -> AsyncIterator[bytes]:
    if blob.open is not None:
        async for chunk in blob.open(begin, end):
            yield chunk
        return
    with contextlib.closing(open(blob.path, "rb", buffering=0)) as file:  # noqa: ASYNC230
        while begin < end:
            chunk = await asyncio.to_thread(os.pread, file.fileno(), min(_INGEST, end - begin), begin)
            if not chunk:
                raise BrokenTransfer
            begin += len(chunk)
            yield chunk
