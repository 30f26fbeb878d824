"""What there is: tags, referrers and the catalog (distribution-spec, end-8 and end-12; docker's ``_catalog``)."""

from __future__ import annotations

from typing import Any

import msgspec

from barque.oci import media_types as mt
from barque.oci.digest import Digest
from barque.registry.errors import RegistryError
from barque.registry.http.messages import Request, Response, json_response
from barque.registry.http.routes import Route
from barque.registry.names import page, reference_of, repository_of
from barque.registry.storage.base import ManifestStorage


class ListRoutes:
    def __init__(self, manifests: ManifestStorage) -> None:
        self._manifests = manifests

    def routes(self) -> list[Route]:
        return [Route("GET", "/v2/_catalog", self.catalog), Route("GET", "/v2/{name}/tags/list", self.tags),
                Route("GET", "/v2/{name}/referrers/{reference}", self.referrers)]

    async def catalog(self, request: Request) -> Response:
        chosen, last = page(request, await self._manifests.repositories())
        return _paged(request, {"repositories": chosen}, last)

    async def tags(self, request: Request) -> Response:
        repository = repository_of(request)
        if not await self._manifests.exists(repository):
            raise RegistryError("NAME_UNKNOWN", {"name": repository})
        chosen, last = page(request, await self._manifests.tags(repository))
        return _paged(request, {"name": repository, "tags": chosen}, last)

    async def referrers(self, request: Request) -> Response:
        repository = repository_of(request)
        subject = reference_of(request)
        if not isinstance(subject, Digest):
            raise RegistryError("DIGEST_INVALID", {"digest": subject})
        found = await self._manifests.referrers(repository, subject)
        wanted = request.query.get("artifactType")
        headers = {"Content-Type": mt.OCI_INDEX}
        if wanted:
            found = [entry for entry in found if entry.artifact_type == wanted]
            headers["OCI-Filters-Applied"] = "artifactType"
        index = {"schemaVersion": 2, "mediaType": mt.OCI_INDEX, "manifests": found}
        return Response(200, headers, msgspec.json.encode(index))


def _paged(request: Request, body: dict[str, Any], last: str | None) -> Response:
    headers = {}
    if last is not None:  # neither names nor numbers have anything in them that a URL spells otherwise
        headers["Link"] = f'<{request.path}?last={last}&n={request.query["n"]}>; rel="next"'
    return json_response(body, headers=headers)
