"""Attestations of an image: in-toto statements in a manifest of their own, which an index ties to the image.

The form is BuildKit's (its documentation, "Image attestation storage"): an entry of the index for the platform
``unknown/unknown`` with two annotations. The manifest also names the image as its subject, so that a registry lists it
as a referrer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from barque.oci import go_json, media_types
from barque.oci.descriptor import Descriptor
from barque.oci.platform import Platform
from barque.store.content import ContentStore
from barque.store.leases import Lease

STATEMENT = "https://in-toto.io/Statement/v1"
IN_TOTO = "application/vnd.in-toto+json"
ARTIFACT = "application/vnd.docker.attestation.manifest.v1+json"
_PREDICATE_TYPE = "in-toto.io/predicate-type"


@dataclass(frozen=True)
class Attestation:
    predicate_type: str
    predicate: dict[str, Any]


async def attach(content: ContentStore, lease: Lease, image: Descriptor, names: Sequence[str],
                 attestations: Sequence[Attestation]) -> tuple[Descriptor, Descriptor]:
    """Store the attestations of the manifest ``image``, whose package URLs are ``names``.

    Returns the index of both, and the manifest of the attestations.
    """
    layers = []
    for attestation in attestations:
        blob = await content.put(lease, IN_TOTO, go_json.encode(_statement(image, names, attestation)))
        layers.append({**_plain(blob), "annotations": {_PREDICATE_TYPE: attestation.predicate_type}})
    config = await content.put(lease, media_types.OCI_CONFIG, go_json.encode({
        "architecture": "unknown", "os": "unknown", "config": {},
        "rootfs": {"type": "layers", "diff_ids": [layer["digest"] for layer in layers]}}))
    manifest = await content.put(lease, media_types.OCI_MANIFEST, go_json.encode({
        "schemaVersion": 2, "mediaType": media_types.OCI_MANIFEST, "artifactType": ARTIFACT, "config": _plain(config),
        "layers": layers, "subject": _plain(image)}))
    platform = image.platform or Platform(os="linux")
    index = await content.put(lease, media_types.OCI_INDEX, go_json.encode({
        "schemaVersion": 2, "mediaType": media_types.OCI_INDEX, "manifests": [
            {**_plain(image), "platform": platform},
            {**_plain(manifest), "platform": Platform(os="unknown", architecture="unknown"), "annotations": {
                "vnd.docker.reference.digest": image.digest,
                "vnd.docker.reference.type": "attestation-manifest"}}]}))
    return index, manifest


def _statement(image: Descriptor, names: Sequence[str], attestation: Attestation) -> dict[str, Any]:
    algorithm, _, value = image.digest.partition(":")
    return {"_type": STATEMENT, "predicateType": attestation.predicate_type,
            "subject": [{"name": name, "digest": {algorithm: value}} for name in names or ("_",)],
            "predicate": attestation.predicate}


def _plain(descriptor: Descriptor) -> dict[str, Any]:
    return {"mediaType": descriptor.media_type, "digest": descriptor.digest, "size": descriptor.size}
