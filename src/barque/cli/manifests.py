"""Manifests of images in registries, and the lists of them that ``manifest create`` keeps until they are pushed.

On disk as docker has it: ``manifests/<list>/<image>`` in the directory of the configuration, one document per image.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import shutil
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import msgspec

from barque.image.client import uploads
from barque.image.client.auth import Credentials
from barque.image.client.endpoints import Registry
from barque.image.client.hosts import HostConfig
from barque.image.client.repository import Repository
from barque.image.client.transport import Transport
from barque.oci import media_types as mt
from barque.oci.digest import Digest
from barque.oci.manifest import Index, parse
from barque.oci.reference import Reference

T = TypeVar("T")
CERTIFICATES = "/etc/docker/certs.d"


class ManifestError(Exception):
    """A manifest or list that is missing or cannot be used; the message is docker's."""


class Fetched(msgspec.Struct):
    """A manifest as the registry has it; ``platform`` of an image as its configuration says."""

    body: bytes
    media_type: str
    digest: str
    platform: dict[str, Any] = {}

    @property
    def is_list(self) -> bool:
        return self.media_type in mt.INDEXES

    def entry(self, ref: Reference) -> dict[str, Any]:
        """The document that is kept of it."""
        kind = "SchemaV2Manifest" if self.media_type == mt.DOCKER_MANIFEST else "OCIManifest"
        descriptor = {"mediaType": self.media_type, "digest": self.digest, "size": len(self.body),
                      "platform": self.platform}
        return {"Ref": str(ref), "Descriptor": descriptor, "Raw": base64.b64encode(self.body).decode(),
                kind: json.loads(self.body)}


def with_registry(ref: Reference, credentials: dict[str, str], *, insecure: bool, actions: str,
                  use: Callable[[Repository], Awaitable[T]]) -> T:
    """Run ``use`` on the repository of ``ref``; raises BarqueError."""
    async def run() -> T:
        transport = Transport(HostConfig(insecure=(ref.domain,) if insecure else (), certs_dir=CERTIFICATES))
        try:
            known = msgspec.convert(credentials, Credentials) if credentials else None
            return await Registry(transport).attempt(ref, known, actions, use)
        finally:
            await transport.close()

    return asyncio.run(run())


def fetch(ref: Reference, credentials: dict[str, str], *, insecure: bool) -> Fetched:
    """The manifest or list that ``ref`` names; raises BarqueError."""
    async def use(repository: Repository) -> Fetched:
        body, media_type, digest = await repository.manifest(ref.selector)
        document = parse(body, media_type)
        if isinstance(document, Index):
            return Fetched(body, document.media_type or media_type, digest)
        config = json.loads(await repository.small_blob(document.config.checked_digest))
        platform = {key: config[key] for key in ("architecture", "os", "os.version", "os.features", "variant")
                    if config.get(key)}
        return Fetched(body, document.media_type or media_type, digest, platform)

    return with_registry(ref, credentials, insecure=insecure, actions="pull", use=use)


def index_of(entries: list[dict[str, Any]]) -> tuple[str, dict[str, Any]]:
    """(media type, document) of the list of these images."""
    kinds = {entry["Descriptor"]["mediaType"] for entry in entries}
    media_type = mt.OCI_INDEX if kinds == {mt.OCI_MANIFEST} else mt.DOCKER_MANIFEST_LIST
    return media_type, {"schemaVersion": 2, "mediaType": media_type,
                        "manifests": [entry["Descriptor"] for entry in entries]}


def push(target: Reference, entries: list[tuple[Reference, dict[str, Any]]], credentials: dict[str, str], *,
         insecure: bool) -> str:
    """Put the images' manifests beside the list, then the list; gives its digest. Raises BarqueError."""
    media_type, document = index_of([entry for _, entry in entries])
    body = json.dumps(document, indent=3).encode()

    async def use(repository: Repository) -> str:
        for source, entry in entries:
            if source.path != target.path:
                await _copy(repository, source.path, entry)
        return await uploads.put_manifest(repository, target.selector, media_type, body)

    return with_registry(target, credentials, insecure=insecure, actions="pull,push", use=use)


async def _copy(repository: Repository, source: str, entry: dict[str, Any]) -> None:
    """An image of another repository of the same registry: its blobs are taken over there, not sent."""
    document = entry.get("SchemaV2Manifest") or entry["OCIManifest"]
    for descriptor in (document["config"], *document["layers"]):
        digest = Digest.parse(descriptor["digest"])
        if not await repository.has_blob(digest) and await uploads.mount(repository, digest, source) is not None:
            raise ManifestError(f"the registry does not let {repository.path} take {digest} from {source}")
    descriptor = entry["Descriptor"]
    await uploads.put_manifest(repository, descriptor["digest"], descriptor["mediaType"],
                               base64.b64decode(entry["Raw"]))


def _file_name(ref: Reference) -> str:
    return str(ref).replace(":", "-").replace("/", "_")


class ListStore:
    """The lists below ``directory``."""

    def __init__(self, directory: str) -> None:
        self._directory = directory

    def _path(self, target: Reference) -> str:
        return os.path.join(self._directory, _file_name(target))

    def exists(self, target: Reference) -> bool:
        return os.path.isdir(self._path(target))

    def entries(self, target: Reference) -> list[dict[str, Any]]:
        """Sorted by digest; raises :class:`ManifestError` where there is no such list."""
        if not self.exists(target):
            raise ManifestError(f"No such manifest: {target}")
        found = []
        for name in os.listdir(self._path(target)):
            with open(os.path.join(self._path(target), name), "rb") as file:
                found.append(json.loads(file.read()))
        return sorted(found, key=lambda entry: str(entry["Descriptor"]["digest"]))

    def entry(self, target: Reference, ref: Reference) -> dict[str, Any] | None:
        try:
            with open(os.path.join(self._path(target), _file_name(ref)), "rb") as file:
                document: dict[str, Any] = json.loads(file.read())
                return document
        except FileNotFoundError:
            return None

    def put(self, target: Reference, ref: Reference, entry: dict[str, Any]) -> None:
        os.makedirs(self._path(target), mode=0o755, exist_ok=True)
        path = os.path.join(self._path(target), _file_name(ref))
        with open(f"{path}.{os.getpid()}", "w", encoding="utf-8") as file:
            file.write(json.dumps(entry))
        os.rename(f"{path}.{os.getpid()}", path)

    def remove(self, target: Reference) -> None:
        if not self.exists(target):
            raise ManifestError(f"No such manifest: {target}")
        shutil.rmtree(self._path(target))
