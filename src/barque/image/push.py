"""Pushing: the bytes that were pulled or built go to a registry unchanged."""

from __future__ import annotations

from collections.abc import Mapping

from barque.errors import InvalidArgument, NotFound
from barque.image.client import uploads
from barque.image.client.auth import Credentials
from barque.image.client.endpoints import Registry
from barque.image.client.errors import NotAuthorized, RegistryRefused
from barque.image.client.repository import MAX_CONFIG, Repository
from barque.image.client.transport import Transport
from barque.image.manifests import Manifests
from barque.image.names import ImageNames
from barque.image.progress import Progress, Report, short
from barque.image.push_index import push_whole, whole
from barque.image.sender import PushItem, Sender
from barque.image.sources import neighbours, remember
from barque.oci import go_json
from barque.oci.descriptor import Descriptor
from barque.oci.digest import Digest
from barque.oci.image import ImageConfig
from barque.oci.manifest import MAX_MANIFEST_SIZE, Index, Manifest, parse
from barque.oci.reference import Reference
from barque.store.content import ContentStore


class NothingToPush(NotFound):
    text = "An image does not exist locally with the tag: {name}"


class NoSuchTag(NotFound):
    text = "tag does not exist: {ref}"


class MissingBlob(NotFound):
    text = "content of {digest} is not stored: pull the image again before pushing it"


async def push_image(transport: Transport, ref: Reference, media_type: str, manifest: bytes,
                     blobs: Mapping[str, str], credentials: Credentials | None = None,
                     report: Report = lambda _: None) -> Digest:
    """Push a manifest (one platform's, with its bytes) and what it refers to; ``blobs``: digest -> file.

    Needs no engine. Raises BarqueError; a tag appears only when all blobs are there.
    """
    document = parse(manifest, media_type)
    if isinstance(document, Index):
        raise InvalidArgument("push_image takes the manifest of one platform, not an index")
    layers = [PushItem(layer, blobs[layer.digest], short(layer.digest)) for layer in document.layers]
    config = PushItem(document.config, blobs[document.config.digest], "")
    return await _push(Registry(transport), ref, media_type, manifest, layers, config, credentials, report)


async def _push(registry: Registry, ref: Reference, media_type: str, manifest: bytes, layers: list[PushItem],
                config: PushItem, credentials: Credentials | None, report: Report) -> Digest:
    async def use(repository: Repository) -> Digest:
        sender = Sender(repository, report)
        await sender.layers(layers)
        await sender.config(config)
        return await uploads.put_manifest(repository, ref.selector, media_type, manifest)

    try:
        digest = await registry.attempt(ref, credentials, "pull,push", use)
    except RegistryRefused as error:
        if error.code == "UNAUTHORIZED":
            raise NotAuthorized(error.message) from error
        raise
    tag = ref.selector
    report(Progress(status=f"{tag}: digest: {digest} size: {len(manifest)}"))
    report(Progress(progress_detail={}, aux={"Tag": tag, "Digest": str(digest), "Size": len(manifest)}))
    return digest


class Pusher:
    def __init__(self, content: ContentStore, names: ImageNames, transport: Transport) -> None:
        self._content = content
        self._names = names
        self._registry = Registry(transport)

    async def push(self, ref: Reference, credentials: Credentials | None, report: Report) -> None:
        """Push the image of one tag; without a tag, of all tags of the repository. Raises BarqueError."""
        if ref.digest is not None:
            raise InvalidArgument("cannot push a digest reference")
        report(Progress(status=f"The push refers to repository [{ref.name}]"))
        references = [row.reference for row in await self._names.list()]
        held = [found for found in references if found is not None and found.name == ref.name]
        if not held:
            raise NothingToPush(name=ref.familiar_name)
        wanted = [found for found in held if found.tag and (not ref.tag or found.tag == ref.tag)]
        if not wanted:
            raise NoSuchTag(ref=ref.familiar) if ref.tag else NotFound(f"no tags to push for {ref.familiar_name}")
        for found in wanted:
            await self._push(found, credentials, report)

    async def _push(self, ref: Reference, credentials: Credentials | None, report: Report) -> None:
        target = await self._names.get(str(ref))
        if target is None:
            raise NoSuchTag(ref=ref.familiar)
        top = await Manifests(self._content).top(target)
        if top.digest != target.digest and (documents := await whole(self._content, top)) is not None:
            await push_whole(self._registry, self._content, ref, documents, credentials, report)
            return
        body = await self._content.read(target.digest, MAX_MANIFEST_SIZE)
        manifest = parse(body, target.media_type)
        if not isinstance(manifest, Manifest):
            raise InvalidArgument(f"{target.digest} is not the manifest of an image")
        config = go_json.decode(await self._content.read(manifest.config.digest, MAX_CONFIG), ImageConfig)
        layers = [await self._item(layer, short(diff_id), ref)
                  for layer, diff_id in zip(manifest.layers, config.rootfs.diff_ids, strict=True)]
        await _push(self._registry, ref, target.media_type, body, layers,
                    await self._item(manifest.config, "", ref), credentials, report)
        await remember(self._content, [layer.digest for layer in manifest.layers], ref)

    async def _item(self, descriptor: Descriptor, label: str, ref: Reference) -> PushItem:
        info = await self._content.info(descriptor.digest)
        if info is None:
            raise MissingBlob(digest=descriptor.digest)
        return PushItem(descriptor, self._content.path(descriptor.digest), label, neighbours(info, ref))
