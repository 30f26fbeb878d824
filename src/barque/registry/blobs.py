"""Blob routes: GET and HEAD with Range, DELETE (distribution-spec, end-2 and end-10)."""

from __future__ import annotations

import contextlib
import logging

from aiohttp import hdrs, web

from barque.errors import BarqueError
from barque.registry.errors import RegistryError
from barque.registry.events import record
from barque.registry.names import digest_of, repository_of
from barque.registry.storage.base import Blob, BlobStorage

log = logging.getLogger("barque.registry")
#: Up to here, in bytes, reading at once costs less than the set-up of sendfile(2).
_SMALL = 128 << 10


class BlobRoutes:
    """``redirect``: clients fetch from the storage's own address where it has one."""

    def __init__(self, blobs: BlobStorage, *, redirect: bool = False) -> None:
        self._blobs = blobs
        self._redirect = redirect

    def routes(self) -> list[web.RouteDef]:
        path = "/v2/{name:.+}/blobs/{digest:[^/]+}"
        return [web.get(path, self.read), web.delete(path, self.delete)]

    async def read(self, request: web.Request) -> web.StreamResponse:
        digest = digest_of(request.match_info["digest"])
        repository = repository_of(request)
        blob = await self._blobs.get(repository, digest)
        if blob is None:
            raise RegistryError("BLOB_UNKNOWN", {"digest": digest})
        headers = {"Docker-Content-Digest": str(digest), hdrs.ETAG: f'"{digest}"', hdrs.ACCEPT_RANGES: "bytes",
                   hdrs.CONTENT_TYPE: "application/octet-stream", hdrs.CACHE_CONTROL: "max-age=31536000"}
        if f'"{digest}"' in request.headers.get(hdrs.IF_NONE_MATCH, ""):
            return web.Response(status=304, headers=headers)
        if request.method == hdrs.METH_HEAD:
            headers[hdrs.CONTENT_LENGTH] = str(blob.size)
            return web.Response(headers=headers)
        record(request, "pull", repository, digest, size=blob.size)
        if self._redirect and blob.url:
            return web.Response(status=307, headers={**headers, hdrs.LOCATION: blob.url})
        if blob.open is not None:
            return await _stream(request, blob, headers)
        if blob.size > _SMALL or hdrs.RANGE in request.headers:
            return web.FileResponse(blob.path, headers=headers)
        with open(blob.path, "rb", buffering=0) as file:  # noqa: ASYNC230 - a trip to a thread costs more
            return web.Response(body=file.read(), headers=headers)

    async def delete(self, request: web.Request) -> web.Response:
        digest = digest_of(request.match_info["digest"])
        repository = repository_of(request)
        if await self._blobs.delete(repository, digest) is None:
            raise RegistryError("BLOB_UNKNOWN", {"digest": digest})
        record(request, "delete", repository, digest)
        return web.Response(status=202)


def _wanted(request: web.Request, blob: Blob, headers: dict[str, str]) -> tuple[int, int, int]:
    """Status, begin and end of the part that a Range header asks for (RFC 9110, 14.2); several parts are refused."""
    try:
        wanted = request.http_range
    except ValueError:
        raise RegistryError("RANGE_INVALID", headers={hdrs.CONTENT_RANGE: f"bytes */{blob.size}"}) from None
    if wanted.start is None and wanted.stop is None:
        return 200, 0, blob.size
    begin, end, _ = wanted.indices(blob.size)
    if begin >= end:
        raise RegistryError("RANGE_INVALID", headers={hdrs.CONTENT_RANGE: f"bytes */{blob.size}"})
    headers[hdrs.CONTENT_RANGE] = f"bytes {begin}-{end - 1}/{blob.size}"
    return 206, begin, end


async def _stream(request: web.Request, blob: Blob, headers: dict[str, str]) -> web.StreamResponse:
    assert blob.open is not None
    headers["Docker-Distribution-Api-Version"] = "registry/2.0"
    status, begin, end = _wanted(request, blob, headers)
    headers[hdrs.CONTENT_LENGTH] = str(end - begin)
    response = web.StreamResponse(status=status, headers=headers)
    await response.prepare(request)
    try:
        async with contextlib.aclosing(blob.open(begin, end)) as chunks:  # type: ignore[type-var]
            async for chunk in chunks:
                await response.write(chunk)
    except (BarqueError, OSError) as error:
        # The answer has begun: what breaks off must not look complete, so the connection goes before its promised end.
        log.error("%s breaks off: %s", request.path, error)
        if request.transport is not None:
            request.transport.abort()
        raise ConnectionResetError from error
    await response.write_eof()
    return response
