"""Files of a container: copy them out and in, export all, list what changed."""

from __future__ import annotations

import base64
import stat as modes

from aiohttp import web

from barque.api import requests, streams
from barque.api.requests import flag
from barque.engine import clock
from barque.engine.containers import archive, changes
from barque.engine.containers.context import Context
from barque.errors import InvalidArgument
from barque.oci import go_json
from barque.supervise.archive_messages import StatResult

STAT_HEADER = "X-Docker-Container-Path-Stat"
#: The bits of Go's os.FileMode for what st_mode says.
_KINDS = {modes.S_IFDIR: 1 << 31, modes.S_IFLNK: 1 << 27, modes.S_IFBLK: 1 << 26, modes.S_IFIFO: 1 << 25,
          modes.S_IFSOCK: 1 << 24, modes.S_IFCHR: 1 << 26 | 1 << 21}
_FLAGS = {modes.S_ISUID: 1 << 23, modes.S_ISGID: 1 << 22, modes.S_ISVTX: 1 << 20}


def go_mode(mode: int) -> int:
    result = mode & 0o777 | _KINDS.get(modes.S_IFMT(mode), 0)
    return result | sum(bit for flag_, bit in _FLAGS.items() if mode & flag_)


def stat_header(found: StatResult) -> str:
    """Base64 of docker's ContainerPathStat."""
    document = {"name": found.name.decode(errors="replace"), "size": found.size, "mode": go_mode(found.mode),
                "mtime": clock.render(found.mtime), "linkTarget": found.link.decode(errors="replace")}
    return base64.b64encode(go_json.encode(document)).decode()


def _path(request: web.Request) -> str:
    path = request.query.get("path", "")
    if not path:
        raise InvalidArgument("bad parameter: 'path' cannot be empty")
    return path


def routes(ctx: Context) -> list[web.RouteDef]:
    async def look(request: web.Request) -> web.StreamResponse:
        found = await archive.stat(ctx, request.match_info["id"], _path(request))
        return web.Response(status=200, headers={STAT_HEADER: stat_header(found)})

    async def copy_out(request: web.Request) -> web.StreamResponse:
        ref, path = request.match_info["id"], _path(request)
        found = await archive.stat(ctx, ref, path)
        return await streams.send_bytes(request, archive.read(ctx, ref, path), "application/x-tar",
                                        {STAT_HEADER: stat_header(found)})

    async def copy_in(request: web.Request) -> web.StreamResponse:
        await archive.write(ctx, request.match_info["id"], _path(request), request.content.iter_chunked(256 << 10),
                            keep_kinds=flag(request, "noOverwriteDirNonDir"), keep_owner=flag(request, "copyUIDGID"))
        return web.Response(status=200)

    async def export(request: web.Request) -> web.StreamResponse:
        ctx.registry.find(request.match_info["id"])
        return await streams.send_bytes(request, archive.export(ctx, request.match_info["id"]),
                                        "application/octet-stream")

    async def list_changes(request: web.Request) -> web.StreamResponse:
        return requests.json(await changes.changes(ctx, request.match_info["id"]))

    return [web.head("/containers/{id}/archive", look),
            web.get("/containers/{id}/archive", copy_out, allow_head=False),
            web.put("/containers/{id}/archive", copy_in), web.get("/containers/{id}/export", export),
            web.get("/containers/{id}/changes", list_changes)]
