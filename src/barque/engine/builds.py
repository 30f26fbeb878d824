"""Use cases of builds: build an image from a context, list and prune what builds have cached."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack
from typing import Any, Protocol

from barque.build import context as contexts
from barque.build.args import platform_arguments
from barque.build.builder import Build
from barque.build.cache import CacheEntry
from barque.build.clock import rfc3339
from barque.build.context import BuildContext, ScratchSpace
from barque.build.dockerfile.lint import lint, report
from barque.build.dockerfile.parser import parse as parse_dockerfile
from barque.build.options import BuildOptions
from barque.build.output import Send
from barque.build.parts import Parts
from barque.build.ports import BaseImage, Progress
from barque.build.remote import parse_git
from barque.build.steps.files import is_git
from barque.engine import clock
from barque.errors import InvalidArgument, NotFound
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
from barque.store.gc import GcReport
from barque.store.leases import Lease
from barque.sys.beneath import open_in_root

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
#: What a Dockerfile without files is called in the address of a build: ``docker build URL`` of a plain text.
_ARCHIVES = ("application/x-tar", "application/tar", "application/x-gzip", "application/gzip", "application/x-bzip2",
             "application/x-xz", "application/zstd", "application/octet-stream")


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
        await self._db.write(lambda connection: lease.add(connection, "blob", image.target.digest))
        return image


class Collector(Protocol):
    async def __call__(self) -> GcReport: ...


class BuildService:
    def __init__(self, parts: Parts, scratch: ScratchSpace, collect: Collector,
                 emit: Callable[[str, str, str, Mapping[str, str]], None]) -> None:
        self._parts = parts
        self._scratch = scratch
        self._collect = collect
        self._emit = emit

    async def clean(self) -> None:
        """At boot, before anything is built."""
        await self._scratch.clean()
        await self._parts.cache_mounts.clean()

    async def build(self, options: BuildOptions, body: AsyncIterator[bytes], send: Send) -> str:
        """Build from the archive in ``body``, or from ``options.remote``; the id of the image.

        Raises BarqueError in docker's words. Cancelling it ends the step that runs and leaves nothing behind.
        """
        async with self._scratch.hold() as scratch, AsyncExitStack() as stack:
            context = await self._context(options, body, scratch, stack)
            image_id = await Build(self._parts, options, context, scratch, send).run()
        self._emit("image", "build", image_id, {"name": image_id})
        return image_id

    async def check(self, options: BuildOptions, body: AsyncIterator[bytes]) -> tuple[str, bool]:
        """Look for what is likely to be wrong, and build nothing: docker's report, and whether anything was found.

        Raises DockerfileError for what cannot be built at all.
        """
        async with self._scratch.hold() as scratch, AsyncExitStack() as stack:
            lease = await stack.enter_async_context(self._parts.leases.hold("check"))
            context = await self._context(options, body, scratch, stack)
            dockerfile = parse_dockerfile(context.dockerfile)
            ignore = context.read(contexts.IGNORE_FILE) or b""
            host = platforms.host()
            known: dict[str, frozenset[str]] = {}
            for stage in dockerfile.stages:
                image = await self._image(stage.start.base, lease)
                if image is not None:
                    known[stage.start.base] = frozenset(
                        item.partition("=")[0] for item in (image.config.config or RunConfig()).env or ())
            findings = lint(dockerfile, platform_arguments(options.platform or host, host, options.target),
                            read_ignore_file(ignore.decode("utf-8", "replace")), known.get)
            return report(findings, context.dockerfile, options.dockerfile), bool(findings)

    async def _image(self, name: str, lease: Lease) -> BaseImage | None:
        try:
            return await self._parts.images.local(name, lease)
        except InvalidReference:
            return None  # a variable, or nonsense

    async def _context(self, options: BuildOptions, body: AsyncIterator[bytes], scratch: str,
                       stack: AsyncExitStack) -> BuildContext:
        directory = os.path.join(scratch, "context")
        os.mkdir(directory, 0o755)
        if not options.remote:
            implicit = await contexts.unpack(self._parts.workers, body, directory)
            context = contexts.locate(_opened(directory, stack), options.dockerfile)
            context.implicit = implicit
            return context
        if is_git(options.remote):
            address = parse_git(options.remote)
            root = await self._parts.fetcher.clone(address, scratch, keep_git_dir=False)
            top = _opened(root, stack)
            try:
                fd = open_in_root(top, address.subdirectory or ".", _DIRECTORY)
            except OSError as error:
                raise InvalidArgument(f"unable to prepare context: {address.subdirectory}: "
                                      f"{os.strerror(error.errno or 0).lower()}") from None
            stack.callback(os.close, fd)
            await asyncio.to_thread(contexts.apply_ignore_file, fd, options.dockerfile)
            return contexts.locate(fd, options.dockerfile)
        return await self._from_address(options, scratch, directory, stack)

    async def _from_address(self, options: BuildOptions, scratch: str, directory: str,
                            stack: AsyncExitStack) -> BuildContext:
        if not options.remote.startswith(("http://", "https://")):
            raise InvalidArgument(f"remote URL ({options.remote}) could not be used as a build context")
        download = await self._parts.fetcher.download(options.remote, scratch)
        path = os.path.join(download.directory, download.name or "__unnamed__")
        if download.content_type in _ARCHIVES:
            with open(path, "rb") as file:  # noqa: ASYNC230 - a local file; its content is read in threads
                await contexts.unpack(self._parts.workers, _blocks(file.fileno()), directory)
            fd = _opened(directory, stack)
            await asyncio.to_thread(contexts.apply_ignore_file, fd, options.dockerfile)
            return contexts.locate(fd, options.dockerfile)
        text = BuildContext(_opened(download.directory, stack), "").read(os.path.basename(path))
        if not text:
            raise contexts.EmptyDockerfile(name=options.remote)
        return BuildContext(None, text.decode("utf-8", "replace"))

    async def prune(self, *, everything: bool, keep: int, until: str) -> dict[str, Any]:
        """``POST /build/prune``: drop cached steps that no image needs (or all), the oldest first, down to ``keep``
        bytes.
        """
        limit = None
        if until:
            limit = clock.parse_moment(until, time.time_ns())
            if limit is None:
                raise InvalidArgument(f"invalid value for 'until' filter: {until!r}")
        entries = await self._parts.cache.all()
        sizes = {entry.key: await self._size(entry) for entry in entries}
        total = sum(sizes.values())
        doomed: list[CacheEntry] = []
        for entry in reversed(entries):
            if keep and total <= keep:
                break
            if (limit is not None and entry.used > limit) or self._in_use(entry):
                continue
            if entry.kind == "mount" and not everything and not keep:
                continue
            doomed.append(entry)
            total -= sizes[entry.key]
        return await self._drop(doomed, sizes)

    async def _drop(self, doomed: list[CacheEntry], sizes: dict[str, int]) -> dict[str, Any]:
        await self._parts.cache.remove(entry.key for entry in doomed)
        reclaimed = 0
        for entry in doomed:
            if entry.kind == "mount":
                await self._parts.cache_mounts.remove(entry.key)
                reclaimed += sizes[entry.key]
        report = await self._collect()
        reclaimed += report.bytes
        self._emit("builder", "prune", "", {"reclaimed": str(reclaimed)})
        return {"CachesDeleted": [entry.key for entry in doomed] or None, "SpaceReclaimed": reclaimed}

    async def disk_usage(self) -> list[dict[str, Any]]:
        """``BuildCache`` of ``GET /system/df``."""
        return [{
            "ID": entry.key, "Type": "exec.cachemount" if entry.kind == "mount" else "regular",
            "Description": entry.description, "InUse": self._in_use(entry), "Shared": False,
            "Size": await self._size(entry), "CreatedAt": rfc3339(entry.created), "LastUsedAt": rfc3339(entry.used),
            "UsageCount": entry.uses} for entry in await self._parts.cache.all()]

    def _in_use(self, entry: CacheEntry) -> bool:
        return self._parts.cache_mounts.in_use(entry.key) or self._parts.cache.in_use(entry.key)

    async def _size(self, entry: CacheEntry) -> int:
        return await self._parts.cache_mounts.size(entry.key) if entry.kind == "mount" else entry.size


def _opened(directory: str, stack: AsyncExitStack) -> int:
    fd = os.open(directory, _DIRECTORY)
    stack.callback(os.close, fd)
    return fd


async def _blocks(fd: int) -> AsyncIterator[bytes]:
    while block := await asyncio.to_thread(os.read, fd, 1 << 20):
        yield block


