"""Who made a signature in sigstore's way: a key that the policy knows, or who Fulcio issued a certificate for.

Such a certificate is valid for minutes; that it was used in them is what the transparency log says
(https://github.com/sigstore/fulcio/blob/main/docs/certificate-specification.md).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from barque.image.trust import rekor
from barque.image.trust.keys import (
    BadSignature,
    certificate_der,
    extension,
    fits,
    issuer_text,
    key_der,
    names,
    parse_chain,
    verify_chain,
)
from barque.image.trust.policy import Fulcio, Sigstore

if TYPE_CHECKING:
    from cryptography.x509 import Certificate

#: The issuer of the identity: as it is, and as a string in DER.
_ISSUER, _ISSUER_DER = "1.3.6.1.4.1.57264.1.1", "1.3.6.1.4.1.57264.1.8"


@dataclass(frozen=True)
class Evidence:
    """``signed`` is what the signature is over, ``payload`` what the log has the digest of.

    ``chain``: certificates in DER, the signer's first; empty for a signature by key.
    """

    signature: bytes
    signed: bytes
    payload: bytes
    chain: tuple[bytes, ...] = ()
    entry: rekor.Entry | None = None


def check_signer(evidence: Evidence, wanted: Sigstore) -> dict[str, object]:
    """What is known of the signer, in the API's words. Raises :class:`BadSignature`."""
    if wanted.fulcio is not None:
        return _by_certificate(evidence, wanted, wanted.fulcio)
    key = next((key for key in wanted.keys if fits(key, evidence.signature, evidence.signed)), None)
    if key is None:
        raise BadSignature("the signature is by none of the keys")
    return _stamp(_logged(evidence, wanted, key_der(key))) if wanted.rekor else {}


def _logged(evidence: Evidence, wanted: Sigstore, signer: bytes) -> datetime:
    return rekor.logged_at(wanted.rekor, evidence.entry, signature=evidence.signature, payload=evidence.payload,
                           signer=signer)


def _stamp(moment: datetime) -> dict[str, object]:
    return {"Timestamps": [{"Type": "Tlog", "Timestamp": f"{moment:%Y-%m-%dT%H:%M:%SZ}"}]}


def _by_certificate(evidence: Evidence, wanted: Sigstore, fulcio: Fulcio) -> dict[str, object]:
    if not evidence.chain:
        raise BadSignature("the signature has no certificate")
    try:
        chain = parse_chain(evidence.chain)
    except ValueError:
        raise BadSignature("the certificate cannot be read") from None
    signer = chain[0]
    moment = _logged(evidence, wanted, certificate_der(signer))
    verify_chain(chain, fulcio.authorities, moment)
    issuer = _identity_issuer(signer)
    if issuer != fulcio.issuer:
        raise BadSignature(f"the identity is from {issuer!r}")
    if fulcio.subject not in names(signer):
        raise BadSignature(f"the identity is {', '.join(names(signer)) or 'not given'}")
    if not fits(signer.public_key(), evidence.signature, evidence.signed):
        raise BadSignature("the signature does not fit the certificate")
    return {**_stamp(moment), "Signer": {"CertificateIssuer": issuer_text(signer), "Issuer": issuer,
                                         "SubjectAlternativeName": fulcio.subject}}


def _identity_issuer(certificate: Certificate) -> str:
    """Raises :class:`BadSignature` where the two places for it differ."""
    plain, der = extension(certificate, _ISSUER), extension(certificate, _ISSUER_DER)
    if der is not None:
        if len(der) < 2 or der[0] != 0x0C or der[1] != len(der) - 2 or der[1] > 127:  # one short UTF8String
            raise BadSignature("the issuer of the identity cannot be read")
        der = der[2:]
    if plain is not None and der is not None and plain != der:
        raise BadSignature("the certificate names two issuers of the identity")
    found = plain if plain is not None else der
    if found is None:
        raise BadSignature("the certificate names no issuer of the identity")
    return found.decode(errors="replace")
