"""``docker load``: archives of docker (all since 1.0's ``manifest.json``), OCI layouts, and archives that are both."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass

import msgspec

from barque.errors import DataLoss, InvalidArgument
from barque.image.archive import BadArchive, Member, Members, Receiver, read_document
from barque.image.early import Early
from barque.image.layer_set import check_layers, unpack_all
from barque.image.layers import UnpackSlots, unpack
from barque.image.manifests import about, is_attestation
from barque.image.names import ImageNames, index_of, with_id
from barque.image.pipes import fed
from barque.image.progress import Bar, Progress, Report, short
from barque.image.save import FULL_NAME, REF_NAME, blob_path
from barque.oci import go_json
from barque.oci import media_types as mt
from barque.oci.descriptor import Descriptor
from barque.oci.digest import Digest
from barque.oci.image import ImageConfig
from barque.oci.manifest import Index, Manifest, media_type_of, parse
from barque.oci.platform import Platform
from barque.oci.reference import InvalidReference, Reference
from barque.oci.reference import parse as parse_reference
from barque.store.content import ContentStore
from barque.store.leases import Lease, Leases
from barque.store.snapshots import LayerSlot, Snapshots
from barque.store.tar.messages import UnpackResult
from barque.store.workers import Workers

_MAX_DOCUMENT = 8 << 20
_MAX_NESTING = 3
_LAYER_TYPES = {"none": mt.OCI_LAYER, "gzip": mt.OCI_LAYER_GZIP, "zstd": mt.OCI_LAYER_ZSTD}


_Indexes = tuple[tuple[str, bytes], ...]


class NoManifest(InvalidArgument):
    text = "invalid archive: does not contain a manifest.json"


class NoPlatform(InvalidArgument):
    text = "invalid archive: it has no image for {platform}"


class UnsupportedLayer(InvalidArgument):
    text = "invalid archive: layer {name} is compressed with {compression}"


class _DockerImage(msgspec.Struct, rename="pascal"):
    config: str = ""
    repo_tags: list[str] = []
    layers: list[str] = []


@dataclass
class Document:
    """A manifest with the members that it refers to."""

    manifest: Manifest
    body: bytes
    media_type: str
    config: Member
    layers: list[Member]


@dataclass
class Found:
    """One image of an archive for one platform, before anything of it is stored. ``names`` may be empty.

    ``indexes``: media type and bytes of those that it is in, outermost first; ``attestations`` are about it.
    """

    image: Document
    names: list[Reference]
    indexes: tuple[tuple[str, bytes], ...] = ()
    attestations: tuple[Document, ...] = ()


@dataclass(frozen=True)
class Loaded:
    image_id: str
    names: tuple[Reference, ...]


class Loader:
    def __init__(self, content: ContentStore, snapshots: Snapshots, leases: Leases, names: ImageNames,
                 workers: Workers, slots: UnpackSlots) -> None:
        self._content = content
        self._snapshots = snapshots
        self._leases = leases
        self._names = names
        self._workers = workers
        self._slots = slots

    async def load(self, pieces: AsyncIterator[bytes], platforms: Sequence[Platform], report: Report) -> list[Loaded]:
        """Load all images of an archive, for the platforms given or else for all that it has.

        Raises BarqueError; images that come before the one that fails stay.
        """
        members = Members()
        early = Early(self._snapshots, self._workers, self._slots)
        try:
            # With platforms given most of the archive may be for others.
            await self._receive(pieces, members, None if platforms else early)
            found = list(await asyncio.to_thread(self._interpret, members, platforms))
            async with self._leases.hold("load") as lease:
                told: set[Reference] = set()
                return [await self._store(lease, image, told, report) for image in found]
        finally:
            await early.close()
            await asyncio.to_thread(members.drop)

    async def _receive(self, pieces: AsyncIterator[bytes], members: Members, early: Early | None) -> None:
        known = {info.digest: info.size for info in await self._content.walk()}
        await fed(pieces, Receiver(self._content, known, members, early).run)

    def _interpret(self, members: Members, platforms: Sequence[Platform]) -> Iterable[Found]:
        if "index.json" in members:
            index = go_json.decode(self._read(members.get("index.json")), Index)
            tags = self._docker_names(members)
            return [found for entry in _distinct(index.manifests)
                    for found in self._from_oci(members, entry, tags, platforms)]
        if "manifest.json" in members:
            documents = go_json.decode(self._read(members.get("manifest.json")), list[_DockerImage])
            return [self._from_docker(members, document) for document in documents]
        raise NoManifest

    def _read(self, member: Member) -> bytes:
        return read_document(member, self._content, _MAX_DOCUMENT)

    def _docker_names(self, members: Members) -> dict[str, list[Reference]]:
        """The names that ``manifest.json`` gives, by the digest of the config."""
        if "manifest.json" not in members:
            return {}
        documents = go_json.decode(self._read(members.get("manifest.json")), list[_DockerImage])
        return {members.get(document.config).digest: _references(document.repo_tags) for document in documents
                if document.config in members}

    def _from_oci(self, members: Members, entries: list[Descriptor], tags: dict[str, list[Reference]],
                  platforms: Sequence[Platform]) -> list[Found]:
        """What one entry of ``index.json`` stands for: an image for each platform."""
        named = [ref for each in entries for ref in _annotated(each)]
        found = [Found(image, named, indexes, attestations)
                 for image, indexes, attestations in self._images(members, entries[0], (), platforms)]
        # manifest.json knows names that OCI annotations cannot hold; they are those of all platforms.
        more = [ref for each in found for ref in tags.get(each.image.config.digest, [])]
        for each in found:
            each.names = list(dict.fromkeys([*named, *more]))
        return found

    def _images(self, members: Members, entry: Descriptor, indexes: _Indexes,
                platforms: Sequence[Platform]) -> list[tuple[Document, _Indexes, tuple[Document, ...]]]:
        """The images below an entry, with the indexes above each and the attestations beside it."""
        body = self._read(members.get(blob_path(entry.digest)))
        document = parse(body, entry.media_type)
        media_type = media_type_of(document, entry.media_type)
        if isinstance(document, Manifest):
            return [(self._document(members, document, body, media_type), indexes, ())]
        if len(indexes) >= _MAX_NESTING:
            raise BadArchive(reason="indexes within indexes")
        there = [each for each in document.manifests if each.media_type in mt.MANIFESTS | mt.INDEXES
                 and Digest.parse(each.digest) and blob_path(each.digest) in members]
        found = []
        for child in _wanted(there, platforms):
            beside = tuple(self._attestation(members, each) for each in there
                           if is_attestation(each) and about(each) == child.digest)
            found += [(image, above, attestations or beside) for image, above, attestations
                      in self._images(members, child, (*indexes, (media_type, body)), ())]
        return found

    def _attestation(self, members: Members, entry: Descriptor) -> Document:
        body = self._read(members.get(blob_path(entry.digest)))
        document = parse(body, entry.media_type)
        if not isinstance(document, Manifest):
            raise BadArchive(reason=f"the attestation {entry.digest} is an index")
        return self._document(members, document, body, media_type_of(document, entry.media_type))

    @staticmethod
    def _document(members: Members, manifest: Manifest, body: bytes, media_type: str) -> Document:
        return Document(manifest, body, media_type, members.get(blob_path(manifest.config.digest)),
                        [members.get(blob_path(layer.digest)) for layer in manifest.layers])

    def _from_docker(self, members: Members, document: _DockerImage) -> Found:
        config = members.get(os.path.normpath(document.config))
        layers = [members.get(os.path.normpath(name)) for name in document.layers]
        for name, layer in zip(document.layers, layers, strict=True):
            if layer.compression not in _LAYER_TYPES:
                raise UnsupportedLayer(name=name, compression=layer.compression)
        manifest = Manifest(
            schema_version=2, media_type=mt.OCI_MANIFEST,
            config=Descriptor(media_type=mt.OCI_CONFIG, digest=config.digest, size=config.size),
            layers=tuple(Descriptor(media_type=_LAYER_TYPES[layer.compression], digest=layer.digest, size=layer.size)
                         for layer in layers))
        return Found(Document(manifest, msgspec.json.encode(manifest), mt.OCI_MANIFEST, config, layers),
                     _references(document.repo_tags))

    async def _store(self, lease: Lease, found: Found, told: set[Reference], report: Report) -> Loaded:
        image = found.image
        if image.manifest.config.media_type in mt.CONFIGS:
            config = await self._unpack(lease, image, report)
            image_id, platform = image.config.digest, Platform(os=config.os, architecture=config.architecture,
                                                               variant=config.variant)
            manifest = await self._content.put(lease, image.media_type, image.body)
        else:
            manifest, platform = await self._keep(lease, image), None
            image_id = manifest.digest
        kept = [(await self._content.put(lease, media_type, body)).digest for media_type, body in found.indexes]
        kept += [(await self._keep(lease, attestation)).digest for attestation in found.attestations]
        target = with_id(Descriptor(media_type=image.media_type, digest=manifest.digest, size=manifest.size,
                                    platform=platform), image_id, *kept)
        await self._name(target, image_id, found.names, told, report)
        return Loaded(image_id, tuple(found.names))

    async def _unpack(self, lease: Lease, image: Document, report: Report) -> ImageConfig:
        config = go_json.decode(self._read(image.config), ImageConfig)
        diff_ids = check_layers(image.manifest, config)
        members = {layer.digest: layer for layer in image.layers}
        bars = {layer.digest: Bar(report, short(diff_id))
                for layer, diff_id in zip(image.layers, diff_ids, strict=True)}

        async def exists(layer: Descriptor) -> None:
            await self._adopt(lease, members[layer.digest], layer.media_type)

        async def bring(layer: Descriptor, slot: LayerSlot) -> UnpackResult:
            return await self._layer(lease, members[layer.digest], layer, slot, bars[layer.digest])

        await self._adopt(lease, image.config, image.manifest.config.media_type)
        await unpack_all(self._snapshots, lease, image.manifest.layers, diff_ids, bring, exists)
        return config

    async def _keep(self, lease: Lease, document: Document) -> Descriptor:
        """Store a manifest with its blobs, and unpack nothing."""
        manifest = document.manifest
        for descriptor, member in zip((manifest.config, *manifest.layers), (document.config, *document.layers),
                                      strict=True):
            await self._adopt(lease, member, descriptor.media_type)
        return await self._content.put(lease, document.media_type, document.body)

    async def _adopt(self, lease: Lease, member: Member, media_type: str) -> None:
        """Let the content store have the member's bytes. A member may belong to several images."""
        descriptor = Descriptor(media_type=media_type, digest=member.digest, size=member.size)
        async with member.moving:
            if member.path:
                await self._content.adopt(lease, descriptor, member.path)
                member.path = ""
                return
        async with await self._content.ingest(lease, descriptor) as ingest:
            if not ingest.exists:
                raise DataLoss(f"blob {member.digest} was removed while the archive was being loaded: try again")
            await ingest.commit()

    async def _layer(self, lease: Lease, member: Member, layer: Descriptor, slot: LayerSlot,
                     bar: Bar) -> UnpackResult:
        async with member.moving:
            source = os.open(member.path or self._content.path(member.digest), os.O_RDONLY | os.O_CLOEXEC)
        try:
            unpacking = asyncio.ensure_future(self._fill(member, source, layer, slot, bar))
            try:
                await self._adopt(lease, member, layer.media_type)  # its sync runs beside the unpacking
            except BaseException:
                unpacking.cancel()
                await asyncio.gather(unpacking, return_exceptions=True)
                raise
            return await unpacking
        finally:
            os.close(source)

    async def _fill(self, member: Member, source: int, layer: Descriptor, slot: LayerSlot, bar: Bar) -> UnpackResult:
        """Unpack the member into the slot, unless that has been done."""
        guess, member.guess = member.guess, None
        if guess is not None:
            bar.step("Extracting")
            if (result := await guess.fill(slot)) is not None:
                return result
        return await unpack(self._workers, self._slots, source, layer, slot, bar)

    async def _name(self, target: Descriptor, image_id: str, names: list[Reference], told: set[Reference],
                    report: Report) -> None:
        """``told``: the names that were reported before, for another platform."""
        rows = await self._names.list()
        for ref in names:
            for row in rows:
                other = row.id != image_id and not (index_of(target) and index_of(row.target) == index_of(target))
                if row.name == str(ref) and row.preferred and other:
                    report(Progress(stream=f"The image {ref.familiar} already exists, renaming the old one with ID "
                                           f"{row.id} to empty string\n"))
            await self._names.put(str(ref), target)
            if ref not in told:
                told.add(ref)
                report(Progress(stream=f"Loaded image: {ref.familiar}\n"))
        if not names:
            if not any(row.id == image_id for row in rows):
                await self._names.keep_dangling(target)
            report(Progress(stream=f"Loaded image ID: {image_id}\n"))


def _distinct(entries: Iterable[Descriptor]) -> list[list[Descriptor]]:
    """The entries of an index by what they name: an image with several names has one entry for each."""
    grouped: dict[str, list[Descriptor]] = {}
    for entry in entries:
        if entry.media_type in mt.MANIFESTS | mt.INDEXES:
            grouped.setdefault(entry.digest, []).append(entry)
    return list(grouped.values())


def _annotated(entry: Descriptor) -> list[Reference]:
    """The full name that containerd and docker note, or the OCI's where it is more than a tag."""
    full = entry.annotations.get(FULL_NAME, "")
    if full:
        return _references([full])
    name = entry.annotations.get(REF_NAME, "")
    return _references([name]) if "/" in name or ":" in name else []


def _references(texts: Iterable[str]) -> list[Reference]:
    found = []
    for text in texts:
        try:
            found.append(parse_reference(text).with_default_tag())
        except InvalidReference:
            raise BadArchive(reason=f"{text!r} is no image name") from None
    return found


def _wanted(entries: Sequence[Descriptor], platforms: Sequence[Platform]) -> list[Descriptor]:
    """The entries to load: those for the platforms, or all images. Raises :class:`NoPlatform`."""
    images = [entry for entry in entries if not is_attestation(entry)
              and (entry.platform is None or entry.platform.os != "unknown")]
    found = []
    for platform in platforms:
        fitting = [entry for entry in images if entry.platform is not None and entry.platform.satisfies(platform)]
        if not fitting:
            raise NoPlatform(platform=platform)
        found.append(fitting[0])
    if not images:
        raise NoPlatform(platform="any platform")
    return found or images
