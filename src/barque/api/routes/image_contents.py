"""What is in images, over :class:`AttestationsBackend`: attestations as docker's API has them."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Protocol

from aiohttp import web

from barque.api.requests import flag, json
from barque.errors import InvalidArgument
from barque.oci import go_json
from barque.oci.platform import Platform


class AttestationsBackend(Protocol):
    async def statements(self, text: str, platform: Platform | None, types: Collection[str], *,
                         bodies: bool) -> list[dict[str, Any]]: ...


def routes(attestations: AttestationsBackend) -> list[web.RouteDef]:
    async def statements(request: web.Request) -> web.StreamResponse:
        texts = request.query.getall("platform", [])
        if len(texts) > 1:
            raise InvalidArgument("multiple platform parameters are not supported")
        platform = go_json.decode(texts[0], Platform) if texts else None
        return json(await attestations.statements(request.match_info["name"], platform,
                                                  request.query.getall("type", []),
                                                  bodies=flag(request, "statement")))

    return [web.get("/images/{name:.+}/attestations", statements)]
