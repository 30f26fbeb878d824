"""Pulling: a reference becomes verified blobs, unpacked layers and, as the very last step, a name.

Each layer goes from the socket into the content store and, behind the writer and at its own pace, from there into the
unpacking worker: the network never waits for the disk, and nothing is read twice from the network. The name comes only
when every digest was verified and every layer is committed.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Coroutine
from dataclasses import dataclass, replace
from typing import Any

from barque.errors import BarqueError, DataLoss, NotFound, PermissionDenied
from barque.image.arrivals import Arrival, Arrivals
from barque.image.client.auth import Credentials
from barque.image.client.endpoints import Registry
from barque.image.client.errors import (
    RegistryRefused,
    for_pull,
)
from barque.image.client.repository import MAX_CONFIG, Repository
from barque.image.client.search import SearchResult, search
from barque.image.client.transport import Transport
from barque.image.layer_set import check_layers, check_types, unpack_all
from barque.image.layers import UnpackSlots, unpack
from barque.image.names import ImageNames, NamedImage, with_id
from barque.image.plain import PlainFetcher
from barque.image.progress import Bar, Progress, Report, short
from barque.image.remote import Remote, choose, stored
from barque.image.sources import remember
from barque.image.tasks import stop
from barque.image.trust.check import TrustCheck
from barque.image.trust.check import remember as note_signatures
from barque.image.turns import Turns
from barque.oci import go_json
from barque.oci import media_types as mt
from barque.oci.descriptor import Descriptor
from barque.oci.digest import Digest
from barque.oci.image import ImageConfig, chain_ids
from barque.oci.manifest import Index, Manifest, media_type_of, parse
from barque.oci.platform import Platform, host
from barque.oci.reference import Reference
from barque.store.content import ContentStore
from barque.store.leases import Lease, Leases
from barque.store.snapshots import LayerSlot, Snapshots
from barque.store.tar.messages import UnpackResult
from barque.store.threads import uncut
from barque.store.workers import Workers


class ReservedName(PermissionDenied):
    text = "'{name}' is a reserved name"


class ConfigPullFailed(DataLoss):
    text = "error pulling image configuration: {cause}"


@dataclass(frozen=True)
class Limits:
    """``downloads`` at once; ``attempts`` for one layer before its pull fails; ``pause`` seconds before the second."""

    downloads: int = 3
    attempts: int = 5
    pause: float = 1.0


@dataclass(frozen=True)
class Pulled:
    """What a pull came to: ``target`` as stored under the name, ``digest`` as the registry calls the tag."""

    target: Descriptor
    digest: Digest
    updated: bool


class Puller:
    def __init__(self, content: ContentStore, snapshots: Snapshots, leases: Leases, names: ImageNames,
                 workers: Workers, transport: Transport, limits: Limits | None = None,
                 trust: TrustCheck | None = None) -> None:
        self._content = content
        self._snapshots = snapshots
        self._leases = leases
        self._names = names
        self._workers = workers
        self._registry = Registry(transport)
        self._limits = limits or Limits()
        self._trust = trust
        self.downloads = Turns(self._limits.downloads)
        self._plain = PlainFetcher(content, self.downloads, self._limits.attempts, self._limits.pause)
        self._unpacks = UnpackSlots()

    def close(self) -> None:
        self._unpacks.threads.shutdown()

    async def pull(self, ref: Reference, platform: Platform | None, credentials: Credentials | None,
                   report: Report) -> Pulled:
        """Pull ``ref`` (a tag is added if it has neither tag nor digest) for ``platform``, else for this machine.

        Raises BarqueError with dockerd's texts; then no name was changed. Cancelling it is the same.
        """
        if ref.familiar_name == "scratch":
            raise ReservedName(name="scratch")
        ref = ref.with_default_tag()
        try:
            return await self._registry.attempt(
                ref, credentials, "pull", lambda repository: self._pull(repository, ref, platform, report))
        except RegistryRefused as error:
            raise for_pull(error, ref) from error

    async def tags(self, ref: Reference, credentials: Credentials | None) -> list[str]:
        """All tags of a repository; raises as :meth:`pull`."""
        try:
            return await self._registry.attempt(ref, credentials, "pull", lambda repository: repository.tags())
        except RegistryRefused as error:
            raise for_pull(error, ref) from error

    async def search(self, term: str, limit: int, credentials: Credentials | None) -> list[SearchResult]:
        """Repositories of a registry that fit ``term``. Raises RegistryRefused, RegistryUnreachable."""
        return await search(self._registry.transport, term, limit, credentials)

    async def describe(self, ref: Reference, credentials: Credentials | None) -> tuple[Descriptor, list[Platform]]:
        """What the registry has under ``ref``, without pulling it: its descriptor, and for which platforms it is."""
        async def use(repository: Repository) -> tuple[Descriptor, list[Platform]]:
            body, content_type, digest = await repository.manifest(ref.selector)
            document = parse(body, content_type)
            descriptor = Descriptor(media_type=media_type_of(document, content_type), digest=str(digest),
                                    size=len(body))
            if isinstance(document, Index):
                return descriptor, [entry.platform for entry in document.manifests if entry.platform]
            config = await repository.small_blob(document.config.checked_digest)
            found = go_json.decode(config, Platform)
            return descriptor, [found] if found.os or found.architecture else []

        try:
            return await self._registry.attempt(ref, credentials, "pull", use)
        except RegistryRefused as error:
            raise for_pull(error, ref) from error

    async def _pull(self, repository: Repository, ref: Reference, platform: Platform | None,
                    report: Report) -> Pulled:
        received = await repository.manifest(ref.selector)
        top = received[2]
        report(Progress(status=f"Pulling from {ref.path}", id=str(ref.digest or ref.tag)))
        remote = await choose(repository, self._content, received, platform or host())
        signatures = await self._trust.verified(
            repository, ref, [top, remote.descriptor.checked_digest]) if self._trust else []
        names = _names_of(ref, top)
        rows = await self._names.list()
        target = await self._current(rows, names, remote)
        updated = False
        if target is None:
            known = any(row.id == remote.manifest.config.digest for row in rows)
            async with self._leases.hold(f"pull {ref}") as lease:
                target = await self._fetch(repository, lease, ref, remote, report, quiet=known)
                updated = await self._names.point(names, target)
        if self._trust:
            await note_signatures(self._content, target.digest, signatures)
        report(Progress(status=f"Digest: {top}"))
        status = "Downloaded newer image for" if updated else "Image is up to date for"
        report(Progress(status=f"Status: {status} {ref.familiar}"))
        return Pulled(target, top, updated)

    async def _fetch(self, repository: Repository, lease: Lease, ref: Reference, remote: Remote, report: Report,
                     quiet: bool) -> Descriptor:
        """Bring everything of the image here; returns what its names are to stand for.

        ``quiet``: layers that are there are not worth a word, since the whole image is.
        """
        if remote.manifest.config.media_type not in mt.CONFIGS:
            return await self._artifact(repository, lease, ref, remote, report)
        check_types(remote.manifest)
        arrivals = Arrivals(self._content, self._plain, remote.manifest.layers, ref, report)
        async with await arrivals.start(repository, lease):
            data = await self._config(repository, remote.manifest.config)
            config = go_json.decode(data, ImageConfig)
            # Their syncs take place meanwhile.
            documents = asyncio.create_task(self._documents(lease, remote, data))
            try:
                await self._unpack(lease, arrivals, remote.manifest, config, report, quiet)
                kept = [*await documents, *await self._attestations(repository, lease, remote, report)]
                return with_id(_with_platform(remote.descriptor, config), remote.manifest.config.digest, *kept)
            finally:
                # Not cut off when a layer fails: a file would be left without its row.
                await uncut(_ended(documents))

    async def _artifact(self, repository: Repository, lease: Lease, ref: Reference, remote: Remote,
                        report: Report) -> Descriptor:
        """Something that is no image: all of it is kept, nothing of it is unpacked. Its id is its own digest."""
        wanted = [(layer, Bar(report, short(layer.digest))) for layer in remote.manifest.layers]
        for _, bar in wanted:
            bar.step("Pulling fs layer")
        await self._plain.blobs(repository, lease, [(remote.manifest.config, Bar(lambda _: None, "")), *wanted])
        for _, bar in wanted:
            bar.step("Pull complete")
        await remember(self._content, [layer.digest for layer in remote.manifest.layers], ref)
        return with_id(remote.descriptor, remote.descriptor.digest, *await self._documents(lease, remote))

    async def _documents(self, lease: Lease, remote: Remote, config: bytes | None = None) -> list[str]:
        """Store manifest, config and indexes; returns the digests of the indexes."""
        pending = [self._content.put(lease, remote.descriptor.media_type, remote.body)]
        if config is not None:
            pending.append(self._put(lease, remote.manifest.config, config))
        pending += [self._content.put(lease, media_type, body) for media_type, body in remote.indexes]
        stored = await asyncio.gather(*pending, return_exceptions=True)
        for outcome in stored:
            if isinstance(outcome, BaseException):
                raise outcome
        return [str(Digest.of(body)) for _, body in remote.indexes]

    async def _put(self, lease: Lease, descriptor: Descriptor, data: bytes) -> Descriptor:
        async with await self._content.ingest(lease, descriptor) as ingest:
            if not ingest.exists:
                await ingest.write(data[ingest.offset:])
            return await ingest.commit()

    async def _attestations(self, repository: Repository, lease: Lease, remote: Remote, report: Report) -> list[str]:
        """Keep what is said about the image. It runs without, so that nothing there fails the pull."""
        kept = []
        for entry in remote.attestations:
            try:
                await self._plain.manifest(repository, lease, entry)
                kept.append(entry.digest)
            except BarqueError as error:
                report(Progress(status=f"WARNING: the attestation {entry.digest} is not kept: {error.message}"))
        return kept

    async def _current(self, rows: list[NamedImage], names: list[str], remote: Remote) -> Descriptor | None:
        """What all the names stand for, if that is the remote image and nothing of it is missing here."""
        found = [row.target for row in rows
                 if row.name in names and row.target.digest == remote.descriptor.digest]
        target = found[0] if len(found) == len(names) else None
        if target is None or found.count(target) != len(found) or remote.manifest.config.media_type not in mt.CONFIGS:
            return None
        try:
            data = await self._content.read(remote.manifest.config.digest, MAX_CONFIG)
            chain = list(chain_ids(go_json.decode(data, ImageConfig).rootfs.diff_ids))
            directories = await self._snapshots.image_lower(chain[-1] if chain else None)
        except (NotFound, DataLoss):
            return None
        whole = all([await self._content.info(layer.digest) for layer in remote.manifest.layers])
        return target if whole and all(map(os.path.isdir, directories)) else None

    async def _config(self, repository: Repository, descriptor: Descriptor) -> bytes:
        """From here if it was pulled before, and else from the registry; verified either way."""
        if descriptor.size > MAX_CONFIG:
            raise ConfigPullFailed(cause=f"{descriptor.size} bytes are too many")
        digest = descriptor.checked_digest
        data = await stored(self._content, digest)
        if data is None:
            try:
                data = await repository.small_blob(digest)
            except RegistryRefused as error:
                raise ConfigPullFailed(cause=error.message) from error
            if Digest.of(data, digest.algorithm) != digest:
                raise ConfigPullFailed(cause=f"image config verification failed for digest {digest}")
        return data

    async def _unpack(self, lease: Lease, arrivals: Arrivals, manifest: Manifest, config: ImageConfig,
                      report: Report, quiet: bool) -> None:
        """Unpack what is missing, all at once, while it comes in, and commit in one step."""
        diff_ids = check_layers(manifest, config)
        bars = {layer.digest: Bar(report, short(layer.digest)) for layer in manifest.layers}

        async def exists(layer: Descriptor) -> None:
            if not quiet:
                bars[layer.digest].step("Already exists")

        def bring(layer: Descriptor, slot: LayerSlot) -> Coroutine[Any, Any, UnpackResult]:
            arrival = arrivals.of(layer)
            if arrival is None:
                bars[layer.digest].step("Pulling fs layer")
                bars[layer.digest].step("Download complete")
                return self._stored_layer(layer, slot, bars[layer.digest])
            arrival.bar.begin("Pulling fs layer")
            return self._layer(layer, arrival, slot)

        fresh = await unpack_all(self._snapshots, lease, manifest.layers, diff_ids, bring, exists)
        await arrivals.complete()
        for layer in fresh:
            bars[layer.digest].step("Pull complete")

    async def _stored_layer(self, layer: Descriptor, slot: LayerSlot, bar: Bar) -> UnpackResult:
        with self._content.open(layer.digest) as file:
            return await unpack(self._workers, self._unpacks, file.fileno(), layer, slot, bar)

    async def _layer(self, layer: Descriptor, arrival: Arrival, slot: LayerSlot) -> UnpackResult:
        """Unpack behind the download: what goes wrong with that is the error, not what follows for the unpacking."""
        await arrival.begun()
        if arrival.growth is None:
            return await self._stored_layer(layer, slot, arrival.bar)
        unpacking = asyncio.create_task(
            unpack(self._workers, self._unpacks, arrival.source, layer, slot, arrival.bar, arrival.growth))
        try:
            await asyncio.shield(arrival.task)
            return await unpacking
        finally:
            await stop([unpacking])


async def _ended(task: asyncio.Task[Any]) -> None:
    await asyncio.wait([task])
    task.exception()  # whoever wanted its result has it


def _with_platform(descriptor: Descriptor, config: ImageConfig) -> Descriptor:
    platform = Platform(os=config.os, architecture=config.architecture, variant=config.variant)
    return Descriptor(media_type=descriptor.media_type, digest=descriptor.digest, size=descriptor.size,
                      platform=platform)


def _names_of(ref: Reference, top: Digest) -> list[str]:
    digested = str(replace(ref, tag="", digest=ref.digest or top))
    return [digested] if not ref.tag or ref.digest else [str(ref), digested]
