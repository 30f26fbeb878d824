"""What becomes of the result of a build: an image here or in a registry, archives for the client, attestations."""

from __future__ import annotations

import asyncio
import secrets
import socket
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import msgspec

from barque.build import clock, events
from barque.build.attest import provenance, spdx
from barque.build.attest.attach import Attestation, attach
from barque.build.builder import Outcome
from barque.build.export import Exporter
from barque.build.history import BuildRecord
from barque.build.options import BuildOptions, Output
from barque.build.portable_cache import PortableCache, annotation
from barque.build.ports import Workers
from barque.build.state import State
from barque.config import VERSION
from barque.engine.registry_cache import RegistryCaches
from barque.errors import BarqueError, Internal, InvalidArgument, NotFound
from barque.image.client.auth import Credentials
from barque.image.names import with_id
from barque.image.progress import Report
from barque.image.save import FULL_NAME, REF_NAME, Archive, Saver, blob_path
from barque.image.whole import whole
from barque.oci import go_json
from barque.oci import media_types as mt
from barque.oci.descriptor import Descriptor
from barque.oci.manifest import Manifest
from barque.oci.reference import Reference, parse
from barque.store.content import ContentStore
from barque.store.place.messages import PackagesRequest, PackagesResult, Source
from barque.store.snapshots import Snapshots
from barque.store.tar.messages import decode, encode
from barque.supervise.archive_messages import ReadRequest, Result, View

_CHUNK = 256 << 10
_BUILDER = f"urn:barque:engine:{VERSION}"
#: Kinds of output that make an image with a name here.
_NAMED = ("image", "registry")


class NoSuchOutput(NotFound):
    text = "No such build output: {token}"


class PushImage(Protocol):
    async def push(self, ref: Reference, credentials: Credentials | None, report: Report) -> None: ...


@dataclass
class _Offer:
    """An archive that waits to be fetched by the client of its build."""

    pieces: Callable[[], AsyncIterator[bytes]]
    taken: asyncio.Future[None] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class Offers:
    def __init__(self) -> None:
        self._waiting: dict[str, _Offer] = {}

    async def hold(self, announce: Callable[[str], None], pieces: Callable[[], AsyncIterator[bytes]]) -> None:
        """Announce a token and wait until someone has taken the archive for it. Raises what making it raises."""
        token = secrets.token_hex(16)
        offer = self._waiting[token] = _Offer(pieces)
        try:
            announce(token)
            await offer.taken
        finally:
            self._waiting.pop(token, None)

    async def take(self, token: str) -> AsyncIterator[bytes]:
        """The archive, to be had once. Raises :class:`NoSuchOutput`."""
        offer = self._waiting.pop(token, None)
        if offer is None:
            raise NoSuchOutput(token=token)
        try:
            async for piece in offer.pieces():
                yield piece
        except BarqueError as error:
            if not offer.taken.done():
                offer.taken.set_exception(error)
            raise
        finally:
            if not offer.taken.done():
                offer.taken.set_result(None)


class BuildOutputs:
    def __init__(self, content: ContentStore, snapshots: Snapshots, workers: Workers, exporter: Exporter,
                 saver: Saver, pusher: PushImage, cache: PortableCache, registries: RegistryCaches,
                 offers: Offers) -> None:
        self._content = content
        self._snapshots = snapshots
        self._workers = workers
        self._exporter = exporter
        self._saver = saver
        self._pusher = pusher
        self._cache = cache
        self._registries = registries
        self._offers = offers

    async def deliver(self, outcome: Outcome, record: BuildRecord) -> None:
        """Everything that the options of the build ask for, and what its record says of the result."""
        options, state, lease = outcome.site.options, outcome.state, outcome.site.lease
        keys = stage_keys(outcome)
        record.keys = [outcome.site.keys[number] for number in sorted(outcome.site.keys)]
        inline = annotation(await self._cache.entries(keys)) if "type=inline" in options.cache_to else {}
        target = await self._exporter.store(lease, state, inline)
        record.image_id = state.image_id
        names = [*options.tags, *(name for output in options.outputs for name in _names(output))]
        top = target
        if options.attestations:
            top, attestation = await self._attested(outcome, record, target, names)
            target = with_id(target, state.image_id, top.digest, attestation.digest)
        record.digest = str(top.digest)
        if not options.outputs or any(output.type in _NAMED or (output.type == "docker" and not output.sent)
                                      for output in options.outputs):
            await self._exporter.name(state, target, names)
        for number, output in enumerate(options.outputs):
            await self._put_out(outcome, output, number, target, top, names)
        for text in options.cache_to:
            await self._cache_to(outcome, text, keys)
        outcome.channel.note(events.METADATA, _metadata(record, top, names))

    async def _put_out(self, outcome: Outcome, output: Output, number: int, target: Descriptor, top: Descriptor,
                       names: list[Reference]) -> None:
        options = outcome.site.options
        if output.type == "registry" or (output.type == "image" and output.flag("push")):
            if not names:
                raise InvalidArgument("tag is needed when pushing to registry")
            for name in names:
                ref = name.with_default_tag()
                await self._pusher.push(ref, options.credentials.get(ref.domain), outcome.channel.progress)
        elif output.type in ("local", "tar"):
            await self._send(outcome, number, lambda: self._files(outcome.state))
        elif output.sent:
            archive = await self._archive(outcome.state, target, top, names, docker=output.type == "docker")
            await self._send(outcome, number, lambda: self._saver.stream(archive))

    async def _send(self, outcome: Outcome, number: int | str, pieces: Callable[[], AsyncIterator[bytes]]) -> None:
        await self._offers.hold(lambda token: outcome.channel.note(events.OUTPUT, {"Token": token, "Output": number}),
                                pieces)

    async def _files(self, state: State) -> AsyncIterator[bytes]:
        """The file system of an image as a tar archive."""
        lower = await self._snapshots.image_lower(state.chain_id)
        upper, *rest = [*lower, f"{self._snapshots.root}/empty", f"{self._snapshots.root}/empty"][:max(2, len(lower))]
        ours, theirs = socket.socketpair()
        request = ReadRequest(View(lower=rest, upper=upper), b"/", 0, True)
        work = asyncio.ensure_future(self._workers.run("archive-read", encode(request), [theirs.fileno()]))
        work.add_done_callback(lambda _: theirs.close())  # the end of the stream is the end of the worker
        reader, writer = await asyncio.open_connection(sock=ours, limit=_CHUNK)
        try:
            while piece := await reader.read(_CHUNK):
                yield piece
            result = decode(await work, Result)
        finally:
            writer.close()
            work.cancel()
            await asyncio.wait([work])
        if result.error is not None:
            raise Internal(f"cannot read the result of the build: {result.error.message}")

    async def _archive(self, state: State, target: Descriptor, top: Descriptor, names: list[Reference], *,
                       docker: bool) -> Archive:
        """An OCI layout; for ``docker`` with its ``manifest.json`` beside it."""
        archive = Archive(image_ids=[state.image_id])
        blobs = await whole(self._content, top)
        if blobs is None:
            raise InvalidArgument("a part of the base image is not stored: pull it again")
        archive.blobs = {blob.digest: blob.size for blob in blobs}
        entries = [_named(top, name.with_default_tag()) for name in names] or [_plain(top)]
        archive.documents["oci-layout"] = b'{"imageLayoutVersion":"1.0.0"}'
        archive.documents["index.json"] = go_json.encode(
            {"schemaVersion": 2, "mediaType": mt.OCI_INDEX, "manifests": entries})
        if docker:
            archive.documents["manifest.json"] = go_json.encode([{
                "Config": blob_path(state.image_id),
                "RepoTags": [name.with_default_tag().familiar for name in names] or None,
                "Layers": [blob_path(layer.digest) for layer in state.layers]}])
        return archive

    async def _cache_to(self, outcome: Outcome, text: str, keys: list[str]) -> None:
        fields = dict(part.partition("=")[::2] for part in text.split(","))
        if fields["type"] == "inline":
            return
        site = outcome.site
        if fields.get("mode") == "max":
            keys = [key for number in sorted(site.keys) for key in site.keys[number]]
        descriptor, manifest = await self._cache.artifact(site.lease, keys)
        if fields["type"] == "registry":
            ref = parse(fields["ref"]).with_default_tag()
            await self._registries.push(ref, site.options.credentials.get(ref.domain), descriptor, manifest,
                                        outcome.channel.progress)
        else:
            archive = await self._cache_archive(descriptor, manifest)
            await self._send(outcome, "cache", lambda: self._saver.stream(archive))

    async def _cache_archive(self, descriptor: Descriptor, manifest: Manifest) -> Archive:
        archive = Archive(blobs={blob.digest: blob.size for blob in (descriptor, manifest.config, *manifest.layers)})
        archive.documents["oci-layout"] = b'{"imageLayoutVersion":"1.0.0"}'
        archive.documents["index.json"] = go_json.encode(
            {"schemaVersion": 2, "mediaType": mt.OCI_INDEX, "manifests": [_plain(descriptor)]})
        return archive

    async def _attested(self, outcome: Outcome, record: BuildRecord, target: Descriptor,
                        names: list[Reference]) -> tuple[Descriptor, Descriptor]:
        """The index with the attestations that are wanted, and their manifest."""
        options, lease = outcome.site.options, outcome.site.lease
        wanted = options.attestations
        found: list[Attestation] = []
        locators = [provenance.locator(name.familiar, target) for name in names]
        if wanted.sbom:
            found.append(Attestation(spdx.PREDICATE, await self._bill(outcome.state, options, target, locators)))
        if wanted.provenance:
            source = provenance.Source(outcome.site.context.dockerfile, options.remote)
            found.append(Attestation(provenance.PREDICATE, provenance.predicate(
                record, source, outcome.site.materials, wanted.provenance, _BUILDER, clock.now_or(-1))))
        return await attach(self._content, lease, target, locators, found)

    async def _bill(self, state: State, options: BuildOptions, target: Descriptor,
                    locators: list[str]) -> dict[str, Any]:
        lower = await self._snapshots.image_lower(state.chain_id)
        empty = f"{self._snapshots.root}/empty"
        source = Source(lower=[*lower, empty, empty][:max(2, len(lower))], named=True)
        answer = decode(await self._workers.run("packages", encode(PackagesRequest(source)), []), PackagesResult)
        if answer.error is not None:
            raise Internal(f"cannot list the packages of the image: {answer.error.message}")
        created = clock.rfc3339(clock.now_or(options.epoch) // 10**9 * 10**9)
        return spdx.document(locators[0] if locators else target.digest, target.digest, answer.packages, created,
                             f"barque-{VERSION}")


def stage_keys(outcome: Outcome) -> list[str]:
    """The steps that the result itself is made of: those of the target, and of the stages that it is built on."""
    site = outcome.site
    found: list[str] = []
    number: int | None = max(site.results)
    while number is not None:
        found = [*site.keys.get(number, []), *found]
        number = site.below.get(number)
    return found


def _names(output: Output) -> list[Reference]:
    return [parse(text) for text in output.attrs.get("name", "").split(",") if text]


def _plain(descriptor: Descriptor) -> Descriptor:
    return Descriptor(media_type=descriptor.media_type, digest=descriptor.digest, size=descriptor.size,
                      platform=descriptor.platform)


def _named(descriptor: Descriptor, ref: Reference) -> Descriptor:
    return msgspec.structs.replace(_plain(descriptor), annotations={FULL_NAME: str(ref), REF_NAME: ref.tag})


def _metadata(record: BuildRecord, top: Descriptor, names: list[Reference]) -> Mapping[str, Any]:
    """What ``--metadata-file`` says, under BuildKit's names."""
    found: dict[str, Any] = {
        "barque.build.ref": record.id, "containerimage.config.digest": record.image_id,
        "containerimage.digest": record.digest,
        "containerimage.descriptor": {"mediaType": top.media_type, "digest": record.digest, "size": top.size}}
    if names:
        found["image.name"] = ",".join(str(name.with_default_tag()) for name in names)
    return found
