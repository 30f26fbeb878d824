"""Blob routes: GET and HEAD with Range, DELETE (distribution-spec, end-2 and end-10)."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from io import FileIO

from barque.errors import BarqueError
from barque.registry.errors import RegistryError
from barque.registry.events import record
from barque.registry.http.messages import FilePart, Request, Response
from barque.registry.http.routes import Route
from barque.registry.names import digest_of, repository_of
from barque.registry.storage.base import Blob, BlobStorage

log = logging.getLogger("barque.registry")
#: Up to here, in bytes, reading at once costs less than the set-up of sendfile(2).
_SMALL = 128 << 10
_RANGE = re.compile(r"bytes=[ \t]*([0-9]{0,18})-([0-9]{0,18})\Z", re.IGNORECASE)


class BlobRoutes:
    """``redirect``: clients fetch from the storage's own address where it has one."""

    def __init__(self, blobs: BlobStorage, *, redirect: bool = False) -> None:
        self._blobs = blobs
        self._redirect = redirect

    def routes(self) -> list[Route]:
        path = "/v2/{name}/blobs/{digest}"
        return [Route("GET", path, self.read), Route("DELETE", path, self.delete)]

    async def read(self, request: Request) -> Response:
        digest = digest_of(request.values["digest"])
        repository = repository_of(request)
        blob = await self._blobs.get(repository, digest)
        if blob is None:
            raise RegistryError("BLOB_UNKNOWN", {"digest": digest})
        headers = {"Docker-Content-Digest": str(digest), "ETag": f'"{digest}"', "Accept-Ranges": "bytes",
                   "Content-Type": "application/octet-stream", "Cache-Control": "max-age=31536000"}
        if request.knows(headers["ETag"]):
            return Response(304, headers)
        if request.method == "HEAD":
            return Response(200, headers, length=blob.size)
        record(request, "pull", repository, digest, size=blob.size)
        if self._redirect and blob.url:
            return Response(307, {**headers, "Location": blob.url})
        status, begin, end = _wanted(request, blob, headers)
        if blob.open is not None:
            return Response(status, headers, _checked(request, blob.open(begin, end)), length=end - begin)
        try:
            file = FileIO(blob.path)
        except FileNotFoundError:  # deleted a moment ago
            raise RegistryError("BLOB_UNKNOWN", {"digest": digest}) from None
        if end - begin > _SMALL:
            return Response(status, headers, FilePart(file, begin, end))
        with file:
            return Response(status, headers, os.pread(file.fileno(), end - begin, begin))

    async def delete(self, request: Request) -> Response:
        digest = digest_of(request.values["digest"])
        repository = repository_of(request)
        if await self._blobs.delete(repository, digest) is None:
            raise RegistryError("BLOB_UNKNOWN", {"digest": digest})
        record(request, "delete", repository, digest)
        return Response(202)


def _wanted(request: Request, blob: Blob, headers: dict[str, str]) -> tuple[int, int, int]:
    """Status, begin and end of the part that a Range header asks for (RFC 9110, 14.2).

    All of it for units other than bytes, and for several parts, whose answer would be one of several parts.
    """
    text, etag = request.headers.get("range", ""), headers["ETag"]
    if not text.lower().startswith("bytes=") or "," in text or request.headers.get("if-range", etag) != etag:
        return 200, 0, blob.size
    match = _RANGE.match(text)
    begin = end = blob.size
    if match is not None and match[1]:
        begin, end = int(match[1]), min(blob.size, int(match[2]) + 1) if match[2] else blob.size
    elif match is not None and match[2]:
        begin = max(0, blob.size - int(match[2]))
    if begin >= end:
        raise RegistryError("RANGE_INVALID", headers={"Content-Range": f"bytes */{blob.size}"})
    headers["Content-Range"] = f"bytes {begin}-{end - 1}/{blob.size}"
    return 206, begin, end


async def _checked(request: Request, chunks: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
    """The answer has begun: what breaks off must not look complete, so the connection goes before its promised end."""
    try:
        async with aclosing(chunks):  # type: ignore[type-var]
            async for chunk in chunks:
                yield chunk
    except (BarqueError, OSError) as error:
        log.error("%s breaks off: %s", request.path, error)
        raise ConnectionResetError from error
