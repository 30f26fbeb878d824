"""What there is: tags, referrers and the catalog (distribution-spec, end-8 and end-12; docker's ``_catalog``)."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

import msgspec
from aiohttp import hdrs, web

from barque.oci import media_types as mt
from barque.oci.digest import Digest
from barque.registry.errors import RegistryError
from barque.registry.names import page, reference_of, repository_of
from barque.registry.storage.base import ManifestStorage


class ListRoutes:
    def __init__(self, manifests: ManifestStorage) -> None:
        self._manifests = manifests

    def routes(self) -> list[web.RouteDef]:
        return [web.get("/v2/_catalog", self.catalog), web.get("/v2/{name:.+}/tags/list", self.tags),
                web.get("/v2/{name:.+}/referrers/{reference:[^/]+}", self.referrers)]

    async def catalog(self, request: web.Request) -> web.Response:
        chosen, last = page(request, await self._manifests.repositories())
        return _paged(request, {"repositories": chosen}, last)

    async def tags(self, request: web.Request) -> web.Response:
        repository = repository_of(request)
        if not await self._manifests.exists(repository):
            raise RegistryError("NAME_UNKNOWN", {"name": repository})
        chosen, last = page(request, await self._manifests.tags(repository))
        return _paged(request, {"name": repository, "tags": chosen}, last)

    async def referrers(self, request: web.Request) -> web.Response:
        repository = repository_of(request)
        subject = reference_of(request)
        if not isinstance(subject, Digest):
            raise RegistryError("DIGEST_INVALID", {"digest": subject})
        found = await self._manifests.referrers(repository, subject)
        wanted = request.query.get("artifactType", "")
        headers = {"Content-Type": mt.OCI_INDEX}
        if wanted:
            found = [entry for entry in found if entry.artifact_type == wanted]
            headers["OCI-Filters-Applied"] = "artifactType"
        index = {"schemaVersion": 2, "mediaType": mt.OCI_INDEX, "manifests": found}
        return web.Response(body=msgspec.json.encode(index), headers=headers)


def _paged(request: web.Request, body: dict[str, Any], last: str | None) -> web.Response:
    response = web.Response(body=msgspec.json.encode(body), content_type="application/json")
    if last is not None:
        query = urlencode({"last": last, "n": request.query["n"]})
        response.headers[hdrs.LINK] = f'<{request.rel_url.path}?{query}>; rel="next"'
    return response
