"""``POST /commit``."""

from __future__ import annotations

from typing import Protocol

from aiohttp import web

from barque.api.requests import check_content_type, flag, json
from barque.engine.containers.options import ContainerConfig
from barque.engine.image_commit import CommitOrder
from barque.errors import InvalidArgument
from barque.oci import go_json
from barque.oci.reference import Reference, parse


class CommitBackend(Protocol):
    async def commit(self, order: CommitOrder) -> str: ...


def routes(commits: CommitBackend) -> list[web.RouteDef]:
    async def commit(request: web.Request) -> web.StreamResponse:
        query = request.query
        order = CommitOrder(
            container=query.get("container", ""), ref=_reference(query.get("repo", ""), query.get("tag", "")),
            author=query.get("author", ""), comment=query.get("comment", ""), pause=flag(request, "pause", True),
            changes=tuple(line for text in query.getall("changes", []) for line in text.split("\n") if line.strip()),
            config=await _config(request))
        return json({"Id": await commits.commit(order)}, status=201)

    return [web.post("/commit", commit)]


async def _config(request: web.Request) -> ContainerConfig | None:
    """The configuration to use instead of the container's; ``null`` and no body mean none."""
    data = await request.read()
    check_content_type(request, data)
    if data.strip() in (b"", b"null"):
        return None
    try:
        return go_json.decode(data, ContainerConfig)
    except go_json.InvalidJSON as error:
        raise InvalidArgument(f"invalid JSON: {error.message}") from None


def _reference(repository: str, tag: str) -> Reference | None:
    if not repository:
        return None
    ref = parse(f"{repository}:{tag}" if tag else repository).with_default_tag()
    if ref.digest is not None:
        raise InvalidArgument("cannot commit to digest reference")
    return ref
