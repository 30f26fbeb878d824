"""What the registry needs of its storage. Repository names, digests and tags are checked before they get here.

Everything that returns after a change has made it durable. Times are seconds since the epoch.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol

from barque.oci.descriptor import Descriptor
from barque.oci.digest import Digest


@dataclass(frozen=True, slots=True)
class Blob:
    """A stored blob of ``size`` bytes: a local file, or what ``open`` yields from one position up to another.

    ``url``: where a client may fetch it by itself, for some minutes.
    """

    size: int
    path: str = ""
    open: Callable[[int, int], AsyncIterator[bytes]] | None = None
    url: str = ""


@dataclass(frozen=True, slots=True)
class StoredManifest:
    """A manifest exactly as it was pushed, under the media type it came with."""

    digest: Digest
    media_type: str
    body: bytes


@dataclass(frozen=True, slots=True)
class Entry:
    """A blob or manifest of a repository: ``size`` in bytes, ``used``: when it was last pushed or asked for."""

    digest: Digest
    size: int
    used: float


@dataclass(frozen=True, slots=True)
class Tagged:
    tag: str
    digest: Digest
    at: float


@dataclass(slots=True)
class Freed:
    """What a collection removed; ``size`` in bytes."""

    contents: int = 0
    size: int = 0
    uploads: int = 0


class WrongDigest(Exception):
    """The uploaded bytes do not have the digest that the client names; the upload is gone."""


class UploadGone(Exception):
    """Another process has committed or cancelled the upload."""


class Upload(Protocol):
    """One upload session. Hold ``lock`` around a look at ``offset`` and the writes and commit that depend on it.

    Taking the lock raises :class:`UploadGone` if somebody else has ended the session.
    """

    id: str
    #: Whether ``write`` makes use of ``more``.
    takes_more: bool

    @property
    def lock(self) -> AbstractAsyncContextManager[None]: ...

    @property
    def offset(self) -> int: ...
    def expect(self, digest: Digest) -> None:
        """A hint before the first byte: all of them come now and should have this digest."""
    async def write(self, data: bytes | memoryview, more: Callable[[], memoryview] | None = None) -> None:
        """Append all of it; after an OSError the upload is as it was before.

        If the bytes are written in a thread, some more that ``more`` gives there follow, until it has none.
        """
    async def pause(self) -> None:
        """Called when a request ends that is not the last one: what was written survives this process."""
    async def commit(self, digest: Digest) -> None:
        """Make the bytes a blob of the repository; raises :class:`WrongDigest`."""
    async def cancel(self) -> None: ...


class BlobStorage(Protocol):
    async def get(self, repository: str, digest: Digest) -> Blob | None:
        """The blob; being asked for keeps it from collection for a while."""
    async def mount(self, repository: str, digest: Digest, source: str | None) -> bool:
        """Make a blob of ``source`` (``None``: of any repository) one of ``repository`` too; False if there is none."""
    async def delete(self, repository: str, digest: Digest) -> int | None:
        """The bytes that became free at once (0 while another repository holds them); ``None`` if it was not there."""
    async def entries(self, repository: str) -> list[Entry]: ...
    async def start_upload(self, repository: str, algorithm: str = "sha256") -> Upload:
        """``algorithm``: that of the digest to expect."""
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
    async def entries(self, repository: str) -> list[Entry]: ...
    async def tags(self, repository: str) -> list[str]: ...
    async def tagged(self, repository: str) -> list[Tagged]: ...
    async def resolve(self, repository: str, tag: str) -> Digest | None: ...
    async def untag(self, repository: str, tag: str) -> bool: ...
    async def referrers(self, repository: str, subject: Digest) -> list[Descriptor]: ...


class Storage(Protocol):
    @property
    def blobs(self) -> BlobStorage: ...
    @property
    def manifests(self) -> ManifestStorage: ...

    async def probe(self) -> None:
        """Return if images can be read; else raise OSError or BarqueError."""

    async def guarded(self, repository: str, action: Callable[[], Awaitable[None]]) -> None:
        """Do ``action``, which looks at blobs and then refers to them, while no collection takes them away."""

    def exclusive(self, repository: str) -> AbstractAsyncContextManager[None]:
        """For a collection: inside, no ``guarded`` action sees a blob and relies on it."""

    async def drop_unused(self, oldest: float, oldest_upload: float) -> Freed:
        """Remove contents that no repository holds and that are older than ``oldest``, and abandoned uploads."""

    async def aclose(self) -> None: ...
