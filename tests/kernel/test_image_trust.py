"""Pulls under a signature policy: what cosign and notation would have signed, and what an attacker would try."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.x509.oid import ExtendedKeyUsageOID

from barque.image.trust import keys
from barque.image.trust.check import NotTrusted
from barque.image.trust.policy import BadPolicy, load
from barque.oci.reference import Reference, parse
from tests.image_world import INDEX, MANIFEST, FaultyRegistry, digest, make_image, make_index
from tests.trust_world import (
    EC,
    IMAGE,
    OTHER_KEY,
    RSA,
    SIGNED,
    Site,
    certificate,
    empty,
    public,
    put,
    refer,
    signing_site,
)

OTHER = make_image({"a": b"other"})
KEYS: dict[str, Any] = {"ecdsa": EC, "ed25519": ed25519.Ed25519PrivateKey.generate(), "rsa": RSA}


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    async with signing_site(tmp_path) as made:
        yield made


# -- cosign

def cosign(registry: FaultyRegistry, key: Any, signed: str, name: str, *, claimed: str = "", referred: bool = False,
           tamper: Callable[[bytes], bytes] = lambda data: data) -> None:
    payload = json.dumps({"critical": {
        "identity": {"docker-reference": name}, "image": {"docker-manifest-digest": claimed or signed},
        "type": "cosign container image signature"}, "optional": None}).encode()
    if isinstance(key, ec.EllipticCurvePrivateKey):
        signature = key.sign(payload, ec.ECDSA(hashes.SHA256()))
    elif isinstance(key, rsa.RSAPrivateKey):
        signature = key.sign(payload, padding.PKCS1v15(), hashes.SHA256())
    else:
        signature = key.sign(payload)
    payload = tamper(payload)
    layer = {"mediaType": "application/vnd.dev.cosign.simplesigning.v1+json", "digest": digest(payload),
             "size": len(payload), "annotations": {
                 "dev.cosignproject.cosign/signature": base64.b64encode(signature).decode()}}
    kind = "application/vnd.dev.cosign.artifact.sig.v1+json"
    body = put(registry, "" if referred else signed.replace(":", "-") + ".sig",
               {"config": empty(), "layers": [layer], "artifactType": kind}, [payload])
    if referred:
        refer(registry, signed, body, kind)


def keyed(tmp_path: Path, *wanted: Any, identity: str = "matchRepository") -> dict[str, Any]:
    paths = []
    for number, key in enumerate(wanted):
        paths.append(str(tmp_path / f"{number}.pub"))
        Path(paths[-1]).write_bytes(public(key))
    return {"type": "sigstoreSigned", "keyPaths": paths, "signedIdentity": {"type": identity}}


@pytest.mark.parametrize("kind", KEYS)
async def test_cosign_signatures_by_key(site: Site, kind: str) -> None:
    name = f"{site.registry.address}/app"
    cosign(site.registry, KEYS[kind], SIGNED, name, referred=kind == "ed25519")
    [found] = await site.pull(keyed(site.path, OTHER_KEY, KEYS[kind]))
    assert (found["Name"], found["DockerReference"]) == ("cosign", name)


async def test_a_signed_index_is_good_for_its_platforms(site: Site) -> None:
    index = make_index({"amd64": IMAGE})
    site.registry.manifests["app:1"] = (INDEX, index)
    cosign(site.registry, EC, digest(index), f"{site.registry.address}/app:1")
    assert await site.pull(keyed(site.path, EC, identity="matchExact"))


Spoil = Callable[[FaultyRegistry], None]
FORGED: dict[str, tuple[Spoil, str]] = {
    "nothing": (lambda _: None, "it has no cosign signature"),
    "other key": (lambda registry: cosign(registry, OTHER_KEY, SIGNED, f"{registry.address}/app"),
                  "by none of the keys"),
    "other image": (lambda registry: cosign(registry, EC, SIGNED, f"{registry.address}/app",
                                            claimed=digest(OTHER.manifest)), "of another image"),
    "other name": (lambda registry: cosign(registry, EC, SIGNED, "elsewhere.example/app"), "for elsewhere.example/app"),
    "changed payload": (lambda registry: cosign(registry, EC, SIGNED, f"{registry.address}/app", tamper=lambda data:
                                                data.replace(b"null", b"1234")), "by none of the keys"),
}


async def test_forged_cosign_signatures(site: Site) -> None:
    for spoil, reason in FORGED.values():
        site.forget()
        spoil(site.registry)
        with pytest.raises(NotTrusted, match=reason):
            await site.pull(keyed(site.path, EC))


# -- notation

CA_KEY = ec.generate_private_key(ec.SECP256R1())
CA = certificate(CA_KEY, "Authority", None, CA_KEY, authority=True)
FALSE_CA = certificate(OTHER_KEY, "Authority", None, OTHER_KEY, authority=True)


def encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def notation(registry: FaultyRegistry, signed: str = SIGNED, *, key: Any = EC, leaf: x509.Certificate | None = None,
             claimed: str = "", alg: str = "", **headers: Any) -> None:
    leaf = leaf or certificate(key, "Signer", CA, CA_KEY)
    algorithm = alg or ("PS256" if isinstance(key, rsa.RSAPrivateKey) else "ES256")
    payload = encoded(json.dumps({"targetArtifact": {"mediaType": MANIFEST, "digest": claimed or signed,
                                                     "size": len(IMAGE.manifest)}}).encode())
    protected = encoded(json.dumps({
        "alg": algorithm, "cty": "application/vnd.cncf.notary.payload.v1+json",
        "crit": ["io.cncf.notary.signingScheme"], "io.cncf.notary.signingScheme": "notary.x509",
        "io.cncf.notary.signingTime": datetime.now(UTC).isoformat(), **headers}).encode())
    data = f"{protected}.{payload}".encode()
    if isinstance(key, rsa.RSAPrivateKey):
        signature = key.sign(data, padding.PSS(padding.MGF1(hashes.SHA256()), 32), hashes.SHA256())
    else:
        numbers = decode_dss_signature(key.sign(data, ec.ECDSA(hashes.SHA256())))
        signature = b"".join(number.to_bytes(32, "big") for number in numbers)
    chain = [base64.b64encode(each.public_bytes(serialization.Encoding.DER)).decode() for each in (leaf, CA)]
    envelope = json.dumps({"payload": payload, "protected": protected, "signature": encoded(signature),
                           "header": {"x5c": chain}}).encode()
    kind = "application/vnd.cncf.notary.signature"
    body = put(registry, "", {"artifactType": kind, "config": empty(), "layers": [
        {"mediaType": "application/jose+json", "digest": digest(envelope), "size": len(envelope)}]}, [envelope])
    refer(registry, signed, body, kind)


def trusting(tmp_path: Path, authority: x509.Certificate, *identities: str) -> dict[str, Any]:
    store = tmp_path / "store"
    store.mkdir(exist_ok=True)
    (store / "ca.pem").write_bytes(authority.public_bytes(serialization.Encoding.PEM))
    return {"type": "notationSigned", "trustStore": str(store), "trustedIdentities": list(identities) or ["*"]}


@pytest.mark.parametrize("key", [EC, RSA], ids=["ES256", "PS256"])
async def test_notation_signatures(site: Site, key: Any) -> None:
    notation(site.registry, key=key)
    wanted = trusting(site.path, CA, "x509.subject: O=Nobody", "x509.subject: C=XX, O=Signer")
    [found] = await site.pull(wanted)
    assert found["Name"] == "notation" and "O=Authority" in str(found["Signer"])


LATER = (datetime.now(UTC) - timedelta(hours=1)).isoformat()
SPOILT: dict[str, tuple[dict[str, Any], x509.Certificate, tuple[str, ...], str]] = {
    "other image": ({"claimed": digest(OTHER.manifest)}, CA, (), "of another image"),
    "false authority": ({}, FALSE_CA, (), "O=Authority"),
    "other signer": ({}, CA, ("x509.subject: O=Somebody",), "not among the trusted identities"),
    "certificate that ran out": ({"leaf": certificate(EC, "Signer", CA, CA_KEY, days=-1)}, CA, (), "is not valid at"),
    "certificate of a web server": ({"leaf": certificate(EC, "Signer", CA, CA_KEY,
                                                         purpose=ExtendedKeyUsageOID.SERVER_AUTH)}, CA, (),
                                    "not for signing code"),
    "certificate of somebody else's key": ({"leaf": certificate(OTHER_KEY, "Signer", CA, CA_KEY)}, CA, (),
                                           "does not fit the certificate"),
    "certificate that only says who issued it": ({"leaf": certificate(EC, "Signer", CA, OTHER_KEY)}, CA, (),
                                                 "was not issued by"),
    "signer as authority": ({"leaf": certificate(EC, "Signer", certificate(RSA, "Middle", CA, CA_KEY), RSA)}, CA, (),
                            "was not issued by"),
    "no algorithm": ({"alg": "none"}, CA, (), "does not go with"),
    "other algorithm": ({"alg": "PS256"}, CA, (), "does not go with"),
    "what is not understood": ({"crit": ["io.cncf.notary.signingScheme", "x"]}, CA, (), "to be understood"),
    "expired": ({"io.cncf.notary.expiry": LATER}, CA, (), "has expired"),
}


async def test_forged_notation_signatures(site: Site) -> None:
    for options, authority, identities, reason in SPOILT.values():
        site.forget()
        notation(site.registry, **options)
        with pytest.raises(NotTrusted, match=reason):
            await site.pull(trusting(site.path, authority, *identities))


# -- policy

async def test_acceptance_and_rejection(site: Site) -> None:
    with pytest.raises(NotTrusted, match="it is rejected"):
        await site.pull({"type": "reject"})
    assert await site.pull({"type": "insecureAcceptAnything"}) == []


@pytest.mark.parametrize(("name", "scope"), [
    ("reg.example/a/b:1", "reg.example/a/b:1"), ("reg.example/a/b:2", "reg.example/a/b"),
    ("reg.example/a/c", "reg.example/a"), ("reg.example/x", "reg.example"), ("sub.part.example/x", "*.part.example"),
    ("httpd", "docker.io/library"), ("elsewhere.test/x", "")])
def test_the_longest_scope_counts(tmp_path: Path, name: str, scope: str) -> None:
    scopes = ["reg.example/a/b:1", "reg.example/a/b", "reg.example/a", "reg.example", "*.part.example",
              "docker.io/library"]
    path = tmp_path / "policy.json"

    def chosen(reference: Reference) -> str:
        for marked in (*scopes, ""):
            path.write_text(json.dumps({
                "default": [{"type": "reject" if not marked else "insecureAcceptAnything"}],
                "transports": {"docker": {each: [{"type": "reject" if each == marked else "insecureAcceptAnything"}]
                                          for each in scopes}}}))
            if type(load(str(path)).requirements(reference)[0]).__name__ == "Reject":
                return marked
        raise AssertionError("nothing fits")

    assert chosen(parse(name)) == scope


@pytest.mark.parametrize(("document", "reason"), [
    ("{", "malformed"), ("{}", "default"), ('{"default": []}', "not empty"),
    ('{"default": [{"type": "signedBy", "keyType": "GPGKeys"}]}', "signedBy"),
    ('{"default": [{"type": "reject", "maybe": true}]}', "maybe"), ('{"default": [{"type": "reject"}], "x": 1}', "x"),
    ('{"default": [{"type": "sigstoreSigned"}]}', "one of keyPath"),
    ('{"default": [{"type": "sigstoreSigned", "keyPath": "/proc/none"}]}', "No such file"),
    ('{"default": [{"type": "sigstoreSigned", "keyData": "AAAA"}]}', "not a public key"),
    ('{"default": [{"type": "notationSigned", "trustStore": "/proc/none"}]}', "No such file"),
])
def test_bad_policies(tmp_path: Path, document: str, reason: str) -> None:
    (tmp_path / "policy.json").write_text(document)
    with pytest.raises(BadPolicy, match=reason):
        load(str(tmp_path / "policy.json"))


def test_without_cryptography_a_policy_with_keys_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "cryptography", None)
    (tmp_path / "key.pub").write_bytes(public(EC))
    path = tmp_path / "policy.json"
    path.write_text(json.dumps({"default": [{"type": "sigstoreSigned", "keyPath": str(tmp_path / "key.pub")}]}))
    with pytest.raises(keys.NoCryptography, match="the package cryptography is missing"):
        load(str(path))
    path.write_text('{"default": [{"type": "reject"}]}')
    assert load(str(path)).scopes == {}
