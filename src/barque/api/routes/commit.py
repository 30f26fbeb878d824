"""Make an image of a container."""

from __future__ import annotations

from aiohttp import web

from barque.api import requests
from barque.api.requests import flag
from barque.engine.commit import CommitOptions, Committer
from barque.engine.containers.options import ContainerConfig
from barque.oci import reference


def routes(committer: Committer) -> list[web.RouteDef]:
    async def commit(request: web.Request) -> web.StreamResponse:
        query = request.query
        repository, tag = query.get("repo", ""), query.get("tag", "")
        name = reference.parse(f"{repository}:{tag}" if tag else repository) if repository else None
        config = await requests.optional_body(request, ContainerConfig)
        image_id = await committer.commit(query.get("container", ""), CommitOptions(
            name=name, comment=query.get("comment", ""), author=query.get("author", ""),
            pause=flag(request, "pause", True), changes=query.getall("changes", []), config=config))
        return requests.json({"Id": image_id}, 201)

    return [web.post("/commit", commit)]
