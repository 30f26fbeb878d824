"""Pushing: the bytes that were pulled or built go to a registry unchanged."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace

from barque.errors import Conflict, InvalidArgument, NotFound
from barque.image.client import uploads
from barque.image.client.auth import Credentials
from barque.image.client.endpoints import Registry
from barque.image.client.errors import NotAuthorized, RegistryRefused
from barque.image.client.repository import MAX_CONFIG, Repository
from barque.image.client.transport import Transport
from barque.image.manifests import Manifests
from barque.image.names import ImageNames, NamedImage
from barque.image.progress import Bar, Progress, Report, short
from barque.image.resolve import NoSuchPlatform
from barque.image.sources import neighbours, remember
from barque.image.tasks import results, stop
from barque.image.turns import Turns
from barque.oci import go_json
from barque.oci import media_types as mt
from barque.oci.descriptor import Descriptor
from barque.oci.digest import Digest
from barque.oci.image import ImageConfig
from barque.oci.manifest import MAX_MANIFEST_SIZE, Index, Manifest, parse
from barque.oci.platform import Platform, host
from barque.oci.reference import Reference
from barque.store.content import ContentStore

#: As many layers at once as dockerd sends where nothing else is set.
UPLOADS = 5


class NothingToPush(NotFound):
    text = "An image does not exist locally with the tag: {name}"


class NoSuchTag(NotFound):
    text = "tag does not exist: {ref}"


class SeveralPlatforms(Conflict):
    text = "{ref} has several platforms here, but not all of its index: multiple matching manifests found but no " \
           "specific platform requested"


class MissingBlob(NotFound):
    text = "content of {digest} is not stored: pull the image again before pushing it"


@dataclass(frozen=True)
class PushItem:
    """A blob to send: the file with its bytes, how it is called in progress, and where else the registry has it."""

    descriptor: Descriptor
    path: str
    label: str
    sources: tuple[str, ...] = ()


@dataclass(frozen=True)
class PushPlan:
    """What goes to the registry, in this order: ``blobs``, ``children`` by their digests, ``top`` under the tag.

    Manifests are descriptors of stored blobs. ``instead_of``: the index of which just one platform can be sent.
    """

    top: Descriptor
    blobs: tuple[PushItem, ...]
    children: tuple[Descriptor, ...] = ()
    instead_of: Descriptor | None = None


async def push_image(transport: Transport, ref: Reference, media_type: str, manifest: bytes,
                     blobs: Mapping[str, str], credentials: Credentials | None = None,
                     report: Report = lambda _: None) -> Digest:
    """Push a manifest (one platform's, with its bytes) and what it refers to; ``blobs``: digest -> file.

    Needs no engine. Raises BarqueError; a tag appears only when all blobs are there.
    """
    document = parse(manifest, media_type)
    if isinstance(document, Index):
        raise InvalidArgument("push_image takes the manifest of one platform, not an index")
    items = [PushItem(layer, blobs[layer.digest], short(layer.digest)) for layer in document.layers]
    items.append(PushItem(document.config, blobs[document.config.digest], ""))
    top = Descriptor(media_type=media_type, digest=Digest.of(manifest), size=len(manifest))

    async def given(_: Descriptor) -> bytes:
        return manifest

    return await _push(Registry(transport), ref, PushPlan(top, tuple(items)), given, credentials, report,
                       Turns(UPLOADS))


async def _push(registry: Registry, ref: Reference, plan: PushPlan, read: Callable[[Descriptor], Awaitable[bytes]],
                credentials: Credentials | None, report: Report, turns: Turns) -> Digest:
    """``read``: the bytes of a manifest."""
    async def use(repository: Repository) -> Digest:
        sender = _Sender(repository, report, turns)
        await sender.layers([item for item in plan.blobs if item.label])
        for item in plan.blobs:
            if not item.label:
                await sender.config(item)
        for child in plan.children:
            await uploads.put_manifest(repository, child.digest, child.media_type, await read(child))
        return await uploads.put_manifest(repository, ref.selector, plan.top.media_type, await read(plan.top))

    try:
        digest = await registry.attempt(ref, credentials, "pull,push", use)
    except RegistryRefused as error:
        if error.code == "UNAUTHORIZED":
            raise NotAuthorized(error.message) from error
        raise
    tag = ref.selector
    report(Progress(status=f"{tag}: digest: {digest} size: {plan.top.size}"))
    report(Progress(progress_detail={}, aux={"Tag": tag, "Digest": str(digest), "Size": plan.top.size}))
    return digest


class _Sender:
    """Each layer waits for one of the ``turns``."""

    def __init__(self, repository: Repository, report: Report, turns: Turns) -> None:
        self._repository = repository
        self._report = report
        self._turns = turns

    async def layers(self, items: list[PushItem]) -> None:
        unique = {item.descriptor.digest: item for item in reversed(items)}
        for item in unique.values():
            Bar(self._report, item.label).step("Preparing")
        tasks = [asyncio.create_task(self._layer(item)) for item in unique.values()]
        try:
            await results(tasks)
        finally:
            await stop(tasks)

    async def _layer(self, item: PushItem) -> None:
        bar = Bar(self._report, item.label)
        if self._turns.locked():
            bar.step("Waiting")
        async with self._turns:
            await self.send(item, bar)

    async def config(self, item: PushItem) -> None:
        await self.send(item, Bar(lambda _: None, ""))

    async def send(self, item: PushItem, bar: Bar) -> None:
        digest = item.descriptor.checked_digest
        if await self._repository.has_blob(digest):
            bar.step("Layer already exists")
            return
        location = None
        for source in item.sources:
            location = await uploads.mount(self._repository, digest, source)
            if location is None:
                bar.step(f"Mounted from {source}")
                return
        if location is None:
            location = await uploads.begin(self._repository)
        size = item.descriptor.size
        await uploads.send_blob(self._repository, digest, item.path, location,
                                lambda sent: bar.move("Pushing", sent, size))
        bar.step("Pushed")


class Pusher:
    """``uploads`` layers at once, of all pushes together."""

    def __init__(self, content: ContentStore, names: ImageNames, transport: Transport, uploads: int = UPLOADS) -> None:
        self._content = content
        self._names = names
        self._manifests = Manifests(content)
        self._registry = Registry(transport)
        self.uploads = Turns(uploads)

    async def push(self, ref: Reference, credentials: Credentials | None, report: Report,
                   platform: Platform | None = None) -> None:
        """Push the image of one tag; without a tag, of all tags of the repository.

        Of an image with several platforms the one asked for, or else the whole index if all of it is here, or else
        this machine's platform or the only one. Raises BarqueError.
        """
        if ref.digest is not None:
            raise InvalidArgument("cannot push a digest reference")
        report(Progress(status=f"The push refers to repository [{ref.name}]"))
        rows = await self._names.list()
        references = [row.reference for row in rows if row.reference and row.reference.name == ref.name]
        if not references:
            raise NothingToPush(name=ref.familiar_name)
        wanted = dict.fromkeys(found for found in references if found.tag and (not ref.tag or found.tag == ref.tag))
        if not wanted:
            raise NoSuchTag(ref=ref.familiar) if ref.tag else NotFound(f"no tags to push for {ref.familiar_name}")
        for found in wanted:
            held = [row for row in rows if row.name == str(found)]
            await self._push(found, await self._plan(found, held, platform), credentials, report)

    async def _plan(self, ref: Reference, rows: list[NamedImage], platform: Platform | None) -> PushPlan:
        if platform is not None:
            fitting = next((row for row in rows if row.satisfies(platform)), None)
            if fitting is None:
                raise NoSuchPlatform(ref=ref.familiar, wanted=platform,
                                     found=", ".join(str(row.target.platform) for row in rows))
            return await self._single(ref, fitting.target)
        top = await self._manifests.top(rows[0].target)
        if top.digest == rows[0].target.digest:
            return await self._single(ref, rows[0].target)
        listed = await self._manifests.listed(rows[0].target)
        if all(entry.available for entry in listed):
            plans = [await self._single(ref, entry.descriptor) for entry in listed]
            return PushPlan(top, tuple(item for plan in plans for item in plan.blobs),
                            tuple(entry.descriptor for entry in listed))
        if len(rows) > 1 and not rows[0].satisfies(host()):
            raise SeveralPlatforms(ref=ref.familiar)
        return replace(await self._single(ref, rows[0].target), instead_of=top)

    async def _single(self, ref: Reference, target: Descriptor) -> PushPlan:
        """One manifest with its layers and its config."""
        manifest = parse(await self._content.read(target.digest, MAX_MANIFEST_SIZE), target.media_type)
        if not isinstance(manifest, Manifest):
            raise InvalidArgument(f"{target.digest} is not the manifest of an image")
        labels = [short(layer.digest) for layer in manifest.layers]
        if manifest.config.media_type in mt.CONFIGS:
            config = go_json.decode(await self._content.read(manifest.config.digest, MAX_CONFIG), ImageConfig)
            if len(config.rootfs.diff_ids) == len(labels):
                labels = [short(diff_id) for diff_id in config.rootfs.diff_ids]
        layers = [await self._item(layer, label, ref) for layer, label in zip(manifest.layers, labels, strict=True)]
        return PushPlan(Descriptor(media_type=target.media_type, digest=target.digest, size=target.size),
                        (*layers, await self._item(manifest.config, "", ref)))

    async def _push(self, ref: Reference, plan: PushPlan, credentials: Credentials | None, report: Report) -> None:
        await _push(self._registry, ref, plan, self._bytes, credentials, report, self.uploads)
        if plan.instead_of is not None:
            report(Progress(progress_detail={}, aux={"manifestPushedInsteadOfIndex": True,
                                                     "originalIndex": plan.instead_of, "selectedManifest": plan.top}))
        await remember(self._content, [item.descriptor.digest for item in plan.blobs if item.label], ref)

    async def _bytes(self, manifest: Descriptor) -> bytes:
        return await self._content.read(manifest.digest, MAX_MANIFEST_SIZE)

    async def _item(self, descriptor: Descriptor, label: str, ref: Reference) -> PushItem:
        info = await self._content.info(descriptor.digest)
        if info is None:
            raise MissingBlob(digest=descriptor.digest)
        return PushItem(descriptor, self._content.path(descriptor.digest), label, neighbours(info, ref))
