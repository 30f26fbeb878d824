"""Manifest routes (distribution-spec, end-3, end-7, end-9)."""

from __future__ import annotations

import asyncio

from barque.errors import BarqueError
from barque.oci import media_types as mt
from barque.oci.digest import Digest
from barque.oci.manifest import MAX_MANIFEST_SIZE, Index, Manifest, media_type_of, parse
from barque.oci.reference import valid_tag
from barque.registry.errors import RegistryError
from barque.registry.events import record
from barque.registry.http.body import TooLarge
from barque.registry.http.messages import Request, Response
from barque.registry.http.routes import Route
from barque.registry.names import reference_of, repository_of
from barque.registry.referrers import as_referrer
from barque.registry.storage.base import Storage, StoredManifest


async def _read_body(request: Request) -> bytes:
    try:
        return await request.body.read(MAX_MANIFEST_SIZE)
    except TooLarge:
        raise RegistryError("MANIFEST_INVALID", f"more than {MAX_MANIFEST_SIZE} bytes", status=413) from None


def _parse(body: bytes, media_type: str) -> Manifest | Index:
    try:
        return parse(body, media_type)
    except BarqueError as error:
        raise RegistryError("MANIFEST_INVALID", error.message) from None


def _content_type(request: Request) -> str:
    text = request.headers.get("content-type", "").partition(";")[0].strip()
    if not text.isascii() or not text.isprintable() or len(text) > 255:
        raise RegistryError("MANIFEST_INVALID", "bad Content-Type")
    return text


class ManifestRoutes:
    """``sparse``: manifests may name what the repository does not hold."""

    def __init__(self, storage: Storage, *, sparse: bool = False) -> None:
        self._storage = storage
        self._sparse = sparse
        self._blobs = storage.blobs
        self._manifests = storage.manifests

    def routes(self) -> list[Route]:
        path = "/v2/{name}/manifests/{reference}"
        return [Route("GET", path, self.read), Route("PUT", path, self.write), Route("DELETE", path, self.delete)]

    async def _resolve(self, repository: str, reference: Digest | str) -> Digest:
        digest = reference if isinstance(reference, Digest) else await self._manifests.resolve(repository, reference)
        if digest is None:
            raise RegistryError("MANIFEST_UNKNOWN", f"unknown tag={reference}")
        return digest

    async def read(self, request: Request) -> Response:
        repository = repository_of(request)
        digest = await self._resolve(repository, reference_of(request))
        manifest = await self._manifests.get(repository, digest)
        if manifest is None:
            raise RegistryError("MANIFEST_UNKNOWN", f"unknown manifest revision={digest}")
        headers = {"Docker-Content-Digest": str(digest), "ETag": f'"{digest}"',
                   "Content-Type": manifest.media_type}
        if request.knows(headers["ETag"]):
            return Response(304, headers)
        if request.method == "GET":
            record(request, "pull", repository, digest, size=len(manifest.body), media_type=manifest.media_type,
                   tag=request.values["reference"] if ":" not in request.values["reference"] else "")
        return Response(200, headers, manifest.body)

    async def write(self, request: Request) -> Response:
        repository = repository_of(request)
        reference = reference_of(request)
        content_type = _content_type(request)
        body = await _read_body(request)
        document = _parse(body, content_type)
        media_type = media_type_of(document, content_type)
        digest = Digest.of(body, reference.algorithm if isinstance(reference, Digest) else "sha256")
        if isinstance(reference, Digest) and reference != digest:
            raise RegistryError("DIGEST_INVALID", {"digest": reference, "computed": digest})
        tags = self._tags(request, reference)
        referrer = None
        if document.subject is not None:
            referrer = (document.subject.checked_digest, as_referrer(document, media_type, digest, len(body)))

        async def store() -> None:
            if not self._sparse:
                await self._check_references(repository, document)
            await self._manifests.put(repository, StoredManifest(digest, media_type, body), tags, referrer)

        await asyncio.shield(self._storage.guarded(repository, store))
        for tag in tags or ("",):
            record(request, "push", repository, digest, size=len(body), media_type=media_type, tag=tag)
        headers = {"Location": f"/v2/{repository}/manifests/{digest}", "Docker-Content-Digest": str(digest)}
        if document.subject is not None:
            headers["OCI-Subject"] = document.subject.digest
        response = Response(201, headers)
        for tag in tags if isinstance(reference, Digest) else ():
            response.headers.append(("OCI-Tag", tag))
        return response

    @staticmethod
    def _tags(request: Request, reference: Digest | str) -> tuple[str, ...]:
        if not isinstance(reference, Digest):
            return (reference,)
        tags = tuple(request.query.getall("tag"))
        for tag in tags:
            if not valid_tag(tag):
                raise RegistryError("TAG_INVALID", {"tag": tag})
        return tags

    async def _check_references(self, repository: str, document: Manifest | Index) -> None:
        """What a manifest names must be there already, but for its subject and what lies elsewhere by licence."""
        if isinstance(document, Index):
            for entry in document.manifests:
                if await self._manifests.get(repository, entry.checked_digest) is None:
                    raise RegistryError("MANIFEST_BLOB_UNKNOWN", {"digest": entry.digest})
            return
        for entry in (document.config, *document.layers):
            if entry.urls and (entry.media_type == mt.DOCKER_FOREIGN_LAYER_GZIP
                               or entry.media_type.startswith(mt.OCI_NONDIST_LAYER)):
                continue
            blob = await self._blobs.get(repository, entry.checked_digest)
            if blob is None:
                raise RegistryError("MANIFEST_BLOB_UNKNOWN", {"digest": entry.digest})
            if blob.size != entry.size:
                raise RegistryError("MANIFEST_INVALID",
                                    f"{entry.digest} has {blob.size} bytes, the manifest says {entry.size}")

    async def delete(self, request: Request) -> Response:
        repository = repository_of(request)
        reference = reference_of(request)
        if not isinstance(reference, Digest):
            if not await self._manifests.untag(repository, reference):
                raise RegistryError("MANIFEST_UNKNOWN", f"unknown tag={reference}")
            record(request, "delete", repository, "", media_type="tag", tag=reference)
            return Response(202)
        manifest = await self._manifests.get(repository, reference)
        if manifest is None:
            raise RegistryError("MANIFEST_UNKNOWN", f"unknown manifest revision={reference}")
        subject = parse(manifest.body, manifest.media_type).subject
        await self._manifests.delete(repository, reference, subject.checked_digest if subject else None)
        record(request, "delete", repository, reference, size=len(manifest.body), media_type=manifest.media_type)
        return Response(202)
