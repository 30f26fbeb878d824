"""Work that tells of its progress: docker's streams of JSON messages."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from aiohttp import web

from barque.api.errors import full_disk
from barque.api.streams import begin
from barque.errors import BarqueError


async def stream(request: web.Request, work: Callable[[Callable[[Any], None]], Awaitable[object]], *,
                 always: bool = False) -> web.StreamResponse:
    """Run ``work`` and send what it reports, a JSON document a line.

    A failure before the first report is an ordinary error answer, unless it shall ``always`` be in the stream; a later
    one is the last line. The work is cancelled when the client goes away, as with dockerd.
    """
    queue: asyncio.Queue[object] = asyncio.Queue()
    task = asyncio.ensure_future(work(queue.put_nowait))
    task.add_done_callback(lambda _: queue.put_nowait(None))
    response: web.StreamResponse | None = None
    try:
        while (line := await queue.get()) is not None:
            if response is None:
                response = await begin(request)
            lines = [line]
            while not queue.empty() and (more := queue.get_nowait()) is not None:
                lines.append(more)
            await response.write(b"".join(msgspec.json.encode(each) + b"\r\n" for each in lines))
            if task.done() and queue.empty():
                break
        return await _finish(request, response, task, always=always)
    finally:
        if not task.done():
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def _finish(request: web.Request, response: web.StreamResponse | None,
                  task: asyncio.Future[object], *, always: bool) -> web.StreamResponse:
    try:
        await task
    except (BarqueError, OSError) as error:
        message = error.message if isinstance(error, BarqueError) else full_disk(error)
        if (response is None and not always) or not message:
            raise
        response = response or await begin(request)
        detail: dict[str, Any] = {"message": message}
        if isinstance(error, BarqueError) and (code := error.fields.get("code")) is not None:
            detail = {"code": code, **detail}
        await response.write(msgspec.json.encode({"errorDetail": detail, "error": message}) + b"\r\n")
    return response or await begin(request)
