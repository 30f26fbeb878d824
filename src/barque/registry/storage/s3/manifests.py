"""Manifests, tags and referrers in an object store.

``manifests/<repository>/_/<algorithm>/<hex>``: the media type, a newline, the bytes as pushed;
``tags/<repository>/_/<tag>``: a digest; ``referrers/<repository>/_/<subject>/<digest>``: a descriptor;
``index/<repository>``: the repository has something. No component of a repository's name is ``_``.
"""

from __future__ import annotations

import asyncio

import msgspec

from barque.oci import go_json
from barque.oci.descriptor import Descriptor
from barque.oci.digest import Digest
from barque.registry.storage.base import Entry, StoredManifest, Tagged
from barque.registry.storage.s3.client import S3

#: Objects read at once.
_PARALLEL = 16


class S3Manifests:
    """Meets :class:`barque.registry.storage.base.ManifestStorage`."""

    def __init__(self, s3: S3) -> None:
        self._s3 = s3

    @staticmethod
    def _manifest(repository: str, digest: Digest) -> str:
        return f"manifests/{repository}/_/{digest.algorithm}/{digest.hex}"

    @staticmethod
    def _tag(repository: str, tag: str) -> str:
        return f"tags/{repository}/_/{tag}"

    @staticmethod
    def _referrers(repository: str, subject: Digest) -> str:
        return f"referrers/{repository}/_/{subject.algorithm}/{subject.hex}/"

    def _referrer(self, repository: str, subject: Digest, digest: Digest) -> str:
        return f"{self._referrers(repository, subject)}{digest.algorithm}-{digest.hex}"

    async def repositories(self) -> list[str]:
        return sorted([stored.key.removeprefix("index/") async for stored in self._s3.objects("index/")])

    async def exists(self, repository: str) -> bool:
        return await self._s3.head(f"index/{repository}") is not None

    async def get(self, repository: str, digest: Digest) -> StoredManifest | None:
        found = await self._s3.get(self._manifest(repository, digest))
        if found is None:
            return None
        media_type, _, body = found.body.partition(b"\n")
        return StoredManifest(digest, media_type.decode("ascii"), body)

    async def put(self, repository: str, manifest: StoredManifest, tags: tuple[str, ...],
                  referrer: tuple[Digest, Descriptor] | None) -> None:
        body = manifest.media_type.encode("ascii") + b"\n" + manifest.body
        await self._s3.put(self._manifest(repository, manifest.digest), body)
        await self._s3.put(f"index/{repository}", b"")
        if referrer is not None:
            subject, own = referrer
            await self._s3.put(self._referrer(repository, subject, manifest.digest), msgspec.json.encode(own))
        for tag in tags:
            await self._s3.put(self._tag(repository, tag), manifest.digest.encode("ascii"))

    async def delete(self, repository: str, digest: Digest, subject: Digest | None) -> None:
        for tagged in await self.tagged(repository):
            if tagged.digest == digest:
                await self._s3.delete(self._tag(repository, tagged.tag))
        if subject is not None:
            await self._s3.delete(self._referrer(repository, subject, digest))
        await self._s3.delete(self._manifest(repository, digest))

    async def entries(self, repository: str) -> list[Entry]:
        prefix = f"manifests/{repository}/_/"
        return [Entry(Digest(stored.key.removeprefix(prefix).replace("/", ":")), stored.size, stored.at)
                async for stored in self._s3.objects(prefix)]

    async def tags(self, repository: str) -> list[str]:
        prefix = f"tags/{repository}/_/"
        return sorted([stored.key.removeprefix(prefix) async for stored in self._s3.objects(prefix)])

    async def tagged(self, repository: str) -> list[Tagged]:
        gate = asyncio.Semaphore(_PARALLEL)
        prefix = f"tags/{repository}/_/"

        async def one(key: str, at: float) -> Tagged | None:
            async with gate:
                found = await self._s3.get(key)
            return Tagged(key.removeprefix(prefix), Digest.parse(found.body.decode("ascii")), at) if found else None

        asked = [one(stored.key, stored.at) async for stored in self._s3.objects(prefix)]
        return [tagged for tagged in await asyncio.gather(*asked) if tagged is not None]

    async def resolve(self, repository: str, tag: str) -> Digest | None:
        found = await self._s3.get(self._tag(repository, tag))
        return Digest.parse(found.body.decode("ascii")) if found is not None else None

    async def untag(self, repository: str, tag: str) -> bool:
        if await self._s3.head(self._tag(repository, tag)) is None:
            return False
        await self._s3.delete(self._tag(repository, tag))
        return True

    async def referrers(self, repository: str, subject: Digest) -> list[Descriptor]:
        keys = [stored.key async for stored in self._s3.objects(self._referrers(repository, subject))]
        found = await asyncio.gather(*(self._s3.get(key) for key in keys))
        return [go_json.decode(answer.body, Descriptor) for answer in found if answer is not None]
