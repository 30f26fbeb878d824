"""What a registry has under a name: the way from its indexes down to the manifest of one platform."""

from __future__ import annotations

from dataclasses import dataclass

from barque.errors import DataLoss, NotFound
from barque.image.client.errors import ManifestVerificationFailed
from barque.image.client.repository import MAX_CONFIG, Repository
from barque.image.manifests import about, is_attestation
from barque.oci import media_types as mt
from barque.oci.descriptor import Descriptor
from barque.oci.digest import Digest
from barque.oci.manifest import Index, Manifest, media_type_of, parse
from barque.oci.platform import Platform
from barque.store.content import ContentStore

#: Indexes within indexes are followed so deep.
_MAX_NESTING = 3


class NoMatchingManifest(NotFound):
    text = "no matching manifest for {platform} in the manifest list entries"


@dataclass(frozen=True)
class Remote:
    """The manifest of one platform as it was received.

    ``indexes``: media type and bytes of those that it was chosen from, outermost first. ``attestations``: the entries
    beside it that are about it.
    """

    manifest: Manifest
    body: bytes
    descriptor: Descriptor
    indexes: tuple[tuple[str, bytes], ...] = ()
    attestations: tuple[Descriptor, ...] = ()


async def choose(repository: Repository, content: ContentStore, received: tuple[bytes, str, Digest],
                 wanted: Platform) -> Remote:
    """Follow indexes from what was ``received`` (bytes, media type, digest) down to the manifest for the platform.

    Raises :class:`NoMatchingManifest`, ManifestVerificationFailed, and what fetching raises.
    """
    body, content_type, digest = received
    indexes: list[tuple[str, bytes]] = []
    attestations: tuple[Descriptor, ...] = ()
    while True:
        document = parse(body, content_type)
        media_type = media_type_of(document, content_type)
        if isinstance(document, Manifest):
            descriptor = Descriptor(media_type=media_type, digest=str(digest), size=len(body))
            return Remote(document, body, descriptor, tuple(indexes), attestations)
        indexes.append((media_type, body))
        if len(indexes) >= _MAX_NESTING:
            raise NoMatchingManifest(platform=wanted)
        entry = _matching(document, wanted)
        attestations = tuple(other for other in document.manifests
                             if is_attestation(other) and about(other) == entry.digest)
        body, content_type, digest = await manifest(repository, content, entry), entry.media_type, entry.checked_digest


async def manifest(repository: Repository, content: ContentStore, entry: Descriptor) -> bytes:
    """The bytes of an index's entry: from here if it was pulled before, and else from the registry."""
    body = await stored(content, entry.checked_digest)
    if body is None:
        body = (await repository.manifest(entry.checked_digest))[0]
    if len(body) != entry.size:
        raise ManifestVerificationFailed(digest=entry.digest)
    return body


async def stored(content: ContentStore, digest: Digest) -> bytes | None:
    """A document that is here, verified; None for one that is lost, or corrupt and therefore dropped."""
    if await content.info(digest) is None:
        return None
    try:
        return await content.read(digest, MAX_CONFIG)
    except (NotFound, DataLoss):
        return None


def _matching(index: Index, wanted: Platform) -> Descriptor:
    """The entry for ``wanted``: an equal variant first, then the first that fits, then one without a platform."""
    entries = [entry for entry in index.manifests
               if entry.media_type in mt.MANIFESTS | mt.INDEXES and not is_attestation(entry)]
    for fits in (lambda entry: entry.platform is not None and entry.platform.satisfies(wanted),
                 lambda entry: entry.platform is None):
        for entry in entries:
            if fits(entry):
                return entry
    raise NoMatchingManifest(platform=wanted)
