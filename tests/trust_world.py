"""A registry with an image to sign, a store to pull it into under a signature policy, keys and certificates."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from barque.image.fetch import Limits, Puller
from barque.image.trust.check import NotTrusted, TrustCheck, remembered
from barque.image.trust.policy import load
from barque.oci.reference import parse
from barque.store.workers import SubprocessWorkers
from tests.image_world import INDEX, MANIFEST, FaultyRegistry, World, digest, faulty_registry, make_image, world

IMAGE = make_image({"a": b"trusted"})
SIGNED = digest(IMAGE.manifest)
EC, RSA = ec.generate_private_key(ec.SECP256R1()), rsa.generate_private_key(65537, 2048)
OTHER_KEY = ec.generate_private_key(ec.SECP256R1())


def public(key: Any) -> bytes:
    pem: bytes = key.public_key().public_bytes(serialization.Encoding.PEM,
                                               serialization.PublicFormat.SubjectPublicKeyInfo)
    return pem


def put(registry: FaultyRegistry, selector: str, document: dict[str, Any], blobs: list[bytes]) -> bytes:
    body = json.dumps({"schemaVersion": 2, "mediaType": MANIFEST, **document}).encode()
    registry.manifests[f"app:{selector or digest(body)}"] = (MANIFEST, body)
    registry.blobs.update({digest(blob): blob for blob in blobs})
    return body


def empty() -> dict[str, Any]:
    return {"mediaType": "application/vnd.oci.empty.v1+json", "digest": digest(b"{}"), "size": 2}


def refer(registry: FaultyRegistry, signed: str, body: bytes, kind: str) -> None:
    """As a registry that does not know the referrers API has it."""
    index = json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": [
        {"mediaType": MANIFEST, "digest": digest(body), "size": len(body), "artifactType": kind}]}).encode()
    registry.manifests[f"app:{signed.replace(':', '-')}"] = (INDEX, index)


def certificate(key: Any, name: str, issuer: x509.Certificate | None, issuer_key: Any, *, authority: bool = False,
                days: int = 1, purpose: Any = ExtendedKeyUsageOID.CODE_SIGNING) -> x509.Certificate:
    subject = x509.Name([x509.NameAttribute(NameOID.COUNTRY_NAME, "XX"),
                         x509.NameAttribute(NameOID.ORGANIZATION_NAME, name)])
    now = datetime.now(UTC)
    builder = (x509.CertificateBuilder().subject_name(subject).issuer_name(issuer.subject if issuer else subject)
               .public_key(key.public_key()).serial_number(x509.random_serial_number())
               .not_valid_before(now - timedelta(days=3)).not_valid_after(now + timedelta(days=days))
               .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True))
    if not authority:
        builder = builder.add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
    return builder.sign(issuer_key, hashes.SHA256())


@dataclass
class Site:
    """A registry with the image, and a store to pull it into."""

    path: Path
    registry: FaultyRegistry
    here: World

    async def pull(self, *requirements: dict[str, Any]) -> list[dict[str, object]]:
        """The signatures that were found good; what is refused leaves nothing."""
        path, name = self.path / "policy.json", f"{self.registry.address}/app:1"
        path.write_text(json.dumps({"default": [{"type": "reject"}],
                                    "transports": {"docker": {self.registry.address: list(requirements)}}}))
        puller = Puller(self.here.content, self.here.snapshots, self.here.leases, self.here.names, SubprocessWorkers(),
                        self.here.transport, Limits(attempts=1), TrustCheck(load(str(path))))
        try:
            pulled = await puller.pull(parse(name), None, None, lambda _: None)
        except NotTrusted:
            await self.here.assert_empty()
            raise
        finally:
            puller.close()
        found = await remembered(self.here.content, pulled.target.digest)
        assert await self.here.images.signatures(await self.here.images.resolve(name)) == found
        return found

    def forget(self) -> None:
        """Drop every signature."""
        self.registry.manifests.clear()
        self.registry.add("app", "1", IMAGE)


@asynccontextmanager
async def signing_site(path: Path) -> AsyncIterator[Site]:
    async with faulty_registry() as registry, world(path / "root") as here:
        registry.add("app", "1", IMAGE)
        yield Site(path, registry, here)
