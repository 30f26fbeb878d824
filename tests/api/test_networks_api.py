"""The routes of networks over the real service, with fixed networks beneath."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from barque.api.routes.networks import routes
from barque.engine.networks import NetworkService
from barque.errors import BarqueError
from barque.network.model import Endpoint, NetworkInfo, Sandbox

BRIDGE, HOST, NONE = "b" * 64, "c" * 64, "bd" + "0" * 62


class Networks:
    def networks(self) -> list[NetworkInfo]:
        return [NetworkInfo(id=BRIDGE, name="bridge", driver="bridge", created="2026-01-01T00:00:00Z", bridge="brq-1",
                            subnet="172.17.0.0/16", gateway="172.17.0.1", mtu=1500, publish_ip="0.0.0.0"),
                NetworkInfo(id=HOST, name="host", driver="host", created="2026-01-01T00:00:00Z"),
                NetworkInfo(id=NONE, name="none", driver="null", created="2026-01-01T00:00:00Z")]


SANDBOX = Sandbox(container_id="1" * 64, mode="bridge", netns_path="/x", endpoints=(
    Endpoint(network_name="bridge", network_id=BRIDGE, endpoint_id="e" * 64, interface="eth0",
             mac="02:42:ac:11:00:02", ipv4="172.17.0.2", prefix_len=16, gateway="172.17.0.1"),))


@web.middleware
async def errors(request: web.Request, handler: object) -> web.StreamResponse:
    try:
        return await handler(request)  # type: ignore[operator]
    except BarqueError as error:
        return web.json_response({"message": error.message}, status=error.status)


@pytest.fixture
async def client() -> AsyncIterator[TestClient]:
    app = web.Application(middlewares=[errors])
    bare = Sandbox(container_id="2" * 64, mode="none", netns_path="/y")
    app.add_routes(routes(NetworkService(Networks(), lambda: [("web", SANDBOX), ("bare", bare)])))
    async with TestClient(TestServer(app)) as made:
        yield made


async def test_inspect_bridge(client: TestClient) -> None:
    for ref in ("bridge", BRIDGE, "bb"):
        body = await (await client.get(f"/networks/{ref}")).json()
        assert body["Name"] == "bridge" and body["IPAM"]["Config"] == [
            {"Subnet": "172.17.0.0/16", "Gateway": "172.17.0.1"}]
        assert body["Options"]["com.docker.network.bridge.name"] == "brq-1"
        assert body["Containers"] == {"1" * 64: {
            "Name": "web", "EndpointID": "e" * 64, "MacAddress": "02:42:ac:11:00:02", "IPv4Address": "172.17.0.2/16",
            "IPv6Address": ""}}
    none = await (await client.get("/networks/none")).json()
    assert list(none["Containers"]) == ["2" * 64] and none["Driver"] == "null"


async def test_unknown_and_ambiguous(client: TestClient) -> None:
    answer = await client.get("/networks/nope")
    assert (answer.status, await answer.json()) == (404, {"message": "network nope not found"})
    assert (await client.get("/networks/b")).status == 400


@pytest.mark.parametrize(("filters", "names"), [
    ("", ["bridge", "host", "none"]), ('{"driver":["bridge"]}', ["bridge"]), ('{"name":{"o":true}}', ["host", "none"]),
    ('{"id":["bd"]}', ["none"]), ('{"type":["custom"]}', []), ('{"type":["builtin"],"name":["host"]}', ["host"]),
    ('{"label":["x"]}', []), ('{"dangling":["true"]}', []), ('{"dangling":["false"],"scope":["local"]}',
                                                             ["bridge", "host", "none"]), ('{"scope":["swarm"]}', []),
])
async def test_filters(client: TestClient, filters: str, names: list[str]) -> None:
    answer = await client.get("/networks", params={"filters": filters})
    assert [item["Name"] for item in await answer.json()] == names


@pytest.mark.parametrize("filters", ['{"colour":["red"]}', "[", '{"type":["odd"]}', '{"dangling":["maybe"]}'])
async def test_bad_filters(client: TestClient, filters: str) -> None:
    assert (await client.get("/networks", params={"filters": filters})).status == 400


async def test_refusals(client: TestClient) -> None:
    assert (await client.post("/networks/create", json={"Name": "mine"})).status == 501
    assert (await client.post("/networks/create", json={"Name": "host"})).status == 403
    assert (await client.post("/networks/create", data=b"{")).status == 400
    answer = await client.delete("/networks/bridge")
    assert (answer.status, (await answer.json())["message"]) == (
        403, "bridge is a pre-defined network and cannot be removed")
    assert (await client.post("/networks/bridge/connect", json={"Container": "x"})).status == 501
    assert (await client.post("/networks/nope/disconnect", json={"Container": "x"})).status == 404
    assert await (await client.post("/networks/prune")).json() == {"NetworksDeleted": None}
