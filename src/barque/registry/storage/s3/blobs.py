"""Blobs in an object store.

``blobs/<algorithm>/<hex>`` holds each content once. ``held/<repository>/_/<algorithm>/<hex>`` says that a repository
has it, and its size; ``links/<algorithm>/<hex>/<repository>`` says the same from the content's side. The link is
written first and removed last, so a content without links has no holder; a link that is old and has no counterpart was
left by a process that died.

A content is written only where there is none, and removed only if it is old and, under the lock, without links. So the
one race is with those who share an old content; see :meth:`S3Blobs.share`.
"""

from __future__ import annotations

import re
import secrets
import time

import msgspec

from barque.oci.digest import Digest
from barque.registry.storage.base import Blob, Entry, Freed, Upload
from barque.registry.storage.s3.client import S3
from barque.registry.storage.s3.locks import Locks
from barque.registry.storage.s3.uploads import S3Upload, decode, give_up_unused

_ID = re.compile(r"[0-9a-f]{32}\Z")
_TOUCH_AFTER = 300.0
#: Contents removed while others wait for the lock; the rest is for the next round.
_BATCH = 50
CONTENTS = "contents"


class _Held(msgspec.Struct):
    size: int


class S3Blobs:
    """Meets :class:`barque.registry.storage.base.BlobStorage`."""

    def __init__(self, s3: S3, locks: Locks, *, redirect: bool) -> None:
        self._s3 = s3
        self._locks = locks
        self._redirect = redirect
        self._uploads: dict[str, S3Upload] = {}

    def content(self, digest: Digest) -> str:
        return f"blobs/{digest.algorithm}/{digest.hex}"

    def session(self, repository: str, id: str) -> str:
        return f"uploads/{repository}/_/{id}"

    def _held(self, repository: str, digest: Digest) -> str:
        return f"held/{repository}/_/{digest.algorithm}/{digest.hex}"

    def _link(self, repository: str, digest: Digest) -> str:
        return f"links/{digest.algorithm}/{digest.hex}/{repository}"

    async def get(self, repository: str, digest: Digest) -> Blob | None:
        found = await self._s3.get(self._held(repository, digest))
        if found is None:
            return None
        if self._s3.now() - found.at > _TOUCH_AFTER:
            await self._s3.put(self._held(repository, digest), found.body)
        key, size = self.content(digest), msgspec.json.decode(found.body, type=_Held).size
        return Blob(size, open=lambda begin, end: self._s3.read(key, begin, end),
                    url=self._s3.url(key) if self._redirect else "")

    async def link(self, repository: str, digest: Digest, size: int) -> None:
        """Hold a content that is there and young. No collection of the repository takes old links away meanwhile."""
        async with self._locks.shared(f"repository/{repository}"):
            await self._put_links(repository, digest, size)

    async def _put_links(self, repository: str, digest: Digest, size: int) -> None:
        await self._s3.put(self._link(repository, digest), b"")
        await self._s3.put(self._held(repository, digest), msgspec.json.encode(_Held(size)))
        await self._s3.put(f"index/{repository}", b"")

    async def share(self, repository: str, digest: Digest, size: int) -> bool:
        """Hold a content that is there already; False if it is not, or is just being collected."""
        if await self._s3.head(self.content(digest)) is None:
            return False
        while True:
            await self.link(repository, digest, size)
            # A collection that looked before the link was there holds the lock now; one that looks later sees it.
            await self._locks.wait(CONTENTS)
            if await self._s3.head(self.content(digest)) is None:
                await self.delete(repository, digest)
                return False
            # One that died may have taken the new link for the old one that was in its place.
            if await self._s3.head(self._link(repository, digest)) is not None:
                return True

    async def mount(self, repository: str, digest: Digest, source: str | None) -> bool:
        if source is None:
            found = await self._s3.head(self.content(digest))
            return found is not None and await self.share(repository, digest, found.size)
        held = await self._s3.get(self._held(source, digest))
        if held is None:
            return False
        return await self.share(repository, digest, msgspec.json.decode(held.body, type=_Held).size)

    async def delete(self, repository: str, digest: Digest) -> int | None:
        if await self._s3.head(self._held(repository, digest)) is None:
            return None
        await self._s3.delete(self._held(repository, digest))
        await self._s3.delete(self._link(repository, digest))
        return 0  # the next collection frees the content

    async def entries(self, repository: str) -> list[Entry]:
        prefix, found = f"held/{repository}/_/", []
        async for stored in self._s3.objects(prefix):
            digest = Digest(stored.key.removeprefix(prefix).replace("/", ":"))
            held = await self._s3.get(stored.key)
            if held is not None:
                found.append(Entry(digest, msgspec.json.decode(held.body, type=_Held).size, stored.at))
        return found

    async def start_upload(self, repository: str, algorithm: str = "sha256") -> Upload:
        upload = S3Upload(self._s3, self, repository, secrets.token_hex(16), algorithm)
        await upload.pause()
        self._uploads[upload.id] = upload
        return upload

    async def resume_upload(self, repository: str, id: str) -> Upload | None:
        if not _ID.match(id):
            return None
        known = self._uploads.get(id)
        if known is not None and known.lock.locked():
            return known
        saved = await self._s3.get(self.session(repository, id))
        if saved is None:
            self.forget(id)
            return None
        if known is not None and known.etag == saved.etag:
            return known  # nobody else wrote to it: the running hash is good
        state, tail = decode(saved.body)
        upload = self._uploads[id] = S3Upload(self._s3, self, repository, id, saved=(state, tail, saved.etag))
        return upload

    def forget(self, id: str) -> None:
        self._uploads.pop(id, None)

    async def drop_unused(self, oldest: float, oldest_upload: float) -> Freed:
        freed = Freed(uploads=await give_up_unused(self._s3, oldest_upload))
        unused: dict[str, int] = {}
        async for stored in self._s3.objects("blobs/"):
            if stored.at < oldest and await self._left_links(stored.key, oldest) is not None:
                unused[stored.key] = stored.size
                if len(unused) == _BATCH:
                    await self._remove(unused, freed, oldest)
                    unused = {}
        await self._remove(unused, freed, oldest)
        return freed

    async def _left_links(self, content: str, oldest: float) -> list[str] | None:
        """``None`` if somebody holds the content; else the links of those who died before they did."""
        left = []
        name = content.removeprefix("blobs/")
        async for link in self._s3.objects(f"links/{name}/"):
            repository = link.key.removeprefix(f"links/{name}/")
            if link.at >= oldest or await self._s3.head(f"held/{repository}/_/{name}") is not None:
                return None
            left.append(link.key)
        return left

    async def _remove(self, unused: dict[str, int], freed: Freed, oldest: float) -> None:
        if not unused:
            return
        async with self._locks.exclusive(CONTENTS):
            began = time.monotonic()
            for key, size in unused.items():
                # Others wait for the lock only so long: what is not done by then waits for the next collection.
                if time.monotonic() - began > Locks.TRUSTED / 2:
                    return
                found = await self._s3.head(key)
                left = await self._left_links(key, oldest) if found is not None and found.at < oldest else None
                if left is not None:
                    for each in (*left, key):  # the content last: who finds it gone writes a link that must stay
                        await self._s3.delete(each)
                    freed.contents += 1
                    freed.size += size
