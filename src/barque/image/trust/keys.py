"""Public keys and certificates, over the optional package ``cryptography``: the standard library verifies nothing."""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from barque.errors import Unsupported

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
    from cryptography.x509 import Certificate

    PublicKey = EllipticCurvePublicKey | Ed25519PublicKey | RSAPublicKey
    Certificates = tuple[Certificate, ...]

#: Short names of a subject's attributes in RFC 4514, by object identifier.
_NAMES = {"2.5.4.3": "CN", "2.5.4.6": "C", "2.5.4.7": "L", "2.5.4.8": "ST", "2.5.4.10": "O", "2.5.4.11": "OU",
          "2.5.4.9": "STREET"}
#: JSON web algorithms (RFC 7518) to the number of bits of their hash.
_HASHES = {"PS256": 256, "PS384": 384, "PS512": 512, "ES256": 256, "ES384": 384, "ES512": 512}
#: Extensions of certificates that are looked at here, or need not be: basic constraints, key usage, extended key usage,
#: names of the subject.
_UNDERSTOOD = frozenset({"2.5.29.19", "2.5.29.15", "2.5.29.37", "2.5.29.17"})
_PEM = re.compile(r"-----BEGIN ([A-Z ]+)-----\s*([A-Za-z0-9+/=\s]+)-----END \1-----")


class NoCryptography(Unsupported):
    text = "signatures cannot be verified: the package cryptography is missing (pip install 'barque[signatures]')"


class BadSignature(ValueError):
    """The signature does not fit."""


def _need() -> None:
    try:
        import cryptography  # noqa: F401
    except ImportError:
        raise NoCryptography() from None


def load_key(pem: bytes) -> PublicKey:
    """An ECDSA, Ed25519 or RSA public key (SubjectPublicKeyInfo in PEM). Raises ValueError, :class:`NoCryptography`."""
    _need()
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    try:
        key = load_pem_public_key(pem)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise ValueError(f"not a public key in PEM: {error}") from None
    if not isinstance(key, ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey | rsa.RSAPublicKey):
        raise ValueError("the key is neither ECDSA nor Ed25519 nor RSA")
    return key


def load_certificates(pem: bytes) -> Certificates:
    """Raises ValueError, :class:`NoCryptography`."""
    _need()
    from cryptography.x509 import load_pem_x509_certificates

    return tuple(load_pem_x509_certificates(pem)) if b"BEGIN CERTIFICATE" in pem else ()


def parse_chain(der: Sequence[bytes]) -> Certificates:
    """Raises ValueError."""
    from cryptography.x509 import load_der_x509_certificate

    return tuple(load_der_x509_certificate(each) for each in der)


def verify_plain(key: Any, signature: bytes, data: bytes) -> None:
    """As cosign signs: ECDSA (DER) and RSA (PKCS #1 v1.5) over SHA-256, Ed25519 as it is.

    Raises :class:`BadSignature`.
    """
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
    from cryptography.hazmat.primitives.hashes import SHA256

    try:
        if isinstance(key, ec.EllipticCurvePublicKey):
            key.verify(signature, data, ec.ECDSA(SHA256()))
        elif isinstance(key, rsa.RSAPublicKey):
            key.verify(signature, data, padding.PKCS1v15(), SHA256())
        elif isinstance(key, ed25519.Ed25519PublicKey):
            key.verify(signature, data)
        else:
            raise BadSignature("keys of this kind are not supported")
    except InvalidSignature:
        raise BadSignature("the signature does not fit the key") from None


def fits(key: Any, signature: bytes, data: bytes) -> bool:
    """Whether it is a signature of ``data`` by ``key``; by a key of another kind it is not."""
    try:
        verify_plain(key, signature, data)
    except BadSignature:
        return False
    return True


def pem_documents(text: str) -> list[bytes]:
    """What is between the lines of each key or certificate, in DER. Raises ValueError."""
    return [base64.b64decode(found[2]) for found in _PEM.finditer(text)]


def key_der(key: PublicKey) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def certificate_der(certificate: Certificate) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding

    return certificate.public_bytes(Encoding.DER)


def verify_jws(certificate: Certificate, algorithm: str, signature: bytes, data: bytes) -> None:
    """As RFC 7518 has it: PS* (RSASSA-PSS) and ES* (r and s side by side). Raises :class:`BadSignature`."""
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
    from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

    known: dict[int, hashes.HashAlgorithm] = {256: hashes.SHA256(), 384: hashes.SHA384(), 512: hashes.SHA512()}
    chosen = known.get(_HASHES.get(algorithm, 0))
    key = certificate.public_key()
    try:
        if chosen is not None and algorithm.startswith("PS") and isinstance(key, rsa.RSAPublicKey):
            key.verify(signature, data, padding.PSS(padding.MGF1(chosen), padding.PSS.DIGEST_LENGTH), chosen)
        elif chosen is not None and algorithm.startswith("ES") and isinstance(key, ec.EllipticCurvePublicKey):
            half = len(signature) // 2
            numbers = int.from_bytes(signature[:half], "big"), int.from_bytes(signature[half:], "big")
            key.verify(encode_dss_signature(*numbers), data, ec.ECDSA(chosen))
        else:
            raise BadSignature(f"the algorithm {algorithm} does not go with the certificate's key")
    except InvalidSignature:
        raise BadSignature("the signature does not fit the certificate") from None


def verify_chain(chain: Certificates, authorities: Certificates, moment: datetime | None = None) -> None:
    """Leaf first: each is issued by the next, up to one that is an authority or issued by one; all valid at ``moment``.

    ``moment``: an aware time; None is now. Raises :class:`BadSignature`.
    """
    when = moment or datetime.now(UTC)
    _check_signer(chain[0])
    for position, certificate in enumerate(chain):
        _check_valid(certificate, when)
        if certificate in authorities or _is_issued_by_one(certificate, authorities, position, when):
            return
        if position + 1 < len(chain):
            _check_issued(certificate, chain[position + 1], position)
    raise BadSignature(f"the certificate of {subject_text(chain[-1])} is not from a trusted authority")


def _is_issued_by_one(certificate: Certificate, authorities: Certificates, below: int, when: datetime) -> bool:
    """An authority that changed its key is there twice under one name."""
    for authority in authorities:
        if authority.subject == certificate.issuer:
            try:
                _check_valid(authority, when)
                _check_issued(certificate, authority, below)
                return True
            except BadSignature:
                continue
    return False


def _check_valid(certificate: Certificate, when: datetime) -> None:
    if not certificate.not_valid_before_utc <= when <= certificate.not_valid_after_utc:
        raise BadSignature(f"the certificate of {subject_text(certificate)} is not valid at {when:%Y-%m-%d %H:%M:%S}")
    try:
        extensions = certificate.extensions
    except ValueError as error:
        raise BadSignature(f"the certificate of {subject_text(certificate)}: {error}") from None
    for each in extensions:
        if each.critical and each.oid.dotted_string not in _UNDERSTOOD:
            raise BadSignature(f"the certificate of {subject_text(certificate)} has an extension that is not "
                               f"understood: {each.oid.dotted_string}")


def _check_signer(certificate: Certificate) -> None:
    """The signer's own certificate must be one for signing; others that an authority issued are for something else."""
    from cryptography.x509 import ExtendedKeyUsage, ExtensionNotFound, KeyUsage
    from cryptography.x509.oid import ExtendedKeyUsageOID

    try:
        if not certificate.extensions.get_extension_for_class(KeyUsage).value.digital_signature:
            raise BadSignature(f"the certificate of {subject_text(certificate)} is not for signatures")
    except ExtensionNotFound:
        pass
    try:
        purposes = certificate.extensions.get_extension_for_class(ExtendedKeyUsage).value
    except ExtensionNotFound:
        return
    if ExtendedKeyUsageOID.CODE_SIGNING not in purposes:
        raise BadSignature(f"the certificate of {subject_text(certificate)} is not for signing code")


def _check_issued(certificate: Certificate, issuer: Certificate, below: int) -> None:
    """``below``: how many authorities stand between the issuer and the signer."""
    from cryptography.exceptions import InvalidSignature
    from cryptography.x509 import BasicConstraints, ExtensionNotFound

    try:
        constraints = issuer.extensions.get_extension_for_class(BasicConstraints).value
        if not constraints.ca or (constraints.path_length is not None and constraints.path_length < below):
            raise BadSignature(f"{subject_text(issuer)} may not issue certificates here")
        certificate.verify_directly_issued_by(issuer)
    except (InvalidSignature, ValueError, TypeError, ExtensionNotFound) as error:
        if isinstance(error, BadSignature):
            raise
        raise BadSignature(f"{subject_text(certificate)} was not issued by {subject_text(issuer)}") from None


def subject(certificate: Certificate) -> dict[str, str]:
    return {_NAMES.get(item.oid.dotted_string, item.oid.dotted_string): str(item.value) for item in certificate.subject}


def subject_text(certificate: Certificate) -> str:
    return certificate.subject.rfc4514_string()


def issuer_text(certificate: Certificate) -> str:
    return certificate.issuer.rfc4514_string()


def names(certificate: Certificate) -> list[str]:
    """Mail addresses and URIs of the subject."""
    from cryptography.x509 import ExtensionNotFound, RFC822Name, SubjectAlternativeName, UniformResourceIdentifier

    try:
        found = certificate.extensions.get_extension_for_class(SubjectAlternativeName).value
    except ExtensionNotFound:
        return []
    return [*found.get_values_for_type(RFC822Name), *found.get_values_for_type(UniformResourceIdentifier)]


def extension(certificate: Certificate, oid: str) -> bytes | None:
    """The bytes of an extension that the library does not know."""
    from cryptography.x509 import ExtensionNotFound, ObjectIdentifier, UnrecognizedExtension

    try:
        found = certificate.extensions.get_extension_for_oid(ObjectIdentifier(oid)).value
    except ExtensionNotFound:
        return None
    return found.value if isinstance(found, UnrecognizedExtension) else None
