"""Use cases of builds: build an image from a context, check a Dockerfile, look at the builds of the past."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from typing import Any, Protocol

from barque.build.args import platform_arguments
from barque.build.builder import Build, Outcome
from barque.build.context import IGNORE_FILE, ScratchSpace
from barque.build.dockerfile.errors import DockerfileError
from barque.build.dockerfile.lint import Finding, lint
from barque.build.dockerfile.parser import parse as parse_dockerfile
from barque.build.events import Event, Listener, place
from barque.build.history import CANCELLED, COMPLETED, FAILED, BuildHistory, BuildRecord
from barque.build.kept import KeptFiles
from barque.build.lookup import CacheSource
from barque.build.options import BuildOptions
from barque.build.output import Send
from barque.build.parts import Parts
from barque.build.ports import BaseImage, Progress
from barque.engine import build_contexts
from barque.engine.build_contexts import Request
from barque.engine.build_outputs import BuildOutputs, Offers
from barque.engine.registry_cache import RegistryCaches
from barque.errors import BarqueError, InvalidArgument, NotFound
from barque.image.client.auth import Credentials
from barque.image.progress import Progress as PullProgress
from barque.image.progress import Report
from barque.image.resolve import Images
from barque.oci import platform as platforms
from barque.oci.image import RunConfig
from barque.oci.patterns import read_ignore_file
from barque.oci.platform import Platform
from barque.oci.reference import InvalidReference, Reference, parse
from barque.store.db import Database
from barque.store.leases import Lease

#: The id of a message with one of the builder's events.
TRACE = "barque.build.trace"


class PullImage(Protocol):
    async def pull(self, ref: Reference, platform: Platform | None, credentials: Credentials | None,
                   report: Report) -> None: ...


class BaseImageSource:
    """Meets ``barque.build.ports.BaseImages``: local images first, then the registry."""

    def __init__(self, images: Images, pull: PullImage, db: Database) -> None:
        self._images = images
        self._pull = pull
        self._db = db

    async def base(self, name: str, platform: Platform | None, *, pull: bool, report: Progress, lease: Lease,
                   credentials: Mapping[str, Credentials]) -> BaseImage:
        """Raises NotFound, InvalidReference, and what pulling raises."""
        image = None if pull else await self.local(name, lease, platform)
        if image is None:
            await self._fetch(name, platform, report, credentials)
            image = await self.local(name, lease, platform) or await self.local(name, lease)
        if image is None:
            raise NotFound(f"No such image: {name}")
        return image

    async def _fetch(self, name: str, platform: Platform | None, report: Progress,
                     credentials: Mapping[str, Credentials]) -> None:
        ref = parse(name).with_default_tag()

        def pass_on(line: PullProgress) -> None:
            report(line)

        await self._pull.pull(ref, platform, credentials.get(ref.domain), pass_on)

    async def local(self, name: str, lease: Lease, platform: Platform | None = None) -> BaseImage | None:
        try:
            image = await self._images.resolve(name, platform)
        except NotFound:
            return None
        await self._db.write(lambda connection: lease.add(connection, "blob", image.target.digest),
                             durable=False)
        return image


class BuildService:
    def __init__(self, parts: Parts, scratch: ScratchSpace, history: BuildHistory, outputs: BuildOutputs,
                 offers: Offers, registries: RegistryCaches,
                 emit: Callable[[str, str, str, Mapping[str, str]], None]) -> None:
        self._parts = parts
        self._scratch = scratch
        self._history = history
        self._outputs = outputs
        self._offers = offers
        self._registries = registries
        self._emit = emit

    async def clean(self) -> None:
        """At boot, before anything is built."""
        await self._scratch.clean()
        await self._parts.cache_mounts.clean()
        await self._parts.kept_contexts.clean()

    def kept_files(self, client: str, name: str) -> AbstractAsyncContextManager[KeptFiles | None]:
        """What a client has sent of its directory ``name`` before, for a request's ``kept``."""
        return self._parts.kept_contexts.enter(client, name)

    async def build(self, options: BuildOptions, request: Request, send: Send) -> str:
        """Build from the archive in the request, from its directory, or from ``options.remote``; the id of the image.

        Raises BarqueError in docker's words. Cancelling it ends the step that runs and leaves nothing behind.
        """
        recorder = self._history.begin(_record(options))
        listeners: list[Listener] = [recorder.hear]
        if options.trace:
            listeners.append(lambda event: send(_traced(event)))
        try:
            image_id = await self._build(options, request, send, recorder.record, listeners)
            recorder.end(COMPLETED)
        except BarqueError as error:
            recorder.end(FAILED, error.message)
            if isinstance(error, DockerfileError) and error.excerpt:
                for listener in listeners:
                    listener(place(error.line, error.excerpt))
            raise
        except asyncio.CancelledError:
            recorder.end(CANCELLED)
            raise
        except Exception as error:  # a bug, which the edge of the API reports
            recorder.end(FAILED, f"{type(error).__name__}: {error}")
            raise
        finally:
            await asyncio.shield(self._history.keep(recorder))
        self._emit("image", "build", image_id, {"name": image_id})
        return image_id

    async def _build(self, options: BuildOptions, request: Request, send: Send, record: BuildRecord,
                     listeners: list[Listener]) -> str:
        async def deliver(outcome: Outcome) -> None:
            await self._outputs.deliver(outcome, record)

        async with self._scratch.hold() as scratch, AsyncExitStack() as stack:
            context = await build_contexts.prepare(self._parts, options, request, scratch, stack)
            if request.equip is not None:
                options = await request.equip(context.dockerfile)
            build = Build(self._parts, options, context, scratch, send, record.id, listeners)
            return await build.run(deliver, await self._caches(options))

    async def _caches(self, options: BuildOptions) -> list[CacheSource]:
        """The caches of ``--cache-from type=registry``."""
        refs = [parse(fields["ref"]).with_default_tag() for fields in map(_fields, options.cache_from) if fields]
        return await self._registries.open(refs, options.platform or platforms.host(), options.credentials)

    def output(self, token: str) -> AsyncIterator[bytes]:
        """An archive that a build has announced to its client."""
        return self._offers.take(token)

    async def history(self) -> list[BuildRecord]:
        return await self._history.all()

    async def past(self, ref: str) -> BuildRecord:
        return await self._history.get(ref)

    async def log(self, ref: str) -> list[tuple[int, int, str]]:
        return await self._history.log(await self._history.get(ref))

    async def forget(self, ref: str) -> None:
        await self._history.remove(await self._history.get(ref))

    async def check(self, options: BuildOptions, request: Request) -> tuple[str, list[Finding]]:
        """Look for what is likely to be wrong, and build nothing: the Dockerfile, and what was found in it.

        Raises DockerfileError for what cannot be built at all.
        """
        async with self._scratch.hold() as scratch, AsyncExitStack() as stack:
            lease = await stack.enter_async_context(self._parts.leases.hold("check"))
            context = await build_contexts.prepare(self._parts, options, request, scratch, stack)
            dockerfile = parse_dockerfile(context.dockerfile)
            ignore = context.read(IGNORE_FILE) or b""
            host = platforms.host()
            known: dict[str, frozenset[str]] = {}
            for stage in dockerfile.stages:
                image = await self._image(stage.start.base, lease)
                if image is not None:
                    known[stage.start.base] = frozenset(
                        item.partition("=")[0] for item in (image.config.config or RunConfig()).env or ())
            findings = lint(dockerfile, platform_arguments(options.platform or host, host, options.target),
                            read_ignore_file(ignore.decode("utf-8", "replace")), known.get)
            return context.dockerfile, findings

    async def _image(self, name: str, lease: Lease) -> BaseImage | None:
        try:
            return await self._parts.images.local(name, lease)
        except InvalidReference:
            return None  # a variable, or nonsense


def _traced(event: Event) -> dict[str, Any]:
    return {"id": TRACE, "aux": event}


def _record(options: BuildOptions) -> BuildRecord:
    return BuildRecord(
        id=secrets.token_hex(12), started=time.time_ns(), dockerfile=options.dockerfile, context=options.remote,
        target=options.target, platform=str(options.platform or platforms.host()),
        tags=tuple(tag.with_default_tag().familiar for tag in options.tags),
        arguments={name: value or "" for name, value in options.arguments.items()})


def _fields(text: str) -> dict[str, str]:
    """``type=registry,ref=...``; {} for the name of an image. Raises InvalidArgument."""
    if "=" not in text:
        return {}
    fields = dict(part.partition("=")[::2] for part in text.split(","))
    if fields.get("type") != "registry" or not fields.get("ref"):
        raise InvalidArgument(f"invalid cache source {text}: it is an image's name, or type=registry,ref=NAME")
    return fields
