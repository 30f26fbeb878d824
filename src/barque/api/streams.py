"""Answers that go on: log frames, events, progress. The header leaves at once; a client that goes away ends them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping

from aiohttp import web

from barque.api.hijack import keep
from barque.errors import BarqueError
from barque.oci import go_json


async def begin(request: web.Request, content_type: str = "application/json",
                headers: Mapping[str, str] | None = None) -> web.StreamResponse:
    """Send the header now."""
    response = web.StreamResponse(headers={"Content-Type": content_type, **(headers or {})})
    keep(request, "response", response)
    await response.prepare(request)
    await response.write(b"")
    return response


async def send_bytes(request: web.Request, pieces: AsyncIterator[bytes], content_type: str,
                     headers: Mapping[str, str] | None = None) -> web.StreamResponse:
    response = await begin(request, content_type, headers)
    async for piece in pieces:
        await response.write(piece)
    return response


async def send_json(request: web.Request, values: AsyncIterator[object]) -> web.StreamResponse:
    """One document a line. A failure in the middle is the last line, as clients expect it."""
    response = await begin(request)
    try:
        async for value in values:
            await response.write(go_json.encode(value) + b"\n")
    except BarqueError as error:
        await response.write(go_json.encode({"errorDetail": {"message": error.message},
                                             "error": error.message}) + b"\n")
    return response
