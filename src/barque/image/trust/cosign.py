"""Signatures that cosign makes: a payload ("simple signing") and a signature over it as an annotation, or a bundle.

They are layers of a manifest, which is under the tag ``<algorithm>-<hex>.sig`` of the same repository or refers to the
image (https://github.com/sigstore/cosign/blob/main/specs/SIGNATURE_SPEC.md).
"""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator, Sequence

import msgspec

from barque.image.client.errors import RegistryRefused
from barque.image.client.repository import Repository
from barque.image.trust import bundle
from barque.image.trust.keys import BadSignature, pem_documents
from barque.image.trust.policy import Sigstore
from barque.image.trust.rekor import Entry
from barque.image.trust.sigstore import Evidence, check_signer
from barque.oci import go_json
from barque.oci.descriptor import Descriptor
from barque.oci.digest import Digest
from barque.oci.manifest import Manifest, parse
from barque.oci.reference import Reference

_PAYLOAD = "application/vnd.dev.cosign.simplesigning.v1+json"
_SIGNATURE = "dev.cosignproject.cosign/signature"
_CERTIFICATE, _CHAIN = "dev.sigstore.cosign/certificate", "dev.sigstore.cosign/chain"
#: The promise of the transparency log.
_LOGGED = "dev.sigstore.cosign/bundle"
#: What a manifest that refers to an image says that it is.
_ARTIFACT = "application/vnd.dev.cosign.artifact.sig.v1+json"
_TYPE = "cosign container image signature"


class _Promised(msgspec.Struct):
    body: str = ""
    time: int = msgspec.field(default=0, name="integratedTime")
    index: int = msgspec.field(default=0, name="logIndex")
    log: str = msgspec.field(default="", name="logID")


class _Logged(msgspec.Struct):
    promise: str = msgspec.field(default="", name="SignedEntryTimestamp")
    payload: _Promised = msgspec.field(default_factory=_Promised, name="Payload")


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
                if Digest.of(data, layer.checked_digest.algorithm) != layer.digest:
                    raise BadSignature("the payload is not the one that its manifest names")
                if layer.media_type == _PAYLOAD:
                    return _check(layer, data, digest, ref, wanted)
                return bundle.check(data, digest, wanted)
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
    for artifact in (_ARTIFACT, bundle.ARTIFACT):
        for entry in await repository.referrers(digest, artifact):
            bodies.append((await repository.manifest(entry.checked_digest))[:2])
    for body, media_type in bodies:
        document = parse(body, media_type)
        for layer in document.layers if isinstance(document, Manifest) else ():
            if layer.media_type == _PAYLOAD or layer.media_type.startswith(bundle.MEDIA_TYPE):
                yield layer


def _check(layer: Descriptor, data: bytes, digest: Digest, ref: Reference, wanted: Sigstore) -> dict[str, object]:
    try:
        evidence = _evidence(layer, data)
        payload = go_json.decode(data, _Payload).critical
    except (ValueError, go_json.InvalidJSON):
        raise BadSignature("the signature cannot be read") from None
    signer = check_signer(evidence, wanted)
    # Only what is signed is believed.
    if payload.type != _TYPE or payload.image.digest != digest:
        raise BadSignature("the signature is of another image")
    if not wanted.identity.fits(payload.identity.reference, ref):
        raise BadSignature(f"the signature is for {payload.identity.reference}")
    return {"Name": "cosign", "SignatureType": "simplesigning-v1", "DockerReference": payload.identity.reference,
            **signer}


def _evidence(layer: Descriptor, data: bytes) -> Evidence:
    given = layer.annotations
    chain = [*pem_documents(given.get(_CERTIFICATE, "")), *pem_documents(given.get(_CHAIN, ""))]
    entry = None
    if _LOGGED in given:
        logged = go_json.decode(given[_LOGGED], _Logged)
        promised = logged.payload
        entry = Entry(promised.body, promised.time, promised.index, promised.log,
                      base64.b64decode(logged.promise, validate=True))
    return Evidence(base64.b64decode(given.get(_SIGNATURE, ""), validate=True), data, data, tuple(chain), entry)
