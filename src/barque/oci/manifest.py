"""Image manifests and indexes, OCI and docker schema 2, parsed from bytes that a stranger sent."""

from __future__ import annotations

from typing import Any

import msgspec

from barque.errors import DataLoss, Unsupported
from barque.oci import go_json
from barque.oci import media_types as mt
from barque.oci.descriptor import Descriptor

#: What registries accept at most for a manifest, in bytes (distribution-spec: at least 4 MiB must be accepted).
MAX_MANIFEST_SIZE = 4 << 20


class InvalidManifest(DataLoss):
    text = "invalid manifest: {reason}"


class UnsupportedMediaType(Unsupported):
    text = "unsupported manifest media type {media_type!r}"


class Manifest(msgspec.Struct, frozen=True, omit_defaults=True, rename="camel", kw_only=True):
    """One image for one platform, or an artifact."""

    schema_version: int = msgspec.field(default=0)
    media_type: str = ""
    artifact_type: str = ""
    config: Descriptor
    layers: tuple[Descriptor, ...] = ()
    subject: Descriptor | None = None
    annotations: dict[str, str] = msgspec.field(default_factory=dict)


class Index(msgspec.Struct, frozen=True, omit_defaults=True, rename="camel", kw_only=True):
    """Manifests of one image for several platforms (docker: manifest list)."""

    schema_version: int = msgspec.field(default=0)
    media_type: str = ""
    artifact_type: str = ""
    manifests: tuple[Descriptor, ...] = ()
    subject: Descriptor | None = None
    annotations: dict[str, str] = msgspec.field(default_factory=dict)


class _Probe(msgspec.Struct, rename="camel"):
    """Only what tells a manifest from an index; a document with both is ambiguous (CVE-2021-41190)."""

    schema_version: int = 0
    media_type: str = ""
    config: Any = None
    layers: Any = None
    manifests: Any = None
    fs_layers: Any = None


def parse(data: bytes, media_type: str) -> Manifest | Index:
    """Parse a manifest or index that came with the Content-Type ``media_type`` (may be empty or generic).

    Raises :class:`InvalidManifest` for what contradicts itself and :class:`UnsupportedMediaType` for schema 1 and
    unknown types.
    """
    if len(data) > MAX_MANIFEST_SIZE:
        raise InvalidManifest(reason=f"{len(data)} bytes, more than {MAX_MANIFEST_SIZE}")
    try:
        probe = go_json.decode(data, _Probe)
        kind = _kind(probe, media_type.partition(";")[0].strip())
        document = go_json.decode(data, Index) if kind in mt.INDEXES else go_json.decode(data, Manifest)
    except go_json.InvalidJSON as error:
        raise InvalidManifest(reason=error.message) from None
    _check(document)
    return document


def _kind(probe: _Probe, content_type: str) -> str:
    if probe.schema_version == 1 or content_type in (mt.DOCKER_MANIFEST_V1, mt.DOCKER_MANIFEST_V1_SIGNED):
        raise UnsupportedMediaType(media_type=content_type or mt.DOCKER_MANIFEST_V1)
    if probe.schema_version != 2:
        raise InvalidManifest(reason=f"schemaVersion {probe.schema_version}, want 2")
    if probe.manifests is not None and (probe.layers is not None or probe.config is not None):
        raise InvalidManifest(reason="has both 'manifests' and 'layers' or 'config'")
    if probe.fs_layers is not None:
        raise InvalidManifest(reason="has 'fsLayers' of schema 1")
    known = mt.INDEXES | mt.MANIFESTS
    if probe.media_type and content_type in known and probe.media_type != content_type:
        raise InvalidManifest(reason=f"mediaType {probe.media_type!r} came as Content-Type {content_type!r}")
    kind = probe.media_type or (content_type if content_type in known else "")
    if not kind:
        kind = mt.OCI_INDEX if probe.manifests is not None else mt.OCI_MANIFEST
    if kind not in known:
        raise UnsupportedMediaType(media_type=kind)
    if (kind in mt.INDEXES) != (probe.manifests is not None):
        raise InvalidManifest(reason=f"content does not fit the media type {kind!r}")
    return kind


def _check(document: Manifest | Index) -> None:
    if isinstance(document, Index):
        entries = document.manifests
    else:
        entries = (document.config, *document.layers)
    for entry in entries:
        if entry.size < 0:
            raise InvalidManifest(reason=f"negative size {entry.size} of {entry.digest}")
        if not entry.media_type:
            raise InvalidManifest(reason=f"no media type for {entry.digest}")
        entry.checked_digest  # noqa: B018 - raises on a malformed digest


def media_type_of(document: Manifest | Index, content_type: str) -> str:
    """The media type to store and send ``document`` under, given the Content-Type that it came with."""
    if document.media_type:
        return document.media_type
    if content_type in mt.INDEXES | mt.MANIFESTS:
        return content_type
    return mt.OCI_INDEX if isinstance(document, Index) else mt.OCI_MANIFEST
