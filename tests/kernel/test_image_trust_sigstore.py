"""Pulls under a policy that wants sigstore's ways: certificates for an identity, the transparency log, bundles."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID

from barque.image.trust.check import NotTrusted
from barque.image.trust.policy import BadPolicy, load
from tests.image_world import FaultyRegistry, digest, make_image
from tests.trust_world import EC, OTHER_KEY, SIGNED, Site, certificate, empty, public, put, refer, signing_site

REKOR = ec.generate_private_key(ec.SECP256R1())
CA_KEY, MIDDLE_KEY = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
CA = certificate(CA_KEY, "Root", None, CA_KEY, authority=True)
MIDDLE = certificate(MIDDLE_KEY, "Middle", CA, CA_KEY, authority=True)
FALSE_CA = certificate(OTHER_KEY, "Root", None, OTHER_KEY, authority=True)
ISSUER, MAIL, WORKFLOW = "https://id.example", "dev@id.example", "https://code.example/team/app/release.yml"
#: Fulcio's certificates are valid for ten minutes: these ended a day ago.
THEN = datetime.now(UTC).replace(microsecond=0) - timedelta(days=1)
OTHER = digest(make_image({"a": b"other"}).manifest)
PLAIN_ISSUER, DER_ISSUER = "1.3.6.1.4.1.57264.1.1", "1.3.6.1.4.1.57264.1.8"


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    async with signing_site(tmp_path) as made:
        yield made


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def pem(made: x509.Certificate) -> bytes:
    return made.public_bytes(serialization.Encoding.PEM)


def utf8(text: str) -> bytes:
    return bytes([0x0C, len(text)]) + text.encode()


def identity(*, uri: bool = False, issued_by: Any = MIDDLE_KEY, extensions: dict[str, bytes] | None = None,
             critical: str = "", purpose: Any = ExtendedKeyUsageOID.CODE_SIGNING) -> x509.Certificate:
    """As Fulcio makes it: for the key EC, without a subject."""
    name = x509.UniformResourceIdentifier(WORKFLOW) if uri else x509.RFC822Name(MAIL)
    builder = (x509.CertificateBuilder().subject_name(x509.Name([])).issuer_name(MIDDLE.subject)
               .public_key(EC.public_key()).serial_number(x509.random_serial_number())
               .not_valid_before(THEN - timedelta(minutes=5)).not_valid_after(THEN + timedelta(minutes=5))
               .add_extension(x509.SubjectAlternativeName([name]), critical=True)
               .add_extension(x509.ExtendedKeyUsage([purpose]), critical=False))
    for oid, value in (extensions if extensions is not None else {DER_ISSUER: utf8(ISSUER)}).items():
        builder = builder.add_extension(x509.UnrecognizedExtension(x509.ObjectIdentifier(oid), value), critical=False)
    if critical:
        unknown = x509.UnrecognizedExtension(x509.ObjectIdentifier(critical), b"x")
        builder = builder.add_extension(unknown, critical=True)
    return builder.sign(issued_by, hashes.SHA256())


@dataclass(frozen=True)
class Signing:
    """How an image is signed, and what is wrong with it."""

    key: Any = EC
    leaf: x509.Certificate | None = None
    log_key: Any = REKOR
    time: datetime = THEN
    logged: bool = True
    logged_payload: bytes | None = None
    logged_kind: str = ""
    claimed: str = SIGNED
    predicate: str = "https://sigstore.dev/cosign/sign/v1"
    as_bundle: bool = False

    def put(self, registry: FaultyRegistry) -> None:
        (self._bundle if self.as_bundle else self._simple)(registry)

    def _sign(self, data: bytes) -> bytes:
        return bytes(self.key.sign(data, ec.ECDSA(hashes.SHA256())))

    def _signer(self) -> str:
        return b64(pem(self.leaf) if self.leaf else public(self.key))

    def _entry(self, kind: str, spec: dict[str, Any]) -> dict[str, Any]:
        body = json.dumps({"apiVersion": "0.0.1", "kind": self.logged_kind or kind, "spec": spec})
        return {"body": b64(body.encode()), "integratedTime": int(self.time.timestamp()), "logIndex": 7,
                "logID": "c0ffee"}

    def _promise(self, entry: dict[str, Any]) -> str:
        canonical = json.dumps(entry, sort_keys=True, separators=(",", ":")).encode()
        return b64(self.log_key.sign(canonical, ec.ECDSA(hashes.SHA256())))

    def _hash(self, payload: bytes) -> dict[str, str]:
        return {"algorithm": "sha256", "value": hashlib.sha256(self.logged_payload or payload).hexdigest()}

    def _simple(self, registry: FaultyRegistry) -> None:
        payload = json.dumps({"critical": {
            "identity": {"docker-reference": f"{registry.address}/app"},
            "image": {"docker-manifest-digest": self.claimed}, "type": "cosign container image signature"}}).encode()
        signature = b64(self._sign(payload))
        entry = self._entry("hashedrekord", {"data": {"hash": self._hash(payload)}, "signature": {
            "content": signature, "publicKey": {"content": self._signer()}}})
        notes = {"dev.cosignproject.cosign/signature": signature}
        if self.logged:
            notes["dev.sigstore.cosign/bundle"] = json.dumps(
                {"SignedEntryTimestamp": self._promise(entry), "Payload": entry})
        if self.leaf:
            notes |= {"dev.sigstore.cosign/certificate": pem(self.leaf).decode(),
                      "dev.sigstore.cosign/chain": (pem(MIDDLE) + pem(CA)).decode()}
        layer = {"mediaType": "application/vnd.dev.cosign.simplesigning.v1+json", "digest": digest(payload),
                 "size": len(payload), "annotations": notes}
        put(registry, SIGNED.replace(":", "-") + ".sig", {"config": empty(), "layers": [layer]}, [payload])

    def _bundle(self, registry: FaultyRegistry) -> None:
        kind = "application/vnd.in-toto+json"
        payload = json.dumps({"_type": "https://in-toto.io/Statement/v1", "predicateType": self.predicate, "subject": [
            {"digest": {"sha256": self.claimed.partition(":")[2]}}], "predicate": {}}).encode()
        signature = b64(self._sign(f"DSSEv1 {len(kind)} {kind} {len(payload)} ".encode() + payload))
        entry = self._entry("dsse", {"payloadHash": self._hash(payload), "signatures": [
            {"signature": signature, "verifier": self._signer()}]})
        found = {"logIndex": "7", "logId": {"keyId": b64(bytes.fromhex(entry["logID"]))},
                 "integratedTime": str(entry["integratedTime"]), "canonicalizedBody": entry["body"],
                 "inclusionPromise": {"signedEntryTimestamp": self._promise(entry)}}
        signer = [MIDDLE, CA]
        material: dict[str, Any] = {"publicKey": {"hint": "x"}}
        if self.leaf:
            raw = [{"rawBytes": b64(each.public_bytes(serialization.Encoding.DER))} for each in (self.leaf, *signer)]
            material = {"x509CertificateChain": {"certificates": raw}}
        artifact = "application/vnd.dev.sigstore.bundle.v0.3+json"
        data = json.dumps({"mediaType": artifact, "dsseEnvelope": {
            "payload": b64(payload), "payloadType": kind, "signatures": [{"sig": signature}]},
            "verificationMaterial": {**material, "tlogEntries": [found] if self.logged else []}}).encode()
        body = put(registry, "", {"artifactType": artifact, "config": empty(), "layers": [
            {"mediaType": artifact, "digest": digest(data), "size": len(data)}]}, [data])
        refer(registry, SIGNED, body, artifact)


def logged() -> dict[str, Any]:
    return {"rekorPublicKeyData": b64(public(REKOR))}


def keyless(subject: dict[str, str] | None = None, *, authority: x509.Certificate = CA, issuer: str = ISSUER,
            kind: str = "matchRepository") -> dict[str, Any]:
    return {"type": "sigstoreSigned", **logged(), "signedIdentity": {"type": kind}, "fulcio": {
        "caData": b64(pem(authority)), "oidcIssuer": issuer, **(subject or {"subjectEmail": MAIL})}}


def keyed(*, kind: str = "matchRepository", log: bool = False) -> dict[str, Any]:
    return {"type": "sigstoreSigned", "keyData": b64(public(EC)), "signedIdentity": {"type": kind},
            **(logged() if log else {})}


@pytest.mark.parametrize("as_bundle", [False, True], ids=["annotations", "bundle"])
async def test_a_certificate_for_an_identity(site: Site, as_bundle: bool) -> None:
    Signing(leaf=identity(), as_bundle=as_bundle).put(site.registry)
    [found] = await site.pull(keyless(kind="matchDigest" if as_bundle else "matchRepository"))
    assert found["SignatureType"] == ("bundle-v0.3" if as_bundle else "simplesigning-v1")
    assert found["Signer"] == {"CertificateIssuer": "O=Middle,C=XX", "Issuer": ISSUER, "SubjectAlternativeName": MAIL}
    assert found["Timestamps"] == [{"Type": "Tlog", "Timestamp": f"{THEN:%Y-%m-%dT%H:%M:%SZ}"}]


async def test_a_certificate_for_a_workflow(site: Site) -> None:
    Signing(leaf=identity(uri=True, extensions={PLAIN_ISSUER: ISSUER.encode()})).put(site.registry)
    [found] = await site.pull(keyless({"subjectURI": WORKFLOW}, authority=MIDDLE))
    assert found["DockerReference"] == f"{site.registry.address}/app"


@pytest.mark.parametrize("as_bundle", [False, True], ids=["annotations", "bundle"])
async def test_a_key_and_the_log(site: Site, as_bundle: bool) -> None:
    wanted = keyed(kind="matchDigest", log=True)
    Signing(as_bundle=as_bundle, logged=False).put(site.registry)
    with pytest.raises(NotTrusted, match="no promise of the transparency log"):
        await site.pull(wanted)
    assert "Timestamps" not in (await site.pull(keyed(kind="matchDigest")))[0]
    site.forget()
    Signing(as_bundle=as_bundle).put(site.registry)
    assert "Timestamps" in (await site.pull(wanted))[0]


GOOD = Signing(leaf=identity())
FORGED: dict[str, tuple[Signing, dict[str, Any], str]] = {
    "not logged": (replace(GOOD, logged=False), keyless(), "no promise of the transparency log"),
    "other log": (replace(GOOD, log_key=OTHER_KEY), keyless(), "by none of its keys"),
    "entry of another image": (replace(GOOD, logged_payload=b"other"), keyless(), "of another signature"),
    "entry of another kind": (replace(GOOD, logged_kind="intoto"), keyless(), "entries 'intoto' 0.0.1"),
    "signed after the certificate ended": (replace(GOOD, time=THEN + timedelta(hours=1)), keyless(), "not valid at"),
    "key without certificate": (Signing(), keyless(), "has no certificate"),
    "somebody else's certificate": (replace(GOOD, key=OTHER_KEY), keyless(), "does not fit the certificate"),
    "false authority": (GOOD, keyless(authority=FALSE_CA), "not from a trusted authority"),
    "not issued": (replace(GOOD, leaf=identity(issued_by=OTHER_KEY)), keyless(), "was not issued by"),
    "for servers": (replace(GOOD, leaf=identity(purpose=ExtendedKeyUsageOID.SERVER_AUTH)), keyless(),
                    "not for signing code"),
    "not understood": (replace(GOOD, leaf=identity(critical="1.2.3")), keyless(), "not understood: 1.2.3"),
    "other mail": (GOOD, keyless({"subjectEmail": "root@id.example"}), f"the identity is {MAIL}"),
    "mail as workflow": (GOOD, keyless({"subjectURI": WORKFLOW}), f"the identity is {MAIL}"),
    "other issuer": (GOOD, keyless(issuer="https://other.example"), f"the identity is from '{ISSUER}'"),
    "two issuers": (replace(GOOD, leaf=identity(extensions={
        PLAIN_ISSUER: b"https://other.example", DER_ISSUER: utf8(ISSUER)})), keyless(), "two issuers"),
    "no issuer": (replace(GOOD, leaf=identity(extensions={})), keyless(), "no issuer"),
    "other image": (replace(GOOD, claimed=OTHER), keyless(), "of another image"),
    "bundle of another image": (replace(GOOD, claimed=OTHER, as_bundle=True), keyless(kind="matchDigest"),
                                "of another image"),
    "bundle without a name": (replace(GOOD, as_bundle=True), keyless(), "want signedIdentity of the type matchDigest"),
    "bundle that says something else": (replace(GOOD, as_bundle=True, predicate="https://spdx.dev/Document"),
                                        keyless(kind="matchDigest"), "no signature but 'https://spdx.dev/Document'"),
    "bundle by another key": (Signing(key=OTHER_KEY, as_bundle=True), keyed(kind="matchDigest"), "by none of the keys"),
}


async def test_forged_signatures(site: Site) -> None:
    for signing, wanted, reason in FORGED.values():
        site.forget()
        signing.put(site.registry)
        with pytest.raises(NotTrusted, match=reason):
            await site.pull(wanted)


@pytest.mark.parametrize("spoilt", ['{"Payload": 1}', "{", '{"SignedEntryTimestamp": "é", "Payload": {}}'])
async def test_annotations_that_cannot_be_read(site: Site, spoilt: str) -> None:
    GOOD.put(site.registry)
    name = f"app:{SIGNED.replace(':', '-')}.sig"
    kind, body = site.registry.manifests[name]
    document = json.loads(body)
    document["layers"][0]["annotations"]["dev.sigstore.cosign/bundle"] = spoilt
    site.registry.manifests[name] = (kind, json.dumps(document).encode())
    with pytest.raises(NotTrusted, match="cannot be read"):
        await site.pull(keyless())


def test_bad_policies(tmp_path: Path) -> None:
    path = tmp_path / "policy.json"
    for change, reason in (({"rekorPublicKeyData": None}, "fulcio wants rekorPublicKeyPath"),
                           ({"keyData": b64(public(EC))}, "one of keyPath"),
                           ({"fulcio": {"caData": b64(pem(CA)), "subjectEmail": MAIL}}, "fulcio wants oidcIssuer"),
                           ({"fulcio": {"caData": b64(b"x"), "oidcIssuer": ISSUER, "subjectEmail": MAIL}},
                            "fulcio wants certificates"),
                           ({"rekorPublicKeyPath": "/x"}, "want one of rekorPublicKeyPath, rekorPublicKeyData")):
        item = {key: value for key, value in (keyless() | change).items() if value is not None}
        path.write_text(json.dumps({"default": [item]}))
        with pytest.raises(BadPolicy, match=reason):
            load(str(path))
