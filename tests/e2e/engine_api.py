"""The engine's API for many requests at once: what a subprocess for each would be too slow for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp

from tests.e2e.engine_world import PATIENCE, EngineWorld

VERSION = "/v1.45"


class Answer:
    def __init__(self, status: int, body: Any) -> None:
        self.status = status
        self.body = body

    def __repr__(self) -> str:
        return f"{self.status} {self.body!r}"


class Api:
    """One client with as many connections as it has requests under way; each of them must end in time."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session

    async def call(self, method: str, path: str, body: Any = None) -> Answer:
        async with (asyncio.timeout(2 * PATIENCE),
                    self._session.request(method, f"http://d{VERSION}{path}", json=body) as answer):
            if answer.content_type == "application/json":
                return Answer(answer.status, await answer.json())
            return Answer(answer.status, await answer.read())

    async def ok(self, method: str, path: str, body: Any = None) -> Any:
        answer = await self.call(method, path, body)
        assert answer.status < 300, (method, path, answer)
        return answer.body

    async def create(self, name: str, *command: str, **host: Any) -> str:
        """A container of busybox; ``host`` are fields of HostConfig."""
        made = await self.ok("POST", f"/containers/create?name={name}",
                             {"Image": "busybox", "Cmd": list(command), "HostConfig": host})
        return str(made["Id"])

    async def run_and_remove(self, name: str) -> str:
        """What ``docker run --rm busybox true`` does, without streams; gives the id that it had."""
        ident = await self.create(name, "true", AutoRemove=True)
        waiting = asyncio.ensure_future(self.ok("POST", f"/containers/{ident}/wait?condition=removed"))
        await self.ok("POST", f"/containers/{ident}/start")
        assert (await waiting)["StatusCode"] == 0
        return ident


@asynccontextmanager
async def api(world: EngineWorld) -> AsyncIterator[Api]:
    connector = aiohttp.UnixConnector(world.socket, limit=0)
    async with aiohttp.ClientSession(connector=connector) as session:
        yield Api(session)
