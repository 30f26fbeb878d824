"""Images as one tar archive that every tool can load: an OCI layout (image-spec, image-layout.md) with docker's
``manifest.json`` beside it, which names the very same files.

The blobs are the stored ones, byte for byte, so that digests survive the way through an archive.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass, field

import msgspec

from barque.errors import DataLoss
from barque.image.names import ImageNames, NamedImage
from barque.image.resolve import Images, NoSuchPlatform, ResolvedImage
from barque.oci import media_types as mt
from barque.oci.descriptor import Descriptor
from barque.oci.digest import Digest
from barque.oci.platform import Platform
from barque.oci.reference import InvalidReference, Reference, parse
from barque.store.content import ContentStore
from barque.store.tar.reader import BLOCK, REGULAR, Entry
from barque.store.tar.writer import Writer

#: Annotations of an index entry: the full name (containerd), and the tag (OCI).
FULL_NAME, REF_NAME = "io.containerd.image.name", "org.opencontainers.image.ref.name"
_BLOCK = 1 << 20


class MissingLayer(DataLoss):
    text = "cannot save {image}: its blob {digest} is not stored any more; pull or load the image again"


@dataclass
class Archive:
    """What an archive will have: documents with their bytes, and blobs by digest and size."""

    documents: dict[str, bytes] = field(default_factory=dict)
    blobs: dict[str, int] = field(default_factory=dict)
    image_ids: list[str] = field(default_factory=list)

    @property
    def length(self) -> int:
        """Bytes of the whole archive."""
        return sum(BLOCK + size + -size % BLOCK for _, _, size in self.files()) + 2 * BLOCK

    def files(self) -> list[tuple[str, bytes | str, int]]:
        """``(path, bytes or digest, size)``, sorted, so that the same images make the same archive."""
        found: list[tuple[str, bytes | str, int]] = [(path, data, len(data)) for path, data in self.documents.items()]
        found += [(blob_path(digest), digest, size) for digest, size in self.blobs.items()]
        return sorted(found, key=lambda file: file[0])


def blob_path(digest: str) -> str:
    checked = Digest.parse(digest)
    return f"blobs/{checked.algorithm}/{checked.hex}"


@dataclass
class _Chosen:
    image: ResolvedImage
    names: list[Reference] = field(default_factory=list)


class Saver:
    def __init__(self, content: ContentStore, images: Images, names: ImageNames) -> None:
        self._content = content
        self._images = images
        self._names = names

    async def plan(self, texts: Sequence[str], platforms: Sequence[Platform] = ()) -> Archive:
        """What ``docker save texts`` writes: of each image the platforms given, or all that are here.

        A name without a tag means all tags of the repository. Raises NoSuchImage, NoSuchPlatform,
        :class:`MissingLayer`.
        """
        archive = Archive()
        entries: list[Descriptor] = []
        docker: list[dict[str, object]] = []
        for chosen in await self._choose(texts):
            image = chosen.image
            tops = [await self._whole(each, archive) for each in await self._variants(chosen, platforms)]
            archive.image_ids.append(image.id)
            for top in {top.digest: top for top in tops}.values():
                entries += [_entry(top, ref) for ref in chosen.names] or [_entry(top, None)]
            if not image.artifact and image.manifest.config.digest in archive.blobs:
                docker.append({"Config": blob_path(image.manifest.config.digest),
                               "RepoTags": [ref.familiar for ref in chosen.names] or None,
                               "Layers": [blob_path(layer.digest) for layer in image.manifest.layers]})
        archive.documents["oci-layout"] = b'{"imageLayoutVersion":"1.0.0"}'
        archive.documents["index.json"] = msgspec.json.encode(
            {"schemaVersion": 2, "mediaType": mt.OCI_INDEX, "manifests": entries})
        archive.documents["manifest.json"] = msgspec.json.encode(docker)
        return archive

    async def _variants(self, chosen: _Chosen, platforms: Sequence[Platform]) -> list[ResolvedImage]:
        """The image for each platform asked for; all that share its names where none is."""
        found = await self._images.variants(chosen.names[0].familiar if chosen.names else chosen.image.id)
        if not platforms:
            return found
        picked = []
        for platform in platforms:
            fitting = [image for image in found if image.platform.satisfies(platform)]
            if not fitting:
                raise NoSuchPlatform(ref=chosen.names[0].familiar if chosen.names else chosen.image.id, wanted=platform,
                                     found=", ".join(str(image.platform) for image in found))
            picked.append(fitting[0])
        return picked

    async def _choose(self, texts: Sequence[str]) -> list[_Chosen]:
        chosen: dict[str, _Chosen] = {}
        rows = await self._names.list()
        for text in texts:
            for found, ref in await self._named(text, rows):
                entry = chosen.setdefault(found.id, _Chosen(found))
                if ref is not None and ref not in entry.names:
                    entry.names.append(ref)
        return list(chosen.values())

    async def _named(self, text: str, rows: Iterable[NamedImage]) -> list[tuple[ResolvedImage, Reference | None]]:
        try:
            ref = parse(text)
        except InvalidReference:
            return [(await self._images.resolve(text, artifacts=True), None)]  # an id
        if not ref.tag and not ref.digest:
            tags = [row.reference for row in rows if row.reference and row.reference.tag
                    and row.reference.name == ref.name]
            if tags:
                return [(await self._images.resolve(tag.familiar, artifacts=True), tag) for tag in dict.fromkeys(tags)]
        image = await self._images.resolve(text, artifacts=True)
        return [(image, ref if ref.tag and ref.familiar in image.repo_tags else None)]

    async def _whole(self, image: ResolvedImage, archive: Archive) -> Descriptor:
        """Add all that belongs to the image; returns what names it: its index, if that is kept, or its manifest."""
        for blob in (image.target, image.manifest.config, *image.manifest.layers):
            await self._add(archive, blob.digest, image)
        for digest in await self._images.manifests.beside(image.target):
            await self._add(archive, digest, image)
        return await self._images.manifests.top(image.target)

    async def _add(self, archive: Archive, digest: str, image: ResolvedImage) -> None:
        info = await self._content.info(digest)
        if info is None:
            raise MissingLayer(image=image.short_id, digest=digest)
        archive.blobs[digest] = info.size

    async def stream(self, archive: Archive) -> AsyncIterator[bytes]:
        """The archive, piece by piece. Raises BlobNotFound, OSError."""
        for path, content, size in archive.files():
            yield _header(Entry(path.encode(), REGULAR, mode=0o444, size=size))
            if isinstance(content, bytes):
                yield content
            else:
                async for block in self._blob(content, size):
                    yield block
            yield bytes(-size % BLOCK)
        yield bytes(2 * BLOCK)

    async def _blob(self, digest: str, size: int) -> AsyncIterator[bytes]:
        with self._content.open(digest) as file:
            while size and (block := await asyncio.to_thread(os.read, file.fileno(), min(_BLOCK, size))):
                size -= len(block)
                yield block
        if size:
            raise DataLoss(f"blob {digest} is {size} bytes shorter than it was")


def _entry(target: Descriptor, ref: Reference | None) -> Descriptor:
    annotations = {FULL_NAME: str(ref), REF_NAME: ref.tag} if ref is not None else {}
    return Descriptor(media_type=target.media_type, digest=target.digest, size=target.size, platform=target.platform,
                      annotations=annotations)


def _header(entry: Entry) -> bytes:
    pieces: list[bytes] = []
    Writer(pieces.append).add(Entry(entry.name, entry.type, mode=entry.mode, size=entry.size))
    return pieces[0]
