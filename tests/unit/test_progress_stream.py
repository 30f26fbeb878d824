"""Streams of progress that fail after their first line: the last one says why."""

from __future__ import annotations

import asyncio
import errno
import json
import os
from collections.abc import Callable
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from barque.api.progress import stream
from barque.errors import BarqueError, Conflict
from tests.image_world import served


@pytest.mark.parametrize(("failure", "text"), [
    (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), "no space left on device"),
    (OSError(errno.EDQUOT, os.strerror(errno.EDQUOT), "/some/file"), "/some/file: disk quota exceeded"),
    (Conflict("in the way"), "in the way"),
])
async def test_failure_is_the_last_line(failure: OSError | BarqueError, text: str) -> None:
    told = asyncio.Event()

    async def work(report: Callable[[Any], None]) -> None:
        report({"status": "working"})
        async with asyncio.timeout(60):
            await told.wait()
        raise failure

    async def handler(request: web.Request) -> web.StreamResponse:
        return await stream(request, work)

    async with served(handler) as port, aiohttp.ClientSession() as client, \
            client.get(f"http://127.0.0.1:{port}/") as answer:
        lines = [json.loads(await answer.content.readline())]
        told.set()
        lines += [json.loads(line) for line in (await answer.content.read()).splitlines()]
    assert lines == [{"status": "working"}, {"errorDetail": {"message": text}, "error": text}]
