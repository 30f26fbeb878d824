"""What was attested about an image: in-toto statements that builders put beside it in its index."""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import Any

from barque.image.resolve import Images
from barque.oci.manifest import MAX_MANIFEST_SIZE, Manifest, parse
from barque.oci.platform import Platform
from barque.store.content import ContentStore

#: BuildKit's annotation of a layer that is a statement: the URI of its predicate's type.
_PREDICATE = "in-toto.io/predicate-type"
#: A software bill of materials can be long. Bytes.
_MAX_STATEMENT = 64 << 20


class Attestations:
    def __init__(self, images: Images, content: ContentStore) -> None:
        self._images = images
        self._content = content

    async def statements(self, text: str, platform: Platform | None, types: Collection[str], *,
                         bodies: bool) -> list[dict[str, Any]]:
        """Of the types given, or all. Raises NoSuchImage, NoSuchPlatform, BlobNotFound."""
        image = await self._images.resolve(text, platform, artifacts=True)
        found = []
        for entry in await self._images.manifests.listed(image.target):
            if entry.about != image.target.digest or not entry.available:
                continue
            manifest = parse(await self._content.read(entry.descriptor.digest, MAX_MANIFEST_SIZE),
                             entry.descriptor.media_type)
            for layer in manifest.layers if isinstance(manifest, Manifest) else ():
                kind = layer.annotations.get(_PREDICATE, "")
                if kind and (not types or kind in types):
                    statement: dict[str, Any] = {"Descriptor": layer, "PredicateType": kind}
                    if bodies:
                        statement["Statement"] = json.loads(await self._content.read(layer.digest, _MAX_STATEMENT))
                    found.append(statement)
        return found
