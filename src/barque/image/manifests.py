"""What an image's index lists, and what of it is stored here."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from barque.errors import DataLoss, NotFound
from barque.image.names import index_of, kept_with
from barque.oci import media_types as mt
from barque.oci.descriptor import Descriptor
from barque.oci.manifest import MAX_MANIFEST_SIZE, Index, Manifest, parse
from barque.store.content import ContentStore
from barque.store.gc import references

#: BuildKit's annotations of an attestation: what it is, and the digest of the manifest that it is about.
_KIND, _ABOUT = "vnd.docker.reference.type", "vnd.docker.reference.digest"


@dataclass(frozen=True)
class ListedManifest:
    """``content``: bytes of its blobs that are stored. ``about`` is the manifest that an attestation is about."""

    descriptor: Descriptor
    kind: str  # "image", "attestation" or "unknown"
    available: bool
    content: int
    about: str = ""


class Manifests:
    def __init__(self, content: ContentStore) -> None:
        self._content = content

    async def top(self, target: Descriptor) -> Descriptor:
        """The index that the image stored as ``target`` was chosen from, if it is kept; else its manifest."""
        info = await self._content.info(index_of(target)) if index_of(target) else None
        if info is not None:
            return Descriptor(media_type=info.media_type, digest=info.digest, size=info.size)
        return Descriptor(media_type=target.media_type, digest=target.digest, size=target.size,
                          platform=target.platform)

    async def beside(self, target: Descriptor) -> list[str]:
        """The digests of what is held with the image: its indexes, its attestations and what those refer to."""
        found = []
        for digest in kept_with(target):
            info = await self._content.info(digest)
            if info is not None:
                found.append(digest)
                if info.media_type in mt.MANIFESTS:
                    found += references(self._content.path(digest), info.media_type).blobs
        return found

    async def listed(self, target: Descriptor) -> list[ListedManifest]:
        """The entries of the index; an image without one has just its own manifest."""
        top = await self.top(target)
        document = await self._document(top)
        entries: Iterable[Descriptor] = document.manifests if isinstance(document, Index) else [top]
        return [await self._look(entry) for entry in entries]

    async def _document(self, descriptor: Descriptor) -> Manifest | Index | None:
        """None where it is not stored (any more)."""
        try:
            return parse(await self._content.read(descriptor.digest, MAX_MANIFEST_SIZE), descriptor.media_type)
        except (NotFound, DataLoss):
            return None

    async def _look(self, entry: Descriptor) -> ListedManifest:
        document = await self._document(entry)
        blobs = [entry, document.config, *document.layers] if isinstance(document, Manifest) else [entry]
        infos = [await self._content.info(blob.digest) for blob in blobs]
        stored = sum(info.size for info in infos if info is not None)
        return ListedManifest(entry, _kind(entry, document), isinstance(document, Manifest) and all(infos), stored,
                              about(entry))


def is_attestation(entry: Descriptor) -> bool:
    return entry.annotations.get(_KIND) == "attestation-manifest"


def about(attestation: Descriptor) -> str:
    """The digest of the manifest that it is about."""
    return attestation.annotations.get(_ABOUT, "")


def _kind(entry: Descriptor, document: Manifest | Index | None) -> str:
    if is_attestation(entry):
        return "attestation"
    if isinstance(document, Manifest) and document.config.media_type not in mt.CONFIGS:
        return "unknown"
    return "image" if entry.media_type in mt.MANIFESTS else "unknown"
