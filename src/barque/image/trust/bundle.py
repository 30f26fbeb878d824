"""Signatures of cosign 3: a bundle with a signed statement about the image, as an artifact that refers to it.

https://github.com/sigstore/cosign/blob/main/specs/BUNDLE_SPEC.md, https://github.com/secure-systems-lab/dsse,
https://github.com/in-toto/attestation. A statement names a digest and no repository.
"""

from __future__ import annotations

import base64

import msgspec

from barque.image.trust.keys import BadSignature
from barque.image.trust.policy import Sigstore
from barque.image.trust.rekor import Entry
from barque.image.trust.sigstore import Evidence, check_signer
from barque.oci import go_json
from barque.oci.digest import Digest

#: The media types of what refers to an image, and of its layer: up to the version.
MEDIA_TYPE = "application/vnd.dev.sigstore.bundle."
ARTIFACT = "application/vnd.dev.sigstore.bundle.v0.3+json"
_STATEMENT = "application/vnd.in-toto+json"
#: What says that an image is signed; other predicates say something else about it.
_SIGNED = "https://sigstore.dev/cosign/sign/v1"


class _Raw(msgspec.Struct, rename="camel"):
    raw_bytes: str = ""


class _Chain(msgspec.Struct):
    certificates: list[_Raw] = []


class _LogId(msgspec.Struct, rename="camel"):
    key_id: str = ""


class _Promise(msgspec.Struct, rename="camel"):
    signed_entry_timestamp: str = ""


class _LogEntry(msgspec.Struct, rename="camel"):
    log_index: str = ""
    log_id: _LogId = msgspec.field(default_factory=_LogId)
    integrated_time: str = ""
    inclusion_promise: _Promise | None = None
    canonicalized_body: str = ""


class _Material(msgspec.Struct, rename="camel"):
    certificate: _Raw | None = None
    x509_certificate_chain: _Chain = msgspec.field(default_factory=_Chain, name="x509CertificateChain")
    tlog_entries: list[_LogEntry] = []


class _Signature(msgspec.Struct):
    sig: str = ""


class _Envelope(msgspec.Struct, rename="camel"):
    payload: str = ""
    payload_type: str = ""
    signatures: list[_Signature] = []


class _Bundle(msgspec.Struct, rename="camel"):
    verification_material: _Material = msgspec.field(default_factory=_Material)
    dsse_envelope: _Envelope | None = None


class _Subject(msgspec.Struct):
    digest: dict[str, str] = {}


class _Statement(msgspec.Struct, rename="camel"):
    predicate_type: str = ""
    subject: list[_Subject] = []


def check(data: bytes, digest: Digest, wanted: Sigstore) -> dict[str, object]:
    """What is known of the signature, in the API's words. Raises :class:`BadSignature`."""
    try:
        bundle = go_json.decode(data, _Bundle)
        envelope = bundle.dsse_envelope
        if envelope is None or envelope.payload_type != _STATEMENT or len(envelope.signatures) != 1:
            raise BadSignature("the bundle has no statement with one signature")
        evidence = _evidence(bundle.verification_material, envelope)
    except BadSignature:
        raise
    except (ValueError, go_json.InvalidJSON):
        raise BadSignature("the bundle cannot be read") from None
    signer = check_signer(evidence, wanted)
    # Only what is signed is believed.
    try:
        statement = go_json.decode(evidence.payload, _Statement)
    except go_json.InvalidJSON:
        raise BadSignature("the statement cannot be read") from None
    if statement.predicate_type != _SIGNED:
        raise BadSignature(f"the statement is no signature but {statement.predicate_type!r}")
    if not any(subject.digest.get(digest.algorithm) == digest.hex for subject in statement.subject):
        raise BadSignature("the signature is of another image")
    if not wanted.identity.any_name:
        raise BadSignature("the signature is for no name: want signedIdentity of the type matchDigest")
    return {"Name": "cosign", "SignatureType": "bundle-v0.3", **signer}


def _evidence(material: _Material, envelope: _Envelope) -> Evidence:
    payload = base64.b64decode(envelope.payload, validate=True)
    kind = envelope.payload_type.encode()
    certificates = [material.certificate] if material.certificate else material.x509_certificate_chain.certificates
    return Evidence(signature=base64.b64decode(envelope.signatures[0].sig, validate=True),
                    signed=b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(payload), payload), payload=payload,
                    chain=tuple(base64.b64decode(each.raw_bytes, validate=True) for each in certificates),
                    entry=next(map(_entry, (each for each in material.tlog_entries if each.inclusion_promise)), None))


def _entry(found: _LogEntry) -> Entry:
    assert found.inclusion_promise is not None
    return Entry(found.canonicalized_body, int(found.integrated_time), int(found.log_index),
                 base64.b64decode(found.log_id.key_id, validate=True).hex(),
                 base64.b64decode(found.inclusion_promise.signed_entry_timestamp, validate=True))
