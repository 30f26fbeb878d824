"""``/volumes`` over HTTP: shapes, statuses and texts."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from barque.api.routes.volumes import routes
from barque.engine.volume_copies import VolumeCopies
from barque.engine.volume_mounts import VolumeMounts
from barque.engine.volumes import Volumes
from barque.errors import BarqueError
from barque.store.db import Database
from barque.store.layout import Layout
from barque.store.workers import SubprocessWorkers

Client = TestClient[web.Request, web.Application]
pytestmark = pytest.mark.filterwarnings("ignore::aiohttp.web.NotAppKeyWarning")


class Nobody:
    def users_of(self, name: str) -> Sequence[str]:
        return ["c1"] if name == "used" else []


def emit(kind: str, action: str, actor_id: str, attributes: Mapping[str, str], /) -> None:
    pass


@web.middleware
async def edge(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    request["api_version"] = (1, int(request.headers.get("X-Minor", "45")))
    try:
        return await handler(request)
    except BarqueError as error:
        return web.json_response({"message": error.message}, status=error.status)


@pytest.fixture
async def client(tmp_path: Path) -> AsyncIterator[Client]:
    layout = Layout.open(str(tmp_path))
    db = await Database.open(layout.database)
    app = web.Application(middlewares=[edge])
    workers = SubprocessWorkers()
    volumes = Volumes(layout, db, workers, Nobody(), emit)
    app.add_routes(routes(volumes, VolumeCopies(volumes, VolumeMounts(), workers)))
    async with TestClient(TestServer(app)) as client:
        yield client
    await db.close()
    layout.close()


async def call(client: Client, method: str, path: str, **options: Any) -> tuple[int, Any]:
    async with client.request(method, path, **options) as response:
        body = await response.read()
        return response.status, json.loads(body) if body else None


async def test_life_of_a_volume(client: Client, tmp_path: Path) -> None:
    status, made = await call(
        client, "POST", "/volumes/create", json={"Name": "data", "Labels": None, "driver": "local"}
    )
    assert status == 201
    created = made.pop("CreatedAt")
    assert "T" in created
    assert made == {
        "Driver": "local",
        "Labels": None,
        "Mountpoint": str(tmp_path / "volumes/data/_data"),
        "Name": "data",
        "Options": None,
        "Scope": "local",
    }
    assert await call(client, "GET", "/volumes/data") == (200, {**made, "CreatedAt": created})
    assert await call(client, "GET", "/volumes") == (
        200,
        {"Volumes": [{**made, "CreatedAt": created}], "Warnings": None},
    )
    assert await call(client, "DELETE", "/volumes/data") == (204, None)
    assert await call(client, "DELETE", "/volumes/data") == (404, {"message": "get data: no such volume"})
    assert await call(client, "DELETE", "/volumes/data?force=1") == (204, None)
    assert await call(client, "GET", "/volumes/data") == (404, {"message": "get data: no such volume"})


async def test_refusals(client: Client) -> None:
    await call(client, "POST", "/volumes/create", json={"Name": "used"})
    assert await call(client, "DELETE", "/volumes/used?force=true") == (
        409,
        {"message": "remove used: volume is in use - [c1]"},
    )
    assert (await call(client, "POST", "/volumes/create", data=b""))[0] == 400
    assert (await call(client, "POST", "/volumes/create", data=b"{"))[0] == 400
    assert (await call(client, "POST", "/volumes/create", json={"Name": "x", "Driver": "nfs"}))[0] == 400
    assert (await call(client, "POST", "/volumes/create", json={"Name": "xx", "Driver": "nfs"}))[0] == 404
    assert (await call(client, "POST", "/volumes/create", json={"ClusterVolumeSpec": {}}))[0] == 503
    assert (await call(client, "PUT", "/volumes/used?version=1", json={}))[0] == 503
    assert await call(client, "GET", "/volumes", params={"filters": '{"colour":["red"]}'}) == (
        400,
        {"message": "invalid filter 'colour'"},
    )
    assert (await call(client, "GET", "/volumes", params={"filters": "["}))[0] == 400
    assert (await call(client, "GET", "/volumes", params={"filters": '{"dangling":["maybe"]}'}))[0] == 400


@pytest.mark.parametrize(("minor", "named_goes"), [("41", True), ("42", False)])
async def test_prune_spares_named_volumes_since_1_42(client: Client, minor: str, named_goes: bool) -> None:
    _, anonymous = await call(client, "POST", "/volumes/create", json={})
    await call(client, "POST", "/volumes/create", json={"Name": "named"})
    status, body = await call(client, "POST", "/volumes/prune", headers={"X-Minor": minor})
    assert status == 200
    assert sorted(body["VolumesDeleted"]) == sorted([anonymous["Name"], *(["named"] if named_goes else [])])
    assert body["SpaceReclaimed"] == 0
