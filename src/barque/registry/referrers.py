"""The entry of a manifest in the list of its subject's referrers."""

from __future__ import annotations

from barque.oci.descriptor import Descriptor
from barque.oci.digest import Digest
from barque.oci.manifest import Index, Manifest


def as_referrer(document: Manifest | Index, media_type: str, digest: Digest, size: int) -> Descriptor:
    """spec.md#listing-referrers; the config's type stands in for an artifact type."""
    artifact_type = document.artifact_type
    if not artifact_type and isinstance(document, Manifest):
        artifact_type = document.config.media_type
    return Descriptor(media_type=media_type, digest=str(digest), size=size, artifact_type=artifact_type,
                      annotations=dict(document.annotations))
