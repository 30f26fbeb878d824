"""Signatures that cosign makes with a key: a payload ("simple signing") and a signature over it as an annotation.

They are layers of a manifest, which is under the tag ``<algorithm>-<hex>.sig`` of the same repository or refers to the
image (https://github.com/sigstore/cosign/blob/main/specs/SIGNATURE_SPEC.md).
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import AsyncIterator, Sequence
from typing import TYPE_CHECKING

import msgspec

from barque.image.client.errors import RegistryRefused
from barque.image.client.repository import Repository
from barque.image.trust.keys import BadSignature, verify_plain
from barque.image.trust.policy import Sigstore
from barque.oci import go_json
from barque.oci.descriptor import Descriptor
from barque.oci.digest import Digest
from barque.oci.manifest import Manifest, parse
from barque.oci.reference import Reference

if TYPE_CHECKING:
    from barque.image.trust.keys import PublicKey

_PAYLOAD = "application/vnd.dev.cosign.simplesigning.v1+json"
_SIGNATURE = "dev.cosignproject.cosign/signature"
#: What a manifest that refers to an image says that it is.
_ARTIFACT = "application/vnd.dev.cosign.artifact.sig.v1+json"
_TYPE = "cosign container image signature"


class _Image(msgspec.Struct):
    digest: str = msgspec.field(default="", name="docker-manifest-digest")


class _Signed(msgspec.Struct):
    reference: str = msgspec.field(default="", name="docker-reference")


class _Critical(msgspec.Struct):
    image: _Image = msgspec.field(default_factory=_Image)
    identity: _Signed = msgspec.field(default_factory=_Signed)
    type: str = ""


class _Payload(msgspec.Struct):
    critical: _Critical = msgspec.field(default_factory=_Critical)


async def verify(repository: Repository, ref: Reference, digests: Sequence[Digest],
                 wanted: Sigstore) -> dict[str, object]:
    """The first signature of any of the digests that is good. Raises :class:`BadSignature`."""
    reasons: list[str] = []
    for digest in digests:
        async for layer in _signatures(repository, digest):
            try:
                data = await repository.small_blob(layer.checked_digest)
                signed = _check(layer, data, digest, ref, wanted)
                return {"Name": "cosign", "SignatureType": "simplesigning-v1", "DockerReference": signed}
            except BadSignature as error:
                reasons.append(str(error))
    raise BadSignature("; ".join(dict.fromkeys(reasons)) or "it has no cosign signature")


async def _signatures(repository: Repository, digest: Digest) -> AsyncIterator[Descriptor]:
    bodies = []
    try:
        bodies.append((await repository.manifest(f"{digest.algorithm}-{digest.hex}.sig"))[:2])
    except RegistryRefused as error:
        if error.http_status != 404:
            raise
    for entry in await repository.referrers(digest, _ARTIFACT):
        bodies.append((await repository.manifest(entry.checked_digest))[:2])
    for body, media_type in bodies:
        document = parse(body, media_type)
        for layer in document.layers if isinstance(document, Manifest) else ():
            if layer.media_type == _PAYLOAD:
                yield layer


def _check(layer: Descriptor, data: bytes, digest: Digest, ref: Reference, wanted: Sigstore) -> str:
    """The name that was signed."""
    if Digest.of(data, layer.checked_digest.algorithm) != layer.digest:
        raise BadSignature("the payload is not the one that its manifest names")
    try:
        signature = base64.b64decode(layer.annotations.get(_SIGNATURE, ""), validate=True)
        payload = go_json.decode(data, _Payload).critical
    except (binascii.Error, go_json.InvalidJSON):
        raise BadSignature("the signature cannot be read") from None
    if not any(_fits(key, signature, data) for key in wanted.keys):
        raise BadSignature("the signature is by none of the keys")
    # Only what is signed is believed.
    if payload.type != _TYPE or payload.image.digest != digest:
        raise BadSignature("the signature is of another image")
    if not wanted.identity.fits(payload.identity.reference, ref):
        raise BadSignature(f"the signature is for {payload.identity.reference}")
    return payload.identity.reference


def _fits(key: PublicKey, signature: bytes, data: bytes) -> bool:
    try:
        verify_plain(key, signature, data)
    except BadSignature:
        return False
    return True
