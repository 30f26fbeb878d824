"""Entries of a transparency log (Rekor, version 1), by the log's promise to include them: its signature over each.

The promise ("signed entry timestamp") covers the canonical JSON (RFC 8785) of the entry's body, time, index and log.
What is believed of an entry is its time, and only for the signature, the signer and the data that its body names.
https://github.com/sigstore/rekor/blob/main/types.md
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import msgspec

from barque.image.trust.keys import BadSignature, fits, pem_documents
from barque.oci import go_json

if TYPE_CHECKING:
    from barque.image.trust.keys import PublicKey


@dataclass(frozen=True)
class Entry:
    """``body``: base64, as the log signed it; ``time``: seconds since 1970; ``promise``: the log's signature."""

    body: str
    time: int
    index: int
    log: str
    promise: bytes


class _Text(msgspec.Struct):
    content: str = ""


class _Hash(msgspec.Struct):
    algorithm: str = ""
    value: str = ""


class _Data(msgspec.Struct):
    hash: _Hash = msgspec.field(default_factory=_Hash)


class _Signature(msgspec.Struct, rename="camel"):
    content: str = ""
    public_key: _Text = msgspec.field(default_factory=_Text)


class _EnvelopeSignature(msgspec.Struct):
    signature: str = ""
    verifier: str = ""


class _Spec(msgspec.Struct, rename="camel"):
    """Of both kinds: ``hashedrekord`` has data and signature, ``dsse`` the others."""

    data: _Data = msgspec.field(default_factory=_Data)
    signature: _Signature = msgspec.field(default_factory=_Signature)
    payload_hash: _Hash = msgspec.field(default_factory=_Hash)
    signatures: list[_EnvelopeSignature] = []


class _Body(msgspec.Struct, rename="camel"):
    api_version: str = ""
    kind: str = ""
    spec: _Spec = msgspec.field(default_factory=_Spec)


def logged_at(keys: Sequence[PublicKey], entry: Entry | None, *, signature: bytes, payload: bytes,
              signer: bytes) -> datetime:
    """When the log saw this ``signature`` of ``payload`` by the key or certificate ``signer`` (DER).

    Raises :class:`BadSignature`.
    """
    if entry is None:
        raise BadSignature("the signature has no promise of the transparency log")
    signed = json.dumps({"body": entry.body, "integratedTime": entry.time, "logID": entry.log, "logIndex": entry.index},
                        sort_keys=True, separators=(",", ":"))
    if not any(fits(key, entry.promise, signed.encode()) for key in keys):
        raise BadSignature("the promise of the transparency log is by none of its keys")
    try:
        named = _named(go_json.decode(base64.b64decode(entry.body, validate=True), _Body))
        moment = datetime.fromtimestamp(entry.time, UTC)
    except BadSignature:
        raise
    except (ValueError, OverflowError, OSError, go_json.InvalidJSON):
        raise BadSignature("the entry of the transparency log cannot be read") from None
    if named != (signature, hashlib.sha256(payload).hexdigest(), signer):
        raise BadSignature("the entry of the transparency log is of another signature")
    return moment


def _named(body: _Body) -> tuple[bytes, str, bytes]:
    """Signature, digest of the payload and signer that the entry is about. Raises ValueError."""
    spec = body.spec
    if (body.kind, body.api_version) == ("hashedrekord", "0.0.1"):
        signature, signer, digest = spec.signature.content, spec.signature.public_key.content, spec.data.hash
    elif (body.kind, body.api_version) == ("dsse", "0.0.1") and len(spec.signatures) == 1:
        signature, signer, digest = spec.signatures[0].signature, spec.signatures[0].verifier, spec.payload_hash
    else:
        raise BadSignature(f"entries {body.kind!r} {body.api_version} of the transparency log are not supported")
    if digest.algorithm != "sha256":
        raise BadSignature(f"digests {digest.algorithm!r} in the transparency log are not supported")
    documents = pem_documents(base64.b64decode(signer, validate=True).decode(errors="replace"))
    return base64.b64decode(signature, validate=True), digest.value, b"".join(documents)
