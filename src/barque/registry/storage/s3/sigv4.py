"""AWS Signature Version 4 for S3: signed headers, and presigned URLs. Pure."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from urllib.parse import quote

_ALGORITHM = "AWS4-HMAC-SHA256"
_UNSIGNED = "UNSIGNED-PAYLOAD"


@lru_cache(maxsize=8)
def _signing_key(secret: str, day: str, region: str) -> bytes:
    key = b"AWS4" + secret.encode()
    for part in (day, region, "s3", "aws4_request"):
        key = hmac.digest(key, part.encode(), hashlib.sha256)
    return key


def canonical_query(query: Mapping[str, str]) -> str:
    pairs = sorted((quote(name, safe="-_.~"), quote(value, safe="-_.~")) for name, value in query.items())
    return "&".join(f"{name}={value}" for name, value in pairs)


def quoted_path(path: str) -> str:
    return quote(path, safe="-_.~/")


@dataclass(frozen=True)
class Signer:
    access_key: str
    secret_key: str
    region: str

    def __repr__(self) -> str:
        return f"Signer({self.access_key!r})"

    def headers(self, method: str, host: str, path: str, query: Mapping[str, str], extra: Mapping[str, str],
                payload_hash: str, now: datetime) -> dict[str, str]:
        """``extra`` and those that sign them; ``path`` is quoted already."""
        stamp = now.strftime("%Y%m%dT%H%M%SZ")
        signed = {"host": host, "x-amz-content-sha256": payload_hash, "x-amz-date": stamp,
                  **{name.lower(): value.strip() for name, value in extra.items()}}
        names = ";".join(sorted(signed))
        signature = self._signature(method, path, canonical_query(query), signed, payload_hash, stamp)
        authorization = (f"{_ALGORITHM} Credential={self.access_key}/{self._scope(stamp)}, SignedHeaders={names}, "
                         f"Signature={signature}")
        return {**extra, "x-amz-content-sha256": payload_hash, "x-amz-date": stamp, "Authorization": authorization}

    def presigned_query(self, method: str, host: str, path: str, life: int, now: datetime) -> str:
        """The query of a URL that needs no headers for ``life`` seconds."""
        stamp = now.strftime("%Y%m%dT%H%M%SZ")
        query = {"X-Amz-Algorithm": _ALGORITHM, "X-Amz-Credential": f"{self.access_key}/{self._scope(stamp)}",
                 "X-Amz-Date": stamp, "X-Amz-Expires": str(life), "X-Amz-SignedHeaders": "host"}
        text = canonical_query(query)
        return f"{text}&X-Amz-Signature={self._signature(method, path, text, {'host': host}, _UNSIGNED, stamp)}"

    def _scope(self, stamp: str) -> str:
        return f"{stamp[:8]}/{self.region}/s3/aws4_request"

    def _signature(self, method: str, path: str, query: str, headers: Mapping[str, str], payload_hash: str,
                   stamp: str) -> str:
        names = sorted(headers)
        request = "\n".join([method, path, query, *(f"{name}:{headers[name]}" for name in names), "",
                             ";".join(names), payload_hash])
        digest = hashlib.sha256(request.encode()).hexdigest()
        text = "\n".join([_ALGORITHM, stamp, self._scope(stamp), digest])
        key = _signing_key(self.secret_key, stamp[:8], self.region)
        return hmac.new(key, text.encode(), hashlib.sha256).hexdigest()
