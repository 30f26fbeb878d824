"""Blob routes: GET and HEAD with Range, DELETE (distribution-spec, end-2 and end-10)."""

from __future__ import annotations

from aiohttp import hdrs, web

from barque.registry.errors import RegistryError
from barque.registry.names import digest_of, repository_of
from barque.registry.storage.base import BlobStorage

#: Up to here, in bytes, reading at once costs less than the set-up of sendfile(2) in a thread.
_SMALL = 128 << 10


class BlobRoutes:
    def __init__(self, blobs: BlobStorage) -> None:
        self._blobs = blobs

    def routes(self) -> list[web.RouteDef]:
        path = "/v2/{name:.+}/blobs/{digest:[^/]+}"
        return [web.get(path, self.read), web.delete(path, self.delete)]

    async def read(self, request: web.Request) -> web.StreamResponse:
        digest = digest_of(request.match_info["digest"])
        blob = await self._blobs.get(repository_of(request), digest)
        if blob is None:
            raise RegistryError("BLOB_UNKNOWN", {"digest": digest})
        headers = {"Docker-Content-Digest": str(digest), hdrs.ACCEPT_RANGES: "bytes",
                   hdrs.CONTENT_TYPE: "application/octet-stream", hdrs.CACHE_CONTROL: "max-age=31536000"}
        if request.method == hdrs.METH_HEAD:
            headers[hdrs.CONTENT_LENGTH] = str(blob.size)
            return web.Response(headers=headers)
        if blob.size > _SMALL or hdrs.RANGE in request.headers:
            return web.FileResponse(blob.path, headers=headers)
        return web.Response(body=blob.read(), headers=headers)

    async def delete(self, request: web.Request) -> web.Response:
        digest = digest_of(request.match_info["digest"])
        if not await self._blobs.delete(repository_of(request), digest):
            raise RegistryError("BLOB_UNKNOWN", {"digest": digest})
        return web.Response(status=202)
