"""What the registry needs of its storage. Repository names, digests and tags are checked before they get here.

Everything that returns after a change has made it durable.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Protocol

from barque.oci.descriptor import Descriptor
from barque.oci.digest import Digest


@dataclass(frozen=True, slots=True)
class Blob:
    """A stored blob as a local file: ``size`` in bytes."""

    path: str
    size: int

    def read(self) -> bytes:
        """All of it, blocking: for small ones."""
        with open(self.path, "rb") as file:
            return file.read()


@dataclass(frozen=True, slots=True)
class StoredManifest:
    """A manifest exactly as it was pushed, under the media type it came with."""

    digest: Digest
    media_type: str
    body: bytes


class WrongDigest(Exception):
    """The uploaded bytes do not have the digest that the client names; the upload is gone."""


class Upload(Protocol):
    """One upload session. Hold ``lock`` around a look at ``offset`` and the writes and commit that depend on it."""

    id: str
    lock: asyncio.Lock

    @property
    def offset(self) -> int: ...
    async def write(self, data: bytes) -> None: ...
    async def commit(self, digest: Digest) -> None:
        """Make the bytes a blob of the repository; raises :class:`WrongDigest`."""
    async def cancel(self) -> None: ...


class BlobStorage(Protocol):
    async def get(self, repository: str, digest: Digest) -> Blob | None: ...
    async def mount(self, repository: str, digest: Digest, source: str) -> bool:
        """Make a blob of the repository ``source`` one of ``repository`` too; False if ``source`` lacks it."""
    async def delete(self, repository: str, digest: Digest) -> bool: ...
    async def start_upload(self, repository: str) -> Upload: ...
    async def resume_upload(self, repository: str, id: str) -> Upload | None: ...


class ManifestStorage(Protocol):
    async def repositories(self) -> list[str]:
        """Names of all repositories that hold anything, sorted."""
    async def exists(self, repository: str) -> bool: ...
    async def get(self, repository: str, digest: Digest) -> StoredManifest | None: ...
    async def put(self, repository: str, manifest: StoredManifest, tags: tuple[str, ...],
                  referrer: tuple[Digest, Descriptor] | None) -> None:
        """Store, then enter as referrer of (subject, own descriptor), then tag: a reader never sees a dangling tag."""
    async def delete(self, repository: str, digest: Digest, subject: Digest | None) -> None:
        """Remove the manifest, the tags that name it and its entry as a referrer of ``subject``."""
    async def tags(self, repository: str) -> list[str]: ...
    async def resolve(self, repository: str, tag: str) -> Digest | None: ...
    async def untag(self, repository: str, tag: str) -> bool: ...
    async def referrers(self, repository: str, subject: Digest) -> list[Descriptor]: ...


class Storage(Protocol):
    @property
    def blobs(self) -> BlobStorage: ...
    @property
    def manifests(self) -> ManifestStorage: ...
