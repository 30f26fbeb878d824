"""Upload sessions in an object store: any front end can go on with what another one began.

A session is one object: a line of JSON, then the bytes that do not fill a part yet. Full parts are in a multipart
upload. The object is replaced at the end of each request, so a front end that dies loses its last request at most.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable
from typing import Protocol

import msgspec

from barque.oci.digest import Digest
from barque.registry.storage.base import WrongDigest
from barque.registry.storage.s3.client import S3, S3Refused

#: S3 wants at least 5 MiB in each part but the last, and takes 10,000 parts.
_PART = 8 << 20
_PARTS_OF_A_SIZE = 1000


class State(msgspec.Struct):
    """``target``: key of the multipart upload ``multipart``; ``parts``: ETags; ``flushed``: bytes in them."""

    target: str
    multipart: str = ""
    parts: list[str] = []
    flushed: int = 0


def decode(data: bytes) -> tuple[State, bytes]:
    head, _, tail = data.partition(b"\n")
    return msgspec.json.decode(head, type=State), tail


class Home(Protocol):
    """What an upload needs of the store that it belongs to."""

    def content(self, digest: Digest) -> str: ...
    def session(self, repository: str, id: str) -> str: ...
    def forget(self, id: str) -> None: ...
    async def share(self, repository: str, digest: Digest, size: int) -> bool: ...
    async def link(self, repository: str, digest: Digest, size: int) -> None: ...


class S3Upload:
    """Meets :class:`barque.registry.storage.base.Upload`."""

    takes_more = False

    def __init__(self, s3: S3, home: Home, repository: str, id: str, algorithm: str = "sha256",
                 saved: tuple[State, bytes, str] | None = None) -> None:
        self._s3 = s3
        self._home = home
        self._repository = repository
        self._state, tail, self.etag = saved or (State(target=f"data/{id}"), b"", "")
        self._tail = bytearray(tail)
        self._algorithm = algorithm
        self._hash = hashlib.new(algorithm) if self.offset == 0 else None
        self.id = id
        self.lock = asyncio.Lock()

    @property
    def offset(self) -> int:
        return self._state.flushed + len(self._tail)

    def expect(self, digest: Digest) -> None:
        if self.offset == 0 and not self._state.multipart:
            self._state.target = self._home.content(digest)
            self._algorithm = digest.algorithm
            self._hash = hashlib.new(digest.algorithm)

    async def write(self, data: bytes | memoryview, more: Callable[[], memoryview] | None = None) -> None:
        if self._hash is not None:
            await asyncio.to_thread(self._hash.update, data)
        self._tail += data
        size = _PART * (1 + len(self._state.parts) // _PARTS_OF_A_SIZE)
        while len(self._tail) >= size:
            await self._flush(size)

    async def _flush(self, size: int) -> None:
        state = self._state
        if not state.multipart:
            state.multipart = await self._s3.start_multipart(state.target)
        etag = await self._s3.put_part(state.target, state.multipart, len(state.parts) + 1, bytes(self._tail[:size]))
        state.parts.append(etag)
        state.flushed += min(size, len(self._tail))
        del self._tail[:size]

    async def pause(self) -> None:
        body = msgspec.json.encode(self._state) + b"\n" + bytes(self._tail)
        self.etag = await self._s3.put(self._home.session(self._repository, self.id), body)

    async def commit(self, digest: Digest) -> None:
        size = self.offset
        known = self._hash is not None and self._algorithm == digest.algorithm
        if not known and not self._state.multipart:
            self._hash, known = hashlib.new(digest.algorithm, self._tail), True
        if known and self._hash is not None and self._hash.hexdigest() != digest.hex:
            await self.cancel()
            raise WrongDigest
        if known and await self._home.share(self._repository, digest, size):
            await self.cancel()
            return
        if not known:
            await self._verify(digest, size)
        if known or not await self._home.share(self._repository, digest, size):
            await self._store(digest, size, known)
            await self._home.link(self._repository, digest, size)
        if not known:
            await self._s3.delete(self._state.target)
        await self._drop()

    async def _store(self, digest: Digest, size: int, known: bool) -> None:
        content, state = self._home.content(digest), self._state
        if not state.multipart:
            await self._s3.put(content, bytes(self._tail))
            return
        if known:
            await self._finish()
        if state.target != content:
            await self._s3.copy(state.target, content, size)
            await self._s3.delete(state.target)

    async def _finish(self) -> None:
        if self._tail:
            await self._flush(len(self._tail))
        # The ETags are those of the parts that were hashed here: S3 refuses if another front end replaced one.
        await self._s3.finish_multipart(self._state.target, self._state.multipart, self._state.parts)

    async def _verify(self, digest: Digest, size: int) -> None:
        """Another front end took some of the bytes: read them all."""
        await self._finish()
        if await self._read_back(digest.algorithm, size) != digest.hex:
            await self._s3.delete(self._state.target)
            await self._drop()
            raise WrongDigest

    async def _read_back(self, algorithm: str, size: int) -> str:
        state = hashlib.new(algorithm)
        async for chunk in self._s3.read(self._state.target, 0, size):
            await asyncio.to_thread(state.update, chunk)
        return state.hexdigest()

    async def cancel(self) -> None:
        if self._state.multipart:
            await self._s3.abort_multipart(self._state.target, self._state.multipart)
        await self._drop()

    async def _drop(self) -> None:
        self._home.forget(self.id)
        await self._s3.delete(self._home.session(self._repository, self.id))


async def give_up_unused(s3: S3, oldest: float) -> int:
    """Remove the sessions that nobody touched since ``oldest``, and parts that no session knows; how many sessions.

    A front end that dies in its first part has told nobody of the multipart upload that it began.
    """
    count, live = 0, set()
    async for stored in s3.objects("uploads/"):
        saved = await s3.get(stored.key)
        if saved is None:
            continue
        state, _ = decode(saved.body)
        if stored.at >= oldest:
            live.add(state.multipart)
            continue
        await _give_up(s3, stored.key, state)
        count += 1
    for multipart in await s3.multiparts():
        if multipart.at < oldest and multipart.id not in live:
            await s3.abort_multipart(multipart.key, multipart.id)
    return count


async def _give_up(s3: S3, key: str, state: State) -> None:
    if state.multipart:
        try:
            await s3.abort_multipart(state.target, state.multipart)
        except S3Refused as error:
            if error.fields["code"] != "NoSuchUpload":
                raise
    if state.target.startswith("data/"):
        await s3.delete(state.target)
    await s3.delete(key)
