"""Pushing a manifest with all that it refers to, an index included: attestations go where their image goes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from barque.image.client import uploads
from barque.image.client.auth import Credentials
from barque.image.client.endpoints import Registry
from barque.image.client.repository import Repository
from barque.image.progress import Progress, Report, short
from barque.image.sender import PushItem, Sender
from barque.oci.descriptor import Descriptor
from barque.oci.manifest import MAX_MANIFEST_SIZE, Index, parse
from barque.oci.reference import Reference
from barque.store.content import ContentStore


@dataclass(frozen=True)
class Stored:
    """A manifest or an index as it is stored, and what it refers to: manifests, or blobs."""

    descriptor: Descriptor
    body: bytes
    manifests: tuple[Descriptor, ...] = ()
    blobs: tuple[Descriptor, ...] = ()


async def stored(content: ContentStore, descriptor: Descriptor) -> Stored | None:
    """None where it is not stored, or not all that it refers to directly."""
    if await content.info(descriptor.digest) is None:
        return None
    body = await content.read(descriptor.digest, MAX_MANIFEST_SIZE)
    document = parse(body, descriptor.media_type)
    found = Stored(descriptor, body, document.manifests) if isinstance(document, Index) else \
        Stored(descriptor, body, (), (document.config, *document.layers))
    infos = [await content.info(entry.digest) for entry in (*found.manifests, *found.blobs)]
    return found if all(infos) else None


async def whole(content: ContentStore, top: Descriptor) -> list[Stored] | None:
    """``top`` and all below it, in the order in which a registry takes them; None where something is not stored."""
    found: list[Stored] = []
    pending = [top]
    while pending:
        one = await stored(content, pending.pop())
        if one is None:
            return None
        found.append(one)
        pending += one.manifests
    return found[::-1]


async def push_whole(registry: Registry, content: ContentStore, ref: Reference, documents: Iterable[Stored],
                     credentials: Credentials | None, report: Report) -> None:
    """Push what :func:`whole` gave; the last document gets the tag of ``ref``. Raises BarqueError."""
    ordered = list(documents)
    blobs = {blob.digest: blob for one in ordered for blob in one.blobs}
    items = [PushItem(blob, content.path(digest), short(digest)) for digest, blob in blobs.items()]
    top = ordered[-1]

    async def use(repository: Repository) -> None:
        await Sender(repository, report).layers(items)
        for one in ordered[:-1]:
            await uploads.put_manifest(repository, one.descriptor.digest, one.descriptor.media_type, one.body)
        await uploads.put_manifest(repository, ref.selector, top.descriptor.media_type, top.body)

    await registry.attempt(ref, credentials, "pull,push", use)
    tag, digest, size = ref.selector, str(top.descriptor.digest), len(top.body)
    report(Progress(status=f"{tag}: digest: {digest} size: {size}"))
    report(Progress(progress_detail={}, aux={"Tag": tag, "Digest": digest, "Size": size}))
