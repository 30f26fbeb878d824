"""``/images/get``, ``/images/load`` and imports: docker's API for archives, over :class:`ArchivesBackend`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Protocol

from aiohttp import web

from barque.api.progress import stream
from barque.api.requests import flag
from barque.errors import InvalidArgument
from barque.image.imports import ImportRequest
from barque.image.progress import Progress, Report
from barque.image.save import Archive
from barque.oci import go_json
from barque.oci import platform as platforms
from barque.oci.platform import Platform
from barque.oci.reference import parse


class ArchivesBackend(Protocol):
    async def plan(self, texts: Sequence[str], platforms: Sequence[Platform]) -> Archive: ...
    def save(self, archive: Archive) -> AsyncIterator[bytes]: ...
    async def load(self, pieces: AsyncIterator[bytes], platforms: Sequence[Platform], report: Report) -> None: ...
    async def bring_in(self, request: ImportRequest, sent: AsyncIterator[bytes] | None, report: Report) -> None: ...


def routes(archives: ArchivesBackend) -> list[web.RouteDef]:
    handlers = _Handlers(archives)
    return [web.get("/images/get", handlers.save_many), web.get("/images/{name:.+}/get", handlers.save_one),
            web.post("/images/load", handlers.load)]


class _Handlers:
    def __init__(self, archives: ArchivesBackend) -> None:
        self._archives = archives

    async def save_one(self, request: web.Request) -> web.StreamResponse:
        return await self._save(request, [request.match_info["name"]])

    async def save_many(self, request: web.Request) -> web.StreamResponse:
        return await self._save(request, request.query.getall("names", []))

    async def _save(self, request: web.Request, names: Sequence[str]) -> web.StreamResponse:
        archive = await self._archives.plan(names, _platforms(request))
        response = web.StreamResponse(headers={"Content-Type": "application/x-tar"})
        response.content_length = archive.length
        await response.prepare(request)
        async for piece in self._archives.save(archive):
            await response.write(piece)
        return response

    async def load(self, request: web.Request) -> web.StreamResponse:
        wanted = _platforms(request)
        quiet = flag(request, "quiet")

        async def work(report: Report) -> None:
            def told(line: Progress) -> None:
                if line.stream or not quiet:
                    report(line)

            await self._archives.load(request.content.iter_any(), wanted, told)

        return await stream(request, work, always=True)    # clients look for errors there


def _platforms(request: web.Request) -> list[Platform]:
    """The platforms asked for (JSON documents, since API 1.48; several since 1.52); raises InvalidArgument."""
    version: tuple[int, int] = request["api_version"]
    texts = request.query.getall("platform", []) if version >= (1, 48) else []
    if len(texts) > 1 and version < (1, 52):
        raise InvalidArgument("multiple platform parameters are not supported")
    return [go_json.decode(text, Platform) for text in texts if text]


async def bring_in(request: web.Request, archives: ArchivesBackend) -> web.StreamResponse:
    """``POST /images/create?fromSrc=``."""
    query = request.query
    source = query["fromSrc"]
    text, tag = query.get("repo", ""), query.get("tag", "")
    ref = parse(f"{text}:{tag}" if tag else text).with_default_tag() if text else None
    if ref is not None and ref.digest is not None:
        raise InvalidArgument("cannot import digest reference")
    order = ImportRequest(ref, message=query.get("message", ""), source=source,
                          changes=tuple(query.getall("changes", [])),
                          platform=platforms.parse(query["platform"]) if query.get("platform") else None)
    sent = request.content.iter_any() if source == "-" else None
    return await stream(request, lambda report: archives.bring_in(order, sent, report))
