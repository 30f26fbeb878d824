"""Which signatures an image must have to be pulled: a part of containers-policy.json(5), and notation beside it.

    {"default": [{"type": "reject"}],
     "transports": {"docker": {
       "registry.example/team": [{"type": "sigstoreSigned", "keyPath": "/etc/barque/team.pub"}],
       "*.partner.example": [{"type": "notationSigned", "trustStore": "/etc/barque/partner",
                              "trustedIdentities": ["x509.subject: O=Partner"]}],
       "docker.io": [{"type": "insecureAcceptAnything"}]}}}

The longest scope that fits a reference counts: the reference itself, its repository, the namespaces above it, its host,
``*.`` and the end of its host, and then the default. All requirements of a scope must be met. A key that is not known
here is an error: a policy that is half understood protects nobody.
"""

from __future__ import annotations

import base64
import binascii
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from barque.errors import InvalidArgument
from barque.image.trust.keys import load_certificates, load_key
from barque.oci.reference import Reference, parse

if TYPE_CHECKING:
    from barque.image.trust.keys import Certificates, PublicKey

_CERTIFICATES = (".pem", ".crt", ".cer")
_SOURCES = ("Path", "Paths", "Data", "Datas")


class BadPolicy(InvalidArgument):
    text = "signature policy {path}: {reason}"


@dataclass(frozen=True)
class Accept:
    """No signature is asked for."""


@dataclass(frozen=True)
class Reject:
    """Nothing is good enough."""


@dataclass(frozen=True)
class Identity:
    """What the signed name must be: ``kind`` is containers-policy.json's word; ``exact`` the name that it gives."""

    kind: str = "matchRepoDigestOrExact"
    exact: Reference | None = None

    @property
    def any_name(self) -> bool:
        """The digest alone counts. Ours: statements about a digest name no repository."""
        return self.kind == "matchDigest"

    def fits(self, signed: str, ref: Reference) -> bool:
        if self.any_name:
            return True
        try:
            found = parse(signed)
        except InvalidArgument:
            return False
        wanted = (self.exact or ref).with_default_tag()
        if self.kind in ("matchRepository", "exactRepository") or \
                (self.kind == "matchRepoDigestOrExact" and wanted.digest is not None):
            return found.name == wanted.name
        return found == wanted


@dataclass(frozen=True)
class Fulcio:
    """Certificates for the identity ``subject`` (a mail address or URI), as the OpenID ``issuer`` knows it."""

    authorities: Certificates
    issuer: str
    subject: str


@dataclass(frozen=True)
class Sigstore:
    """A signature as cosign makes it: by any of the ``keys``, or by a certificate.

    ``rekor``: keys of the transparency logs, one of which must have the signature; empty: none need have it.
    """

    keys: tuple[PublicKey, ...]
    fulcio: Fulcio | None
    rekor: tuple[PublicKey, ...]
    identity: Identity


@dataclass(frozen=True)
class Notation:
    """A signature of the Notary Project by a certificate that ``authorities`` issued.

    ``identities``: attributes of the subject that the signer must have, any of these; empty: whoever it is.
    """

    authorities: Certificates
    identities: tuple[dict[str, str], ...]


Requirement = Accept | Reject | Sigstore | Notation


@dataclass(frozen=True)
class Policy:
    default: tuple[Requirement, ...]
    scopes: dict[str, tuple[Requirement, ...]]

    def requirements(self, ref: Reference) -> tuple[Requirement, ...]:
        for scope in _scopes(ref):
            if scope in self.scopes:
                return self.scopes[scope]
        return self.default


def _scopes(ref: Reference) -> Iterator[str]:
    yield str(ref.with_default_tag())
    name = ref.name
    while "/" in name:
        yield name
        name = name.rpartition("/")[0]
    yield name
    host = name.partition(":")[0]
    while "." in host:
        host = host.partition(".")[2]
        yield f"*.{host}"


def load(path: str) -> Policy:
    """Raises :class:`BadPolicy`, and NoCryptography where keys are asked for that cannot be used."""
    try:
        with open(path, "rb") as file:
            document = msgspec.json.decode(file.read())
    except (OSError, msgspec.DecodeError) as error:
        raise BadPolicy(path=path, reason=error) from None
    try:
        return _policy(document)
    except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
        raise BadPolicy(path=path, reason=str(error) or type(error).__name__) from None


def _policy(document: Any) -> Policy:
    _only(document, {"default", "transports"})
    transports = document.get("transports", {})
    _only(transports, {"docker"})
    scopes = dict(transports.get("docker", {}))
    default = scopes.pop("", document["default"])
    return Policy(_requirements(default), {scope: _requirements(items) for scope, items in scopes.items()})


def _only(table: Any, known: set[str]) -> None:
    if not isinstance(table, dict):
        raise ValueError(f"want an object, not {table!r}")
    if unknown := sorted(set(table) - known):
        raise ValueError(f"{', '.join(unknown)}: not supported")


def _requirements(items: Any) -> tuple[Requirement, ...]:
    if not isinstance(items, list) or not items:
        raise ValueError("want a list of requirements that is not empty")
    return tuple(_requirement(item) for item in items)


def _requirement(item: Any) -> Requirement:
    kind = item["type"]
    if kind == "insecureAcceptAnything":
        _only(item, {"type"})
        return Accept()
    if kind == "reject":
        _only(item, {"type"})
        return Reject()
    if kind == "sigstoreSigned":
        return _sigstore(item)
    if kind == "notationSigned":
        _only(item, {"type", "trustStore", "trustedIdentities"})
        return Notation(_authorities(item["trustStore"]), tuple(_subjects(item.get("trustedIdentities", ["*"]))))
    raise ValueError(f"requirements of the type {kind!r} are not supported")


def _sigstore(item: dict[str, Any]) -> Sigstore:
    _only(item, {"type", "fulcio", "signedIdentity"}
          | {prefix + end for prefix in ("key", "rekorPublicKey") for end in _SOURCES})
    keys, rekor = tuple(map(load_key, _sources(item, "key"))), tuple(map(load_key, _sources(item, "rekorPublicKey")))
    fulcio = _fulcio(item["fulcio"]) if "fulcio" in item else None
    if bool(keys) == (fulcio is not None):
        raise ValueError("sigstoreSigned wants one of keyPath, keyPaths, keyData, keyDatas, fulcio")
    if fulcio is not None and not rekor:
        raise ValueError("fulcio wants rekorPublicKeyPath or rekorPublicKeyData too: what says when it was signed")
    return Sigstore(keys, fulcio, rekor, _identity(item.get("signedIdentity", {"type": "matchRepoDigestOrExact"})))


def _fulcio(item: dict[str, Any]) -> Fulcio:
    _only(item, {"caPath", "caData", "oidcIssuer", "subjectEmail", "subjectURI"})
    subjects = [item[name] for name in ("subjectEmail", "subjectURI") if item.get(name)]
    if len(subjects) != 1 or not item.get("oidcIssuer"):
        raise ValueError("fulcio wants oidcIssuer, and one of subjectEmail, subjectURI")
    authorities = load_certificates(b"\n".join(_sources(item, "ca")))
    if not authorities:
        raise ValueError("fulcio wants certificates in caPath or caData")
    return Fulcio(authorities, item["oidcIssuer"], subjects[0])


def _sources(item: dict[str, Any], prefix: str) -> list[bytes]:
    """What the files or the base64 under one of the ``prefix``'s keys hold; nothing where there is none."""
    given = [prefix + end for end in _SOURCES if prefix + end in item]
    if len(given) > 1:
        raise ValueError(f"want one of {', '.join(given)}")
    found = []
    for name in given:
        for value in item[name] if isinstance(item[name], list) else [item[name]]:
            if name.startswith(f"{prefix}Path"):
                with open(value, "rb") as file:
                    found.append(file.read())
            else:
                try:
                    found.append(base64.b64decode(value, validate=True))
                except binascii.Error:
                    raise ValueError(f"{name} is not base64") from None
    return found


def _identity(item: dict[str, str]) -> Identity:
    kind = item["type"]
    names = {"exactReference": "dockerReference", "exactRepository": "dockerRepository"}
    if kind in names:
        _only(item, {"type", names[kind]})
        return Identity(kind, parse(item[names[kind]]))
    if kind not in ("matchExact", "matchRepository", "matchRepoDigestOrExact", "matchDigest"):
        raise ValueError(f"signedIdentity of the type {kind!r} is not supported")
    _only(item, {"type"})
    return Identity(kind)


def _authorities(directory: str) -> Certificates:
    data = b""
    for name in sorted(os.listdir(directory)):
        if name.endswith(_CERTIFICATES):
            with open(os.path.join(directory, name), "rb") as file:
                data += file.read() + b"\n"
    found = load_certificates(data)
    if not found:
        raise ValueError(f"no certificates in {directory}")
    return found


def _subjects(texts: list[str]) -> Iterator[dict[str, str]]:
    """``x509.subject: C=US, O=Example``; ``*`` is anybody, and makes the list empty."""
    if texts == ["*"]:
        return
    for text in texts:
        kind, _, subject = text.partition(":")
        parts = [part.strip().partition("=") for part in subject.split(",")]
        if kind.strip() != "x509.subject" or not all(name and value for name, _, value in parts):
            raise ValueError(f"trusted identity {text!r} is not x509.subject: NAME=VALUE, ...")
        yield {name.strip(): value.strip() for name, _, value in parts}
