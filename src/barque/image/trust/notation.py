"""Signatures of the Notary Project ("notation"): JWS envelopes with the signer's certificates, referring to an image.

https://github.com/notaryproject/specifications/blob/main/specs/signature-envelope-jws.md. Envelopes in COSE are passed
over, and times are believed only as far as certificates are valid now: no authority for timestamps is asked.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from datetime import UTC, datetime

import msgspec

from barque.image.client.repository import Repository
from barque.image.trust.keys import (
    BadSignature,
    issuer_text,
    parse_chain,
    subject,
    subject_text,
    verify_chain,
    verify_jws,
)
from barque.image.trust.policy import Notation
from barque.oci import go_json
from barque.oci.descriptor import Descriptor
from barque.oci.digest import Digest
from barque.oci.manifest import Manifest, parse

_ARTIFACT = "application/vnd.cncf.notary.signature"
_ENVELOPE = "application/jose+json"
_CONTENT = "application/vnd.cncf.notary.payload.v1+json"
_SCHEME = "io.cncf.notary.signingScheme"
_EXPIRY = "io.cncf.notary.expiry"
#: Headers that may be critical: those that are looked at here.
_UNDERSTOOD = frozenset({_SCHEME, _EXPIRY})


class _Header(msgspec.Struct):
    x5c: list[str] = []


class _Envelope(msgspec.Struct):
    payload: str = ""
    protected: str = ""
    signature: str = ""
    header: _Header = msgspec.field(default_factory=_Header)


class _Protected(msgspec.Struct):
    alg: str = ""
    cty: str = ""
    crit: list[str] = []
    scheme: str = msgspec.field(default="", name=_SCHEME)
    expiry: str = msgspec.field(default="", name=_EXPIRY)


class _Payload(msgspec.Struct, rename="camel"):
    target_artifact: Descriptor


async def verify(repository: Repository, digests: Sequence[Digest], wanted: Notation) -> dict[str, object]:
    """The first signature of any of the digests that is good. Raises :class:`BadSignature`."""
    reasons: list[str] = []
    for digest in digests:
        for entry in await repository.referrers(digest, _ARTIFACT):
            document = parse(*(await repository.manifest(entry.checked_digest))[:2])
            for layer in document.layers if isinstance(document, Manifest) else ():
                try:
                    if layer.media_type != _ENVELOPE:
                        raise BadSignature(f"envelopes of the type {layer.media_type} are not supported")
                    return _check(layer, await repository.small_blob(layer.checked_digest), digest, wanted)
                except BadSignature as error:
                    reasons.append(str(error))
    raise BadSignature("; ".join(dict.fromkeys(reasons)) or "it has no notation signature")


def _check(layer: Descriptor, data: bytes, digest: Digest, wanted: Notation) -> dict[str, object]:
    if Digest.of(data, layer.checked_digest.algorithm) != layer.digest:
        raise BadSignature("the envelope is not the one that its manifest names")
    try:
        envelope = go_json.decode(data, _Envelope)
        protected = go_json.decode(_decoded(envelope.protected), _Protected)
        chain = parse_chain([base64.b64decode(each) for each in envelope.header.x5c])
        signature = _decoded(envelope.signature)
    except (binascii.Error, ValueError, go_json.InvalidJSON):
        raise BadSignature("the envelope cannot be read") from None
    _check_headers(protected)
    if not chain:
        raise BadSignature("the envelope has no certificates")
    verify_jws(chain[0], protected.alg, signature, f"{envelope.protected}.{envelope.payload}".encode())
    verify_chain(chain, wanted.authorities)
    signer = subject(chain[0])
    if wanted.identities and not any(each.items() <= signer.items() for each in wanted.identities):
        raise BadSignature(f"{subject_text(chain[0])} is not among the trusted identities")
    try:
        target = go_json.decode(_decoded(envelope.payload), _Payload).target_artifact
    except (binascii.Error, go_json.InvalidJSON):
        raise BadSignature("the payload cannot be read") from None
    if target.digest != digest:
        raise BadSignature("the signature is of another image")
    return {"Name": "notation", "SignatureType": "notation-jws",
            "Signer": {"CertificateIssuer": issuer_text(chain[0]), "SubjectAlternativeName": subject_text(chain[0])}}


def _check_headers(protected: _Protected) -> None:
    if protected.cty != _CONTENT or protected.scheme != "notary.x509":
        raise BadSignature(f"signatures of the scheme {protected.scheme!r} are not supported")
    if unknown := set(protected.crit) - _UNDERSTOOD:
        raise BadSignature(f"the signature needs {', '.join(sorted(unknown))} to be understood")
    if protected.expiry:
        try:
            until = datetime.fromisoformat(protected.expiry)
        except ValueError:
            raise BadSignature("the envelope cannot be read") from None
        if until.tzinfo is None or until < datetime.now(UTC):
            raise BadSignature(f"the signature has expired at {protected.expiry}")


def _decoded(text: str) -> bytes:
    return base64.b64decode(text.replace("-", "+").replace("_", "/") + "=" * (-len(text) % 4), validate=True)
