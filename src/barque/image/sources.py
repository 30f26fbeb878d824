"""Where else a registry has a blob, noted as a label of the blob: a push to a neighbour can mount it from there."""

from __future__ import annotations

from collections.abc import Iterable

from barque.oci.reference import Reference
from barque.store.content import BlobInfo, ContentStore

#: ``host/path`` separated by spaces, newest first.
_LABEL = "org.barque.sources"
_MAX_SOURCES = 8
#: A mount that fails costs a round trip.
_MAX_ATTEMPTS = 3


async def remember(content: ContentStore, digests: Iterable[str], ref: Reference) -> None:
    """Note that the repository of ``ref`` has these blobs; those that are not stored are passed over."""
    def add(labels: dict[str, str]) -> dict[str, str]:
        known = labels.get(_LABEL, "").split()
        newest = [ref.name, *(source for source in known if source != ref.name)][:_MAX_SOURCES]
        return {**labels, _LABEL: " ".join(newest)}

    await content.relabel(digests, add)


def neighbours(info: BlobInfo, ref: Reference) -> tuple[str, ...]:
    """Paths of other repositories at the registry of ``ref`` that have the blob."""
    known = [source.partition("/") for source in info.labels.get(_LABEL, "").split()]
    return tuple(path for domain, _, path in known if domain == ref.domain and path != ref.path)[:_MAX_ATTEMPTS]
