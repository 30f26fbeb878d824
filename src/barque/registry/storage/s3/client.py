"""The part of S3's REST interface that the registry uses, over aiohttp. Objects are addressed by path, not by host."""

from __future__ import annotations

import asyncio
import hashlib
import io
import random
import time
import xml.etree.ElementTree as ET
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from urllib.parse import unquote, urlsplit
from xml.sax.saxutils import escape

import aiohttp
from yarl import URL

from barque.errors import Unavailable
from barque.registry.storage.s3.sigv4 import Signer, canonical_query, quoted_path

_ATTEMPTS = 5
_RETRIED = frozenset({429, 500, 502, 503, 504})
_SMALL = 64 << 10
#: A presigned URL is good for so long, in seconds.
_URL_LIFE = 1200
#: CopyObject takes at most 5 GB; larger objects are copied in parts of 1 GiB.
_COPY_LIMIT = 5_000_000_000
_COPY_PART = 1 << 30


class S3Unavailable(Unavailable):
    text = "object store: {reason}"


class S3Refused(Unavailable):
    """An answer that is an error. ``code`` is S3's word for it: NoSuchKey, AccessDenied..."""

    text = "object store: {method} {key}: {status} {code}"

    @property
    def missing(self) -> bool:
        return self.fields["status"] == 404


@dataclass(frozen=True, slots=True)
class Stored:
    """An object of a listing or an answer: ``size`` in bytes, ``at`` in seconds since the epoch."""

    key: str
    size: int
    at: float
    etag: str = ""


@dataclass(frozen=True, slots=True)
class Multipart:
    """An upload in parts to ``key`` that began at ``at``."""

    key: str
    id: str
    at: float


@dataclass(frozen=True, slots=True)
class Answer:
    body: bytes
    etag: str
    at: float


def _time(header: str | None) -> float:
    return parsedate_to_datetime(header).timestamp() if header else 0.0


def _local(name: str) -> str:
    return name.rpartition("}")[2]


class S3:
    """One bucket. ``prefix`` comes before every key."""

    def __init__(self, endpoint: str, bucket: str, signer: Signer, prefix: str = "") -> None:
        parts = urlsplit(endpoint)
        self._origin = f"{parts.scheme}://{parts.netloc}"
        self._host = parts.netloc
        self._base = f"{parts.path.rstrip('/')}/{bucket}"
        self._signer = signer
        self._prefix = prefix
        self._session: aiohttp.ClientSession | None = None
        self._skew = 0.0

    def now(self) -> float:
        """The store's clock, to a second or so: ages of objects are told by one clock only."""
        return time.time() + self._skew

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    def _opened(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                auto_decompress=False, read_bufsize=1 << 20, cookie_jar=aiohttp.DummyCookieJar(),
                connector=aiohttp.TCPConnector(limit=64),
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=60))
        return self._session

    def _path(self, key: str | None) -> str:
        return quoted_path(self._base if key is None else f"{self._base}/{self._prefix}{key}")

    @asynccontextmanager
    async def _ask(self, method: str, key: str | None, *, query: Mapping[str, str] | None = None, body: bytes = b"",
                   headers: Mapping[str, str] | None = None) -> AsyncIterator[aiohttp.ClientResponse]:
        """Raises S3Refused and S3Unavailable, after some tries where trying again may help."""
        if len(body) > _SMALL:
            payload_hash = (await asyncio.to_thread(hashlib.sha256, body)).hexdigest()
        else:
            payload_hash = hashlib.sha256(body).hexdigest()
        path = self._path(key)
        url = URL(f"{self._origin}{path}?{canonical_query(query or {})}".rstrip("?"), encoded=True)
        for attempt in range(_ATTEMPTS):
            if attempt:
                await asyncio.sleep(0.1 * 2 ** attempt * random.uniform(0.75, 1.25))
            signed = self._signer.headers(method, self._host, path, query or {}, headers or {}, payload_hash,
                                          datetime.now(UTC))
            try:
                response = await self._opened().request(method, url, data=io.BytesIO(body), headers=signed,
                                                        skip_auto_headers=("Content-Type",))
            except (aiohttp.ClientError, OSError, TimeoutError) as error:
                if attempt + 1 == _ATTEMPTS:
                    raise S3Unavailable(reason=str(error) or type(error).__name__) from error
                continue
            async with response:
                if "Date" in response.headers:
                    self._skew = _time(response.headers["Date"]) - time.time()
                if response.status in _RETRIED and attempt + 1 < _ATTEMPTS:
                    continue
                if response.status >= 300:
                    raise S3Refused(method=method, key=key, status=response.status, code=_code(await response.read()))
                yield response
                return

    async def get(self, key: str) -> Answer | None:
        """A small object whole; ``None`` if there is none."""
        try:
            async with self._ask("GET", key) as response:
                return Answer(await response.read(), response.headers.get("ETag", ""),
                              _time(response.headers.get("Last-Modified")))
        except S3Refused as error:
            if error.missing:
                return None
            raise
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise S3Unavailable(reason=str(error) or type(error).__name__) from error

    async def read(self, key: str, begin: int, end: int) -> AsyncIterator[bytes]:
        """The bytes from ``begin`` up to ``end``; a broken connection is taken up where it broke."""
        tries = 0
        while begin < end:
            try:
                async with self._ask("GET", key, headers={"Range": f"bytes={begin}-{end - 1}"}) as response:
                    while chunk := await response.content.readany():
                        begin += len(chunk)
                        tries = 0
                        yield chunk
            except (aiohttp.ClientError, OSError, TimeoutError) as error:
                tries += 1
                if tries == _ATTEMPTS:
                    raise S3Unavailable(reason=str(error) or type(error).__name__) from error

    async def head(self, key: str) -> Stored | None:
        try:
            async with self._ask("HEAD", key) as response:
                return Stored(key, int(response.headers.get("Content-Length", 0)),
                              _time(response.headers.get("Last-Modified")), response.headers.get("ETag", ""))
        except S3Refused as error:
            if error.missing:
                return None
            raise

    async def put(self, key: str, body: bytes) -> str:
        """Durable when this returns; the object's ETag."""
        async with self._ask("PUT", key, body=body) as response:
            return response.headers.get("ETag", "")

    async def delete(self, key: str) -> None:
        """No error if it is not there."""
        try:
            async with self._ask("DELETE", key):
                pass
        except S3Refused as error:
            if not error.missing:
                raise

    async def objects(self, prefix: str, limit: int = 0) -> AsyncIterator[Stored]:
        """All objects whose key begins with ``prefix``, in the order of their keys; at most ``limit`` (0: all)."""
        query = {"list-type": "2", "prefix": self._prefix + prefix, "encoding-type": "url",
                 "max-keys": str(limit or 1000)}
        while True:
            async with self._ask("GET", None, query=query) as response:
                tree = _parse(await response.read())
            for entry in tree:
                if _local(entry.tag) == "Contents":
                    fields = {_local(field.tag): field.text or "" for field in entry}
                    yield Stored(unquote(fields["Key"])[len(self._prefix):], int(fields["Size"]),
                                 datetime.fromisoformat(fields["LastModified"]).timestamp(), fields.get("ETag", ""))
            following = next((field.text for field in tree if _local(field.tag) == "NextContinuationToken"), None)
            if limit or not following:
                return
            query["continuation-token"] = following

    async def start_multipart(self, key: str) -> str:
        async with self._ask("POST", key, query={"uploads": ""}) as response:
            return _field(_parse(await response.read()), "UploadId")

    async def put_part(self, key: str, upload: str, number: int, body: bytes) -> str:
        """The part's ETag; a part that is sent again replaces the former one."""
        query = {"partNumber": str(number), "uploadId": upload}
        async with self._ask("PUT", key, query=query, body=body) as response:
            return response.headers["ETag"]

    async def finish_multipart(self, key: str, upload: str, etags: list[str]) -> None:
        parts = "".join(f"<Part><PartNumber>{number}</PartNumber><ETag>{escape(etag)}</ETag></Part>"
                        for number, etag in enumerate(etags, 1))
        body = f"<CompleteMultipartUpload>{parts}</CompleteMultipartUpload>".encode()
        async with self._ask("POST", key, query={"uploadId": upload}, body=body) as response:
            # The status is sent before the work is done: a failure comes as the body of a 200.
            tree = _parse(await response.read())
            if _local(tree.tag) == "Error":
                raise S3Refused(method="POST", key=key, status=500, code=_field(tree, "Code"))

    async def abort_multipart(self, key: str, upload: str) -> None:
        try:
            async with self._ask("DELETE", key, query={"uploadId": upload}):
                pass
        except S3Refused as error:
            if not error.missing:
                raise

    async def multiparts(self) -> list[Multipart]:
        """Those that were begun and neither finished nor aborted."""
        found: list[Multipart] = []
        query = {"uploads": "", "prefix": self._prefix, "encoding-type": "url"}
        while True:
            async with self._ask("GET", None, query=query) as response:
                tree = _parse(await response.read())
            for entry in tree:
                if _local(entry.tag) == "Upload":
                    found.append(Multipart(unquote(_field(entry, "Key"))[len(self._prefix):], _field(entry, "UploadId"),
                                           datetime.fromisoformat(_field(entry, "Initiated")).timestamp()))
            if _field(tree, "IsTruncated") != "true":
                return found
            query |= {"key-marker": unquote(_field(tree, "NextKeyMarker")),
                      "upload-id-marker": _field(tree, "NextUploadIdMarker")}

    async def copy(self, source: str, target: str, size: int) -> None:
        """Inside the store: no byte comes here."""
        header = {"x-amz-copy-source": self._path(source)}
        if size <= _COPY_LIMIT:
            async with self._ask("PUT", target, headers=header) as response:
                tree = _parse(await response.read())
                if _local(tree.tag) == "Error":
                    raise S3Refused(method="PUT", key=target, status=500, code=_field(tree, "Code"))
            return
        upload = await self.start_multipart(target)
        etags = []
        for number, begin in enumerate(range(0, size, _COPY_PART), 1):
            span = f"bytes={begin}-{min(begin + _COPY_PART, size) - 1}"
            async with self._ask("PUT", target, query={"partNumber": str(number), "uploadId": upload},
                                 headers={**header, "x-amz-copy-source-range": span}) as response:
                etags.append(_field(_parse(await response.read()), "ETag"))
        await self.finish_multipart(target, upload, etags)

    def url(self, key: str) -> str:
        """Where anybody may GET the object for some minutes."""
        path = self._path(key)
        query = self._signer.presigned_query("GET", self._host, path, _URL_LIFE, datetime.now(UTC))
        return f"{self._origin}{path}?{query}"


def _parse(body: bytes) -> ET.Element:
    try:
        return ET.fromstring(body)  # noqa: S314 - the store is trusted with every byte anyhow; expat limits entities
    except ET.ParseError:
        raise S3Unavailable(reason="an answer that is no XML") from None


def _field(tree: ET.Element, name: str) -> str:
    return next((field.text or "" for field in tree if _local(field.tag) == name), "")


def _code(body: bytes) -> str:
    try:
        return _field(ET.fromstring(body), "Code")  # noqa: S314
    except ET.ParseError:
        return ""
