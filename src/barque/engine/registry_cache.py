"""Build caches in registries: read for ``--cache-from``, written for ``--cache-to``."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

from barque.build import portable_cache
from barque.build.cache_images import following
from barque.build.lookup import CacheSource, Fetch, Found, Identity
from barque.build.portable_cache import RecordedSteps
from barque.build.state import State
from barque.errors import BarqueError, DataLoss
from barque.image.client.auth import Credentials
from barque.image.client.endpoints import Registry
from barque.image.client.repository import Repository
from barque.image.client.transport import Transport
from barque.image.progress import Report
from barque.image.push import push_image
from barque.image.remote import choose
from barque.oci import go_json
from barque.oci.descriptor import Descriptor
from barque.oci.digest import Digest
from barque.oci.image import ImageConfig
from barque.oci.manifest import MAX_MANIFEST_SIZE, Manifest
from barque.oci.platform import Platform
from barque.oci.reference import Reference
from barque.store.content import ContentStore
from barque.store.leases import Lease

log = logging.getLogger("barque.engine.registry_cache")
_BLOCK = 1 << 20


class _RemoteImage:
    """An image in a registry as a cache: its history says what it was made by. Meets ``lookup.CacheSource``."""

    def __init__(self, manifest: Manifest, config: ImageConfig, fetch: Fetch) -> None:
        self._manifest = manifest
        self._config = config
        self._fetch = fetch

    async def find(self, identity: Identity, state: State) -> Found | None:
        diff_ids = self._config.rootfs.diff_ids
        if not identity.told_by_history or len(diff_ids) != len(self._manifest.layers):
            return None
        entry = following(self._config.history or (), diff_ids, state, identity.created_by)
        if entry is None or entry.empty_layer:
            return Found(entry.created) if entry is not None else None
        index = len(state.diff_ids)
        return Found(entry.created, self._manifest.layers[index], diff_ids[index], fetch=self._fetch)


class RegistryCaches:
    def __init__(self, content: ContentStore, transport: Transport) -> None:
        self._content = content
        self._registry = Registry(transport)

    async def open(self, refs: Sequence[Reference], platform: Platform,
                   credentials: Mapping[str, Credentials]) -> list[CacheSource]:
        """What there is under ``refs``; a registry that does not answer, or has nothing, is no failure."""
        found: list[CacheSource] = []
        for ref in refs:
            try:
                found += await self._open(ref, platform, credentials.get(ref.domain))
            except BarqueError as error:
                log.info("no cache from %s: %s", ref.familiar, error.message)
        return found

    async def _open(self, ref: Reference, platform: Platform, credentials: Credentials | None) -> list[CacheSource]:
        async def use(repository: Repository) -> tuple[Manifest, bytes]:
            remote = await choose(repository, self._content, await repository.manifest(ref.selector), platform)
            config = await repository.small_blob(remote.manifest.config.checked_digest)
            if Digest.of(config) != remote.manifest.config.digest:
                raise DataLoss(f"the configuration of {ref.familiar} does not have its digest")
            return remote.manifest, config

        manifest, config = await self._registry.attempt(ref, credentials, "pull", use)
        fetch = self._fetcher(ref, credentials)
        if manifest.config.media_type == portable_cache.CONFIG:
            return [RecordedSteps(portable_cache.read(config, ref.familiar), manifest.layers, fetch)]
        sources: list[CacheSource] = []
        if inline := manifest.annotations.get(portable_cache.ANNOTATION):
            sources.append(RecordedSteps(portable_cache.read(inline.encode(), ref.familiar), manifest.layers, fetch))
        return [*sources, _RemoteImage(manifest, go_json.decode(config, ImageConfig), fetch)]

    def _fetcher(self, ref: Reference, credentials: Credentials | None) -> Fetch:
        async def fetch(lease: Lease, blob: Descriptor) -> None:
            async def use(repository: Repository) -> None:
                async with await self._content.ingest(lease, blob) as ingest:
                    if not ingest.exists:
                        async with repository.blob(blob.checked_digest) as (_, body):
                            skip = ingest.offset
                            async for block in body.iter_chunked(_BLOCK):
                                fresh, skip = block[skip:], max(0, skip - len(block))
                                if fresh:
                                    await ingest.write(fresh)
                    await ingest.commit()

            await self._registry.attempt(ref, credentials, "pull", use)

        return fetch

    async def push(self, ref: Reference, credentials: Credentials | None, descriptor: Descriptor, manifest: Manifest,
                   report: Report) -> None:
        """Push an artifact that is stored. Raises BarqueError."""
        body = await self._content.read(descriptor.digest, MAX_MANIFEST_SIZE)
        files = {blob.digest: self._content.path(blob.digest) for blob in (manifest.config, *manifest.layers)}
        await push_image(self._registry.transport, ref, descriptor.media_type, body, files, credentials, report)
