"""``POST /build`` with docker's parameters and stream, and the build cache.

What only this engine has: the builds of the past, the results of a build as archives, cache directories in and out.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import AsyncIterator, Mapping
from typing import Any, Protocol

import msgspec
from aiohttp import web

from barque.api.progress import stream
from barque.api.requests import flag, integer, json
from barque.api.routes import build_options
from barque.api.streams import begin, send_bytes
from barque.build.dockerfile.lint import Finding, report
from barque.build.history import BuildRecord
from barque.build.options import BuildOptions
from barque.build.output import Send
from barque.engine import filters
from barque.engine.build_cache import CHOOSING
from barque.engine.build_contexts import Request
from barque.errors import BarqueError, InvalidArgument

PRUNE_FILTERS = ("until", "unused-for", "label", "label!", *CHOOSING)
#: struct ucred: process, user, group.
_PEER = struct.Struct("3i")
_TAR = "application/x-tar"


class CannotReadInPlace(BarqueError):
    """The client is to send its files instead."""

    status = 412
    text = "the context cannot be read where it is: {reason}"


class BuildBackend(Protocol):
    async def build(self, options: BuildOptions, request: Request, send: Send) -> str: ...
    async def check(self, options: BuildOptions, request: Request) -> tuple[str, list[Finding]]: ...
    def output(self, token: str) -> AsyncIterator[bytes]: ...
    async def history(self) -> list[BuildRecord]: ...
    async def past(self, ref: str) -> BuildRecord: ...
    async def log(self, ref: str) -> list[tuple[int, int, str]]: ...
    async def forget(self, ref: str) -> None: ...


class CacheBackend(Protocol):
    async def prune(self, *, everything: bool, keep: int, until: str, mounts_only: bool = False,
                    only: Mapping[str, str] | None = None) -> dict[str, Any]: ...
    def export_mount(self, ref: str) -> AsyncIterator[bytes]: ...
    async def import_mount(self, name: str, body: AsyncIterator[bytes]) -> None: ...
    async def import_steps(self, body: AsyncIterator[bytes]) -> dict[str, Any]: ...


def routes(builds: BuildBackend, cache: CacheBackend) -> list[web.RouteDef]:
    making, kept = _Builds(builds), _Cache(cache)
    return [web.post("/build", making.build), web.post("/build/cancel", making.cancel),
            web.get("/build/outputs/{token}", making.output), web.get("/build/history", making.history),
            web.get("/build/history/{ref}/json", making.past), web.get("/build/history/{ref}/logs", making.log),
            web.delete("/build/history/{ref}", making.forget), web.post("/build/prune", kept.prune),
            web.post("/build/cache/steps", kept.import_steps),
            web.get("/build/cache/mounts/{name:.+}/archive", kept.export_mount),
            web.put("/build/cache/mounts/{name:.+}/archive", kept.import_mount)]


class _Builds:
    def __init__(self, builds: BuildBackend) -> None:
        self._builds = builds

    async def build(self, request: web.Request) -> web.StreamResponse:
        options = build_options.read(request)
        directory = _directory(request)
        try:
            asked = Request(_body(request), directory)
            if flag(request, "check"):
                return await self._check(request, options, asked)
            return await stream(request, lambda send: self._builds.build(options, asked, send))
        finally:
            if directory >= 0:
                os.close(directory)

    async def _check(self, request: web.Request, options: BuildOptions, asked: Request) -> web.StreamResponse:
        """Our own ``check=1``: the report as a stream whose last message says whether something was found."""
        dockerfile, findings = await self._builds.check(options, asked)
        response = await begin(request)
        for message in ({"stream": report(findings, dockerfile, options.dockerfile)},
                        {"aux": {"Findings": bool(findings)}}):
            await response.write(msgspec.json.encode(message) + b"\r\n")
        return response

    async def cancel(self, request: web.Request) -> web.StreamResponse:
        """Builds here end when their client goes away; none has an id to cancel it by."""
        if not request.query.get("id"):
            raise InvalidArgument("build ID not provided")
        return web.Response(status=204)

    async def output(self, request: web.Request) -> web.StreamResponse:
        return await _send(request, self._builds.output(request.match_info["token"]))

    async def history(self, request: web.Request) -> web.StreamResponse:
        return json([_summary(record) for record in await self._builds.history()])

    async def past(self, request: web.Request) -> web.StreamResponse:
        return json(await self._builds.past(_ref(request)))

    async def log(self, request: web.Request) -> web.StreamResponse:
        return json(await self._builds.log(_ref(request)))

    async def forget(self, request: web.Request) -> web.StreamResponse:
        await self._builds.forget(_ref(request))
        return web.Response(status=204)


class _Cache:
    def __init__(self, cache: CacheBackend) -> None:
        self._cache = cache

    async def prune(self, request: web.Request) -> web.StreamResponse:
        wanted = filters.parse(request.query.get("filters"), PRUNE_FILTERS)
        until = [*wanted.get("until", []), *wanted.get("unused-for", [])]
        only = {name: wanted[name] for name in CHOOSING if name in wanted}
        if max(map(len, (until, *only.values()))) > 1:
            raise InvalidArgument("filters expect only one value")
        if wanted.get("label"):  # "system prune" passes them on to everything; what is cached has no labels
            return json({"CachesDeleted": None, "SpaceReclaimed": 0})
        keep = integer(request, "keep-storage") or integer(request, "reserved-space") or 0
        return json(await self._cache.prune(everything=flag(request, "all"), keep=keep, until=until[0] if until else "",
                                            mounts_only=flag(request, "mounts"),
                                            only={name: values[0] for name, values in only.items()}))

    async def export_mount(self, request: web.Request) -> web.StreamResponse:
        return await _send(request, self._cache.export_mount(request.match_info["name"]))

    async def import_mount(self, request: web.Request) -> web.StreamResponse:
        await self._cache.import_mount(request.match_info["name"], _body(request))
        return web.Response(status=204)

    async def import_steps(self, request: web.Request) -> web.StreamResponse:
        return json(await self._cache.import_steps(_body(request)))


async def _body(request: web.Request) -> AsyncIterator[bytes]:
    async for chunk in request.content.iter_any():
        yield chunk


async def _send(request: web.Request, pieces: AsyncIterator[bytes]) -> web.StreamResponse:
    """An archive whose first piece is there before the header goes, so that a refusal is one."""
    first = await anext(pieces, b"")

    async def whole() -> AsyncIterator[bytes]:
        yield first
        async for piece in pieces:
            yield piece

    return await send_bytes(request, whole(), _TAR)


def _ref(request: web.Request) -> str:
    """"latest" is the build that began last."""
    ref = request.match_info["ref"]
    return "" if ref == "latest" else ref


def _summary(record: BuildRecord) -> dict[str, Any]:
    return {"ID": record.id, "Started": record.started, "Completed": record.completed, "Status": record.status,
            "Tags": record.tags, "Dockerfile": record.dockerfile, "Target": record.target, "Total": record.total,
            "Cached": sum(step.cached for step in record.steps), "ImageID": record.image_id}


def _directory(request: web.Request) -> int:
    """Our own ``directory=FD:DEVICE:INODE``: a directory that the client has open; -1 where it sends its files.

    The client must be at the other end of a unix socket and have the user of this engine: then the engine may read
    nothing that the client may not. Device and inode prove that it is the directory that the client means.
    """
    text = request.query.get("directory", "")
    if not text:
        return -1
    try:
        number, device, inode = map(int, text.split(":"))
    except ValueError:
        raise InvalidArgument(f"invalid directory {text!r}") from None
    fd = _opened(_peer(request), number)
    info = os.fstat(fd)
    if (info.st_dev, info.st_ino) != (device, inode):
        os.close(fd)
        raise CannotReadInPlace(reason="it is another directory here")
    return fd


def _peer(request: web.Request) -> int:
    """The process at the other end; raises :class:`CannotReadInPlace`."""
    sock = request.transport.get_extra_info("socket") if request.transport is not None else None
    if sock is None or sock.family != socket.AF_UNIX:
        raise CannotReadInPlace(reason="the client is not on this machine")
    pid, uid, _ = _PEER.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size))
    if uid != os.geteuid() or pid <= 0:
        raise CannotReadInPlace(reason="the client is another user")
    return int(pid)


def _opened(pid: int, number: int) -> int:
    """The client's directory, opened anew: what the client does with its descriptor does not matter here."""
    try:
        return os.open(f"/proc/{pid}/fd/{number}", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise CannotReadInPlace(reason=os.strerror(error.errno or 0).lower()) from None
