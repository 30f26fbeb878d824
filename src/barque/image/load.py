"""``docker load``: archives of docker (all since 1.0's ``manifest.json``), OCI layouts, and archives that are both."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass

import msgspec

from barque.errors import DataLoss, InvalidArgument
from barque.image.archive import BadArchive, Member, Members, receive
from barque.image.layer_set import check_layers, unpack_all
from barque.image.layers import UnpackSlots, unpack
from barque.image.names import ImageNames, with_id
from barque.image.pipes import fed
from barque.image.progress import Bar, Progress, Report, short
from barque.image.save import FULL_NAME, REF_NAME, blob_path
from barque.oci import go_json
from barque.oci import media_types as mt
from barque.oci.descriptor import Descriptor
from barque.oci.digest import Digest
from barque.oci.image import ImageConfig
from barque.oci.manifest import Index, Manifest, media_type_of, parse
from barque.oci.platform import Platform, host
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
class Found:
    """One image of an archive, before anything of it is stored. ``names`` may be empty."""

    manifest: Manifest
    body: bytes
    media_type: str
    config: Member
    layers: list[Member]
    names: list[Reference]
    index: bytes = b""
    index_type: str = ""


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

    async def load(self, pieces: AsyncIterator[bytes], platform: Platform | None, report: Report) -> list[Loaded]:
        """Load all images of an archive for ``platform``, else for this machine, or what there is if there is but one.

        Raises BarqueError; images that come before the one that fails stay.
        """
        members = Members()
        try:
            await self._receive(pieces, members)
            found = list(await asyncio.to_thread(self._interpret, members, platform))
            async with self._leases.hold("load") as lease:
                return [await self._store(lease, image, report) for image in found]
        finally:
            await asyncio.to_thread(members.drop)

    async def _receive(self, pieces: AsyncIterator[bytes], members: Members) -> None:
        known = {info.digest: info.size for info in await self._content.walk()}
        await fed(pieces, lambda source: receive(source, self._content.scratch, known.get, members))

    def _interpret(self, members: Members, platform: Platform | None) -> Iterable[Found]:
        if "index.json" in members:
            index = go_json.decode(self._read(members.get("index.json")), Index)
            tags = self._docker_names(members)
            return [self._from_oci(members, entry, tags, platform) for entry in _distinct(index.manifests)]
        if "manifest.json" in members:
            documents = go_json.decode(self._read(members.get("manifest.json")), list[_DockerImage])
            return [self._from_docker(members, document) for document in documents]
        raise NoManifest

    def _read(self, member: Member) -> bytes:
        if member.size > _MAX_DOCUMENT:
            raise BadArchive(reason=f"a document of {member.size} bytes")
        if not member.path:
            with self._content.open(member.digest) as file:
                return file.read(_MAX_DOCUMENT)
        with open(member.path, "rb") as file:
            return file.read(_MAX_DOCUMENT)

    def _docker_names(self, members: Members) -> dict[str, list[Reference]]:
        """The names that ``manifest.json`` gives, by the digest of the config."""
        if "manifest.json" not in members:
            return {}
        documents = go_json.decode(self._read(members.get("manifest.json")), list[_DockerImage])
        return {members.get(document.config).digest: _references(document.repo_tags) for document in documents
                if document.config in members}

    def _from_oci(self, members: Members, entries: list[Descriptor], tags: dict[str, list[Reference]],
                  platform: Platform | None) -> Found:
        entry = entries[0]
        index, index_type = b"", ""
        for _ in range(_MAX_NESTING):
            body = self._read(members.get(blob_path(entry.digest)))
            document = parse(body, entry.media_type)
            if isinstance(document, Manifest):
                config = members.get(blob_path(document.config.digest))
                names = [ref for each in entries for ref in _annotated(each)]
                names += [ref for ref in tags.get(config.digest, []) if ref not in names]
                return Found(document, body, media_type_of(document, entry.media_type), config,
                             [members.get(blob_path(layer.digest)) for layer in document.layers], names,
                             index, index_type)
            if not index:
                index, index_type = body, media_type_of(document, entry.media_type)
            entry = _present(document, members, platform)
        raise BadArchive(reason="indexes within indexes")

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
        return Found(manifest, msgspec.json.encode(manifest), mt.OCI_MANIFEST, config, layers,
                     _references(document.repo_tags))

    async def _store(self, lease: Lease, image: Found, report: Report) -> Loaded:
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
        manifest = await self._content.put(lease, image.media_type, image.body)
        index = (await self._content.put(lease, image.index_type, image.index)).digest if image.index else ""
        target = with_id(Descriptor(
            media_type=image.media_type, digest=manifest.digest, size=manifest.size,
            platform=Platform(os=config.os, architecture=config.architecture, variant=config.variant)),
            image.config.digest, index)
        await self._name(target, image, report)
        return Loaded(image.config.digest, tuple(image.names))

    async def _adopt(self, lease: Lease, member: Member, media_type: str) -> None:
        """Let the content store have the member's bytes. A member may belong to several images."""
        descriptor = Descriptor(media_type=media_type, digest=member.digest, size=member.size)
        if member.path:
            path, member.path = member.path, ""
            await self._content.adopt(lease, descriptor, path)
            return
        async with await self._content.ingest(lease, descriptor) as ingest:
            if not ingest.exists:
                raise DataLoss(f"blob {member.digest} was removed while the archive was being loaded: try again")
            await ingest.commit()

    async def _layer(self, lease: Lease, member: Member, layer: Descriptor, slot: LayerSlot,
                     bar: Bar) -> UnpackResult:
        source = os.open(member.path or self._content.path(member.digest), os.O_RDONLY | os.O_CLOEXEC)
        try:
            unpacking = asyncio.ensure_future(unpack(self._workers, self._slots, source, layer, slot, bar))
            try:
                await self._adopt(lease, member, layer.media_type)  # its sync runs beside the unpacking
            except BaseException:
                unpacking.cancel()
                await asyncio.gather(unpacking, return_exceptions=True)
                raise
            return await unpacking
        finally:
            os.close(source)

    async def _name(self, target: Descriptor, image: Found, report: Report) -> None:
        image_id = image.config.digest
        rows = await self._names.list()
        for ref in image.names:
            for row in rows:
                if row.name == str(ref) and row.id != image_id:
                    report(Progress(stream=f"The image {ref.familiar} already exists, renaming the old one with ID "
                                           f"{row.id} to empty string\n"))
            await self._names.put(str(ref), target)
            report(Progress(stream=f"Loaded image: {ref.familiar}\n"))
        if not image.names:
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


def _present(index: Index, members: Members, platform: Platform | None) -> Descriptor:
    """The entry to load: the one for the platform, or the only one whose files are there."""
    entries = [entry for entry in index.manifests if entry.media_type in mt.MANIFESTS | mt.INDEXES
               and Digest.parse(entry.digest) and blob_path(entry.digest) in members]
    wanted = platform or host()
    for entry in entries:
        if entry.platform is not None and entry.platform.satisfies(wanted):
            return entry
    images = [entry for entry in entries if entry.platform is None or entry.platform.os != "unknown"]
    if platform is None and len(images) == 1:
        return images[0]
    raise NoPlatform(platform=wanted)
