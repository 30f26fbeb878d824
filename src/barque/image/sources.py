"""Where else a registry has a blob, noted as a label of the blob: a push to a neighbour can mount it from there."""

from __future__ import annotations

from barque.oci.reference import Reference
from barque.store.content import BlobInfo, BlobNotFound, ContentStore

#: ``host/path`` separated by spaces, newest first.
_LABEL = "org.barque.sources"
_MAX_SOURCES = 8
#: A mount that fails costs a round trip.
_MAX_ATTEMPTS = 3


async def remember(content: ContentStore, digest: str, ref: Reference) -> None:
    """Note that the repository of ``ref`` has the blob; nothing happens if it is not stored."""
    info = await content.info(digest)
    if info is None:
        return
    known = info.labels.get(_LABEL, "")
    value = " ".join([ref.name, *(source for source in known.split() if source != ref.name)][:_MAX_SOURCES])
    if known != value:
        try:
            await content.label(digest, _LABEL, value)
        except BlobNotFound:
            return  # collected in between


def neighbours(info: BlobInfo, ref: Reference) -> tuple[str, ...]:
    """Paths of other repositories at the registry of ``ref`` that have the blob."""
    known = [source.partition("/") for source in info.labels.get(_LABEL, "").split()]
    return tuple(path for domain, _, path in known if domain == ref.domain and path != ref.path)[:_MAX_ATTEMPTS]
