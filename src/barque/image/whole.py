"""Everything that belongs to an image, as far as it is stored."""

from __future__ import annotations

from barque.oci.descriptor import Descriptor
from barque.oci.manifest import MAX_MANIFEST_SIZE, Index, parse
from barque.store.content import ContentStore


async def whole(content: ContentStore, top: Descriptor) -> list[Descriptor] | None:
    """The manifest or index ``top`` and all below it, each with its size; None where something is not stored."""
    found: dict[str, Descriptor] = {}
    pending = [top]
    while pending:
        manifest = pending.pop()
        if await content.info(manifest.digest) is None:
            return None
        document = parse(await content.read(manifest.digest, MAX_MANIFEST_SIZE), manifest.media_type)
        blobs = [] if isinstance(document, Index) else [document.config, *document.layers]
        pending += document.manifests if isinstance(document, Index) else ()
        for blob in (manifest, *blobs):
            if await content.info(blob.digest) is None:
                return None
            found[blob.digest] = blob
    return list(found.values())
