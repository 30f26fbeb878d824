"""A cache of other registries, beside own repositories: what is asked for is fetched once and stays when they are away.

Repositories below an upstream's prefix are its copies and cannot be pushed to: ``docker.io/library/httpd`` here is
``library/httpd`` there. A *default* upstream also answers for names that are not found here, as docker's mirrors are
asked. A tag is checked upstream when it was last checked more than its life ago; if upstream does not answer, the copy
is served as it is. Digests never change, so what is here by digest is never asked for again.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import TypeVar

from barque.errors import BarqueError
from barque.image.client.auth import Credentials
from barque.image.client.endpoints import Registry
from barque.image.client.errors import RegistryRefused
from barque.image.client.repository import Repository
from barque.oci import go_json
from barque.oci import media_types as mt
from barque.oci.descriptor import Descriptor
from barque.oci.digest import Digest
from barque.oci.manifest import Index, parse
from barque.oci.reference import Reference
from barque.registry.errors import RegistryError
from barque.registry.eviction import CacheSize
from barque.registry.fetch import Fetches
from barque.registry.referrers import as_referrer
from barque.registry.storage.base import Blob, Entry, Freed, Storage, StoredManifest, Tagged, Upload

log = logging.getLogger("barque.registry.proxy")
T = TypeVar("T")


@dataclass(frozen=True)
class Upstream:
    """``host``: its domain in references. ``tag_life``: seconds for which a tag is believed. ``size``: bytes of blobs
    that are kept (``None``: all)."""

    prefix: str
    host: str
    credentials: Credentials | None = None
    default: bool = False
    tag_life: float = 60.0
    size: int | None = None


class Upstreams:
    """Finds who stands behind a repository's name, and asks."""

    def __init__(self, upstreams: tuple[Upstream, ...], registry: Registry, storage: Storage) -> None:
        self._upstreams = sorted(upstreams, key=lambda upstream: len(upstream.prefix), reverse=True)
        self._default = next((upstream for upstream in upstreams if upstream.default), None)
        self._registry = registry
        self._storage = storage
        self._sizes = {upstream: CacheSize(storage, f"{upstream.prefix}/*", upstream.size)
                       for upstream in upstreams if upstream.size is not None}

    async def stored(self, repository: str, size: int) -> None:
        """A blob of ``size`` bytes has come: make room if its upstream's cache has become too large."""
        upstream = self.behind(repository)
        if upstream in self._sizes:
            await self._sizes[upstream].added(size)

    def behind(self, repository: str) -> Upstream | None:
        return next((upstream for upstream in self._upstreams if repository.startswith(upstream.prefix + "/")), None)

    async def name_here(self, repository: str) -> str:
        """The name under which ``repository`` is kept: that of the default's copy if there is none of its own."""
        if self._default is None or self.behind(repository) is not None \
                or await self._storage.manifests.exists(repository):
            return repository
        return f"{self._default.prefix}/{repository}"

    async def ask(self, upstream: Upstream, repository: str, use: Callable[[Repository], Awaitable[T]]) -> T:
        path = repository.removeprefix(upstream.prefix + "/")
        return await self._registry.attempt(Reference(upstream.host, path), upstream.credentials, "pull", use)

    def refuse_push(self, repository: str) -> None:
        upstream = self.behind(repository)
        if upstream is not None:
            raise RegistryError("DENIED", f"{repository} is a copy of {upstream.host}: push there")


def _is_missing(error: BarqueError) -> bool:
    return isinstance(error, RegistryRefused) and error.http_status == 404


class CachedManifests:
    """Meets :class:`barque.registry.storage.base.ManifestStorage`."""

    def __init__(self, storage: Storage, upstreams: Upstreams) -> None:
        self._inner = storage.manifests
        self._upstreams = upstreams
        self._checked: dict[tuple[str, str], float] = {}
        # A fixed number: names that strangers make up must not cost memory.
        self._checking = tuple(asyncio.Lock() for _ in range(64))

    async def repositories(self) -> list[str]:
        return await self._inner.repositories()

    async def exists(self, repository: str) -> bool:
        here = await self._upstreams.name_here(repository)
        return self._upstreams.behind(here) is not None or await self._inner.exists(here)

    async def resolve(self, repository: str, tag: str) -> Digest | None:
        here = await self._upstreams.name_here(repository)
        upstream = self._upstreams.behind(here)
        if upstream is None:
            return await self._inner.resolve(here, tag)
        key = (here, tag)
        async with self._checking[hash(key) % len(self._checking)]:
            local = await self._inner.resolve(here, tag)
            if local is not None and time.monotonic() - self._checked.get(key, -1e9) < upstream.tag_life:
                return local
            try:
                found = await self._upstreams.ask(upstream, here, lambda r: self._refresh(r, here, tag, local))
            except BarqueError as error:
                if _is_missing(error):
                    await self._inner.untag(here, tag)
                    return None
                if local is None:
                    raise
                log.warning("%s does not answer, serving its copy of %s:%s: %s", upstream.host, here, tag, error)
                return local
            self._checked[key] = time.monotonic()
            return found

    async def _refresh(self, remote: Repository, here: str, tag: str, local: Digest | None) -> Digest:
        if local is not None and await remote.head_manifest(tag) == local:
            return local
        return await self._take(remote, here, tag, (tag,))

    async def _take(self, remote: Repository, here: str, selector: str, tags: tuple[str, ...]) -> Digest:
        body, media_type, digest = await remote.manifest(selector)
        document = parse(body, media_type)
        referrer = None
        if document.subject is not None:
            referrer = (document.subject.checked_digest, as_referrer(document, media_type, digest, len(body)))
        await self._inner.put(here, StoredManifest(digest, media_type, body), tags, referrer)
        return digest

    async def get(self, repository: str, digest: Digest) -> StoredManifest | None:
        here = await self._upstreams.name_here(repository)
        found = await self._inner.get(here, digest)
        upstream = self._upstreams.behind(here)
        if found is not None or upstream is None:
            return found
        try:
            await self._upstreams.ask(upstream, here, lambda r: self._take(r, here, str(digest), ()))
        except BarqueError as error:
            if _is_missing(error):
                return None
            raise
        return await self._inner.get(here, digest)

    async def put(self, repository: str, manifest: StoredManifest, tags: tuple[str, ...],
                  referrer: tuple[Digest, Descriptor] | None) -> None:
        self._upstreams.refuse_push(repository)
        await self._inner.put(repository, manifest, tags, referrer)

    async def delete(self, repository: str, digest: Digest, subject: Digest | None) -> None:
        await self._inner.delete(await self._upstreams.name_here(repository), digest, subject)

    async def untag(self, repository: str, tag: str) -> bool:
        return await self._inner.untag(await self._upstreams.name_here(repository), tag)

    async def entries(self, repository: str) -> list[Entry]:
        return await self._inner.entries(repository)

    async def tagged(self, repository: str) -> list[Tagged]:
        return await self._inner.tagged(repository)

    async def tags(self, repository: str) -> list[str]:
        here = await self._upstreams.name_here(repository)
        upstream = self._upstreams.behind(here)
        if upstream is None:
            return await self._inner.tags(here)
        try:
            return sorted(await self._upstreams.ask(upstream, here, lambda remote: remote.tags()))
        except BarqueError as error:
            if _is_missing(error):
                raise RegistryError("NAME_UNKNOWN", {"name": repository}) from None
            log.warning("%s does not answer, listing the tags known here of %s: %s", upstream.host, here, error)
            return await self._inner.tags(here)

    async def referrers(self, repository: str, subject: Digest) -> list[Descriptor]:
        here = await self._upstreams.name_here(repository)
        upstream = self._upstreams.behind(here)
        if upstream is not None:
            try:
                return await self._upstreams.ask(upstream, here, lambda remote: _referrers(remote, subject))
            except BarqueError as error:
                log.info("no referrers from %s, listing those known here: %s", upstream.host, error)
        return await self._inner.referrers(here, subject)


async def _referrers(remote: Repository, subject: Digest) -> list[Descriptor]:
    async with remote.request("GET", remote.url(f"referrers/{subject}"),
                              headers={"Accept": mt.OCI_INDEX}) as response:
        return list(go_json.decode(await response.read(), Index).manifests)


class CachedBlobs:
    """Meets :class:`barque.registry.storage.base.BlobStorage`."""

    def __init__(self, storage: Storage, upstreams: Upstreams, spool: str | None) -> None:
        self._inner = storage.blobs
        self._upstreams = upstreams
        self._fetches = Fetches(storage.blobs, spool, upstreams.stored)

    async def get(self, repository: str, digest: Digest) -> Blob | None:
        here = await self._upstreams.name_here(repository)
        found = await self._inner.get(here, digest)
        upstream = self._upstreams.behind(here)
        if found is not None or upstream is None:
            return found

        def fetch(use: Callable[[Repository], Awaitable[None]]) -> Awaitable[None]:
            return self._upstreams.ask(upstream, here, use)

        try:
            return await self._fetches.blob(here, digest, fetch)
        except BarqueError as error:
            if _is_missing(error):
                return None
            raise

    async def mount(self, repository: str, digest: Digest, source: str | None) -> bool:
        self._upstreams.refuse_push(repository)
        return await self._inner.mount(repository, digest, source)

    async def delete(self, repository: str, digest: Digest) -> int | None:
        return await self._inner.delete(repository, digest)

    async def entries(self, repository: str) -> list[Entry]:
        return await self._inner.entries(repository)

    async def start_upload(self, repository: str, algorithm: str = "sha256") -> Upload:
        self._upstreams.refuse_push(repository)
        return await self._inner.start_upload(repository, algorithm)

    async def resume_upload(self, repository: str, id: str) -> Upload | None:
        return await self._inner.resume_upload(repository, id)

    async def close(self) -> None:
        await self._fetches.close()


class CachingStorage:
    """Meets :class:`barque.registry.storage.base.Storage`; ``inner`` holds copies and own repositories.

    ``spool``: the directory for blobs on their way (``None``: the system's for temporary files).
    """

    def __init__(self, inner: Storage, upstreams: tuple[Upstream, ...], registry: Registry,
                 spool: str | None = None) -> None:
        self._inner = inner
        self._registry = registry
        finder = Upstreams(upstreams, registry, inner)
        self.manifests = CachedManifests(inner, finder)
        self.blobs = CachedBlobs(inner, finder, spool)

    async def probe(self) -> None:
        await self._inner.probe()

    async def guarded(self, repository: str, action: Callable[[], Awaitable[None]]) -> None:
        await self._inner.guarded(repository, action)

    def exclusive(self, repository: str) -> AbstractAsyncContextManager[None]:
        return self._inner.exclusive(repository)

    async def drop_unused(self, oldest: float, oldest_upload: float) -> Freed:
        return await self._inner.drop_unused(oldest, oldest_upload)

    async def aclose(self) -> None:
        await self.blobs.close()
        await self._registry.transport.close()
        await self._inner.aclose()
